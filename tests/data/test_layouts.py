import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grad.data.images import load_mask
from grad.data.layouts import find_dataset
from grad.system.errors import GradError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(path, size=(8, 6), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


def make_class(folder, masks="{}_mask.png"):
    """A class of three training images, one good test image and two defects."""
    for name in ("000", "001", "002"):
        write(folder / "train" / "good" / f"{name}.png")
    write(folder / "test" / "good" / "000.png")
    for name in ("000", "001"):
        write(folder / "test" / "cut" / f"{name}.png")
        if masks:
            write(folder / "ground_truth" / "cut" / masks.format(name), value=1)
    return folder


def counts(dataset):
    return [tuple(vars(row).values())[:5] for row in dataset.summary()]


# MVTec


def test_mvtec_root(tmp_path):
    for name in ("screw", "cable"):
        make_class(tmp_path / name)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert dataset.notes == ()
    assert dataset.classes == ("cable", "screw")
    assert counts(dataset) == [("cable", 3, 1, 2, 2), ("screw", 3, 1, 2, 2)]
    defect = dataset.test[0]
    assert (defect.class_name, defect.split, defect.anomalous, defect.defect) == (
        "cable",
        "test",
        True,
        "cut",
    )
    assert defect.path == tmp_path / "cable" / "test" / "cut" / "000.png"
    assert defect.mask == tmp_path / "cable" / "ground_truth" / "cut" / "000_mask.png"
    assert all(s.mask is None and s.defect == "good" for s in dataset.train)
    assert find_dataset(tmp_path) == dataset


@pytest.mark.parametrize("masks", ["{}.png", "{}_mask.bmp", "{}.tif", "{}_mask.PNG"])
def test_mask_names_of_mvtec_variants(tmp_path, masks):
    dataset = find_dataset(make_class(tmp_path / "screw", masks))
    assert counts(dataset) == [("screw", 3, 1, 2, 2)]
    assert dataset.notes == ()


def test_single_mvtec_class(tmp_path, monkeypatch):
    folder = make_class(tmp_path / "screw")
    assert find_dataset(folder).layout == "mvtec class"
    monkeypatch.chdir(folder)
    assert find_dataset(".").classes == ("screw",)


def test_classes_are_picked_and_the_others_not_looked_at(tmp_path):
    make_class(tmp_path / "screw")
    write(tmp_path / "broken" / "test" / "cut" / "000.png")
    assert find_dataset(tmp_path, ["screw"]).classes == ("screw",)
    with pytest.raises(GradError, match=r"--classes names nut, .* choose among broken, screw\."):
        find_dataset(tmp_path, ["screw", "nut"])


def test_no_masks_at_all_is_a_note(tmp_path):
    dataset = find_dataset(make_class(tmp_path / "screw", masks=None))
    assert dataset.notes == ("screw has no masks: it gets image metrics only.",)


def test_some_masks_missing_is_a_note_and_strict_an_error(tmp_path):
    folder = make_class(tmp_path / "screw")
    (folder / "ground_truth" / "cut" / "001_mask.png").unlink()
    (note,) = find_dataset(folder).notes
    assert "1 of 2 defect images have no mask" in note
    assert "test/cut/001.png" in note
    with pytest.raises(GradError, match="--strict"):
        find_dataset(folder, strict=True)


def test_mask_of_another_size(tmp_path):
    folder = make_class(tmp_path / "screw")
    write(folder / "ground_truth" / "cut" / "001_mask.png", size=(8, 7))
    with pytest.raises(GradError, match=r"001_mask\.png has 7 x 8 pixels, its image .* has 6 x 8"):
        find_dataset(folder)


def test_mask_without_its_image(tmp_path):
    folder = make_class(tmp_path / "screw")
    write(folder / "ground_truth" / "cut" / "007_mask.png")
    with pytest.raises(GradError, match=r"007_mask\.png has no image in .*cut"):
        find_dataset(folder)


def test_masks_of_a_kind_without_images(tmp_path):
    folder = make_class(tmp_path / "screw")
    write(folder / "ground_truth" / "bent" / "000_mask.png")
    with pytest.raises(GradError, match=r"bent/000_mask\.png has no image"):
        find_dataset(folder)


def test_masks_of_good_images_are_ignored(tmp_path):
    folder = make_class(tmp_path / "screw")
    write(folder / "ground_truth" / "good" / "000_mask.png")
    assert counts(find_dataset(folder)) == [("screw", 3, 1, 2, 2)]


def test_unreadable_mask_is_an_error(tmp_path):
    folder = make_class(tmp_path / "screw")
    (folder / "ground_truth" / "cut" / "001_mask.png").write_bytes(b"x")
    with pytest.raises(GradError, match=r"001_mask\.png can't be read"):
        find_dataset(folder)


def test_unreadable_image_is_left_to_decoding(tmp_path):
    folder = make_class(tmp_path / "screw")
    (folder / "test" / "cut" / "001.png").write_bytes(b"x")
    assert counts(find_dataset(folder)) == [("screw", 3, 1, 2, 2)]


def test_only_defects(tmp_path):
    write(tmp_path / "screw" / "test" / "cut" / "000.png")
    for root in (tmp_path, tmp_path / "screw"):
        with pytest.raises(GradError, match=r"Class screw in .* has no good training images"):
            find_dataset(root)


def test_single_training_image(tmp_path):
    write(tmp_path / "screw" / "train" / "good" / "000.png")
    with pytest.raises(GradError, match=r"single training image, .*good/000\.png"):
        find_dataset(tmp_path)


def test_no_test_images_is_a_note(tmp_path):
    for name in ("000", "001"):
        write(tmp_path / "train" / "good" / f"{name}.png")
    (note,) = find_dataset(tmp_path).notes
    assert "no test images: it can be trained, not evaluated" in note


def test_other_train_folders_are_left_out_and_said(tmp_path):
    folder = make_class(tmp_path / "screw")
    write(folder / "train" / "cut" / "000.png")
    dataset = find_dataset(folder)
    assert counts(dataset)[0][1] == 3
    (note,) = dataset.notes
    assert "train/cut is left out" in note
    with pytest.raises(GradError, match="train/cut is left out"):
        find_dataset(folder, strict=True)


def test_other_files_are_counted(tmp_path):
    folder = make_class(tmp_path / "screw")
    for name in ("readme.txt", "Thumbs.db", ".DS_Store", ".hidden.png"):
        (folder / "train" / "good" / name).write_text("x")
    (folder / "license.txt").write_text("x")  # beside the image folders: of no interest
    dataset = find_dataset(folder)
    assert counts(dataset)[0][1] == 3
    assert len(dataset.notes) == 2
    assert "2 files without an image's ending left out" in dataset.notes[0]
    assert "Thumbs.db" in dataset.notes[0]
    assert dataset.notes[1] == "2 hidden files left out."


def test_odd_places_in_a_class_are_said(tmp_path):
    folder = make_class(tmp_path / "screw")
    write(folder / "test" / "loose.png")
    (folder / "test" / "empty").mkdir()
    write(folder / "train" / "good" / "deeper" / "000.png")
    notes = " ".join(find_dataset(folder).notes)
    assert "loose.png is left out" in notes
    assert "test/empty holds no images" in notes
    assert "train/good holds 1 folder, which is not searched" in notes


def test_folders_that_are_no_class_are_said(tmp_path):
    make_class(tmp_path / "screw")
    (tmp_path / "papers").mkdir()
    (tmp_path / ".git").mkdir()
    (note,) = find_dataset(tmp_path).notes
    assert "papers without train and test folders" in note


# VisA


def make_visa(root, rows=()):
    images, masks = Path("candle/Data/Images"), Path("candle/Data/Masks/Anomaly")
    table = []
    for name in ("0000", "0001", "0002"):
        write(root / images / "Normal" / f"{name}.JPG")
        split = "test" if name == "0002" else "train"
        table.append(("candle", split, "normal", images / "Normal" / f"{name}.JPG", ""))
    write(root / images / "Anomaly" / "000.JPG")
    write(root / masks / "000.png", value=3)
    table.append(("candle", "test", "anomaly", images / "Anomaly" / "000.JPG", masks / "000.png"))
    (root / "split_csv").mkdir()
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *table, *rows])
    return root


def test_visa(tmp_path):
    dataset = find_dataset(make_visa(tmp_path))
    assert dataset.layout == "visa"
    assert dataset.notes == ()
    assert counts(dataset) == [("candle", 2, 1, 1, 1)]
    defect = next(sample for sample in dataset.test if sample.anomalous)
    assert defect.defect == "anomaly"
    assert load_mask(defect.mask).all()  # values 0..N, here 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("candle", "val", "normal", "a.JPG", ""), r"1cls\.csv, line 6: split is 'val'"),
        (("candle", "test", "bad", "a.JPG", ""), "label 'bad'"),
        (("candle", "test", "normal", "../a.JPG", ""), "no path inside"),
        (("candle", "test", "anomaly", "a.JPG", "/a.png"), "no path inside"),
        (("candle", "test", "normal", "", ""), "no path inside"),
        (("", "test", "normal", "a.JPG", ""), "object is empty"),
        (("nut", "test", "normal", "candle/Data/Images/Normal/0000.JPG", ""), "Class nut in"),
    ],
)
def test_visa_rows_that_are_wrong(tmp_path, row, words):
    with pytest.raises(GradError, match=words):
        find_dataset(make_visa(tmp_path, [row]))


def test_visa_files_that_are_missing_are_counted(tmp_path):
    rows = [("candle", "train", "normal", "candle/9.JPG", "")]
    make_visa(tmp_path, rows)
    (note,) = find_dataset(tmp_path).notes
    assert "candle: 1 listed file missing, first" in note
    with pytest.raises(GradError, match=r"9\.JPG .*--strict"):
        find_dataset(tmp_path, strict=True)


def test_visa_anomalous_training_image_is_left_out(tmp_path):
    rows = [("candle", "train", "anomaly", "candle/Data/Images/Anomaly/000.JPG", "")]
    dataset = find_dataset(make_visa(tmp_path, rows))
    assert not any(sample.anomalous for sample in dataset.train)
    assert "anomalous and for training" in dataset.notes[0]


def test_visa_table_with_a_missing_column(tmp_path):
    make_visa(tmp_path)
    (tmp_path / "split_csv" / "1cls.csv").write_text("object,split,image\ncandle,train,a.JPG\n")
    with pytest.raises(GradError, match="has no column label, mask"):
        find_dataset(tmp_path)


def test_visa_table_that_is_binary(tmp_path):
    make_visa(tmp_path)
    (tmp_path / "split_csv" / "1cls.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(GradError, match="no table of comma-separated values"):
        find_dataset(tmp_path)


def test_visa_without_its_table(tmp_path):
    make_visa(tmp_path)
    (tmp_path / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(GradError, match=r"looks like VisA, but .*1cls\.csv is missing"):
        find_dataset(tmp_path)


# A plain folder, and no layout at all


def test_plain_folder(tmp_path):
    for name in ("b.png", "a.jpg", "c.TIF"):
        write(tmp_path / "parts" / name)
    dataset = find_dataset(tmp_path / "parts")
    assert dataset.layout == "folder"
    assert [sample.path.name for sample in dataset.train] == ["a.jpg", "b.png", "c.TIF"]
    assert counts(dataset) == [("parts", 3, 0, 0, 0)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir(), "is empty"),
        (lambda p: (p / ".git").mkdir(parents=True), "is empty"),
        (lambda p: (p / "pictures").mkdir(parents=True), r"no layout .*\(found pictures\)"),
        (lambda p: write(p / "a.png"), "single training image"),
    ],
)
def test_no_layout(tmp_path, make, words):
    make(tmp_path / "data")
    with pytest.raises(GradError, match=words) as caught:
        find_dataset(tmp_path / "data")
    assert str(tmp_path / "data") in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared images")
def test_real_images():
    dataset = find_dataset(SHARED, ["transistor", "bottle", "leather"])
    assert counts(dataset) == [
        ("bottle", 183, 31, 63, 0),
        ("leather", 4, 4, 11, 11),
        ("transistor", 213, 60, 40, 40),
    ]
    assert dataset.notes == ("bottle has no masks: it gets image metrics only.",)


# Names that people give


@pytest.mark.parametrize("name", ["OK", "ok", "Good", "normal", "NORMAL"])
def test_good_images_under_other_names(tmp_path, name):
    folder = make_class(tmp_path / "screw")
    (folder / "test" / "good").rename(folder / "test" / name)
    (folder / "train" / "good").rename(folder / "train" / name)
    dataset = find_dataset(tmp_path)
    assert counts(dataset) == [("screw", 3, 1, 2, 2)] and dataset.notes == ()
    assert {sample.defect for sample in dataset.test} == {"good", "cut"}


def test_what_lies_beside_the_known_folders_is_said(tmp_path):
    folder = make_class(tmp_path / "can")
    write(folder / "more" / "good" / "0.png")
    write(folder / "loose.png")
    (note,) = find_dataset(tmp_path).notes
    assert "loose.png and 1 more are left out" in note
    with pytest.raises(GradError, match=r"loose\.png"):
        find_dataset(tmp_path, strict=True)


def test_good_images_in_subfolders_of_a_plain_folder(tmp_path):
    for day in ("monday", "tuesday"):
        write(tmp_path / day / "a.png")
    (tmp_path / "notes").mkdir()
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "folder" and len(dataset.train) == 2 and not dataset.test
    assert any("monday, tuesday are taken as good ones" in note for note in dataset.notes)
    assert any("notes is left out" in note for note in dataset.notes)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", "a\nb", "a\x1b[31m", "a\\b"])
def test_a_class_is_one_part_of_a_path(tmp_path, name):
    """Results of a class go to a folder of its name."""
    image = "candle/Data/Images/Normal/0000.JPG"
    with pytest.raises(GradError, match="can't be the name of a class"):
        find_dataset(make_visa(tmp_path, [(name, "train", "normal", image, "")]))


def test_links_out_of_the_data_folder_are_refused(tmp_path):
    write(tmp_path / "secret.png")
    root = tmp_path / "data"
    root.mkdir()
    make_visa(root, [("candle", "test", "normal", "link.png", "")])
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(GradError, match="a link to a place outside"):
        find_dataset(root)
