import csv
import json

import numpy as np
import pytest
from PIL import Image

from grad.data.layouts import find_dataset
from grad.features.split import fold_images
from grad.system.errors import GradError

HEADER = "image,label,class,split,mask,group"


@pytest.fixture
def root(tmp_path):
    """A folder of ten images and two masks."""
    for name in [*(f"{i}.png" for i in range(10)), "m.png", "Größe, 1.png", "sub/a.png"]:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 6), 7, np.uint8)).save(path)
    return tmp_path / "data"


def write(root, *lines, name="manifest.csv", end="\n", encoding="utf-8"):
    path = root / name
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def found(dataset):
    return {s.path.name: (s.class_name, s.defect) for s in dataset.train + dataset.test}


TRAIN = ("0.png,good,bolt,train,,", "1.png,good,bolt,train,,")


def test_all_columns(root):
    lines = (
        HEADER,
        *TRAIN,
        "2.png,OK,bolt,val,,day 2",
        "3.png,good,bolt,Test,,",
        "4.png,crack,bolt,testing,m.png,",
    )
    dataset = find_dataset(write(root, *lines))
    assert (dataset.layout, dataset.root) == ("manifest", root)
    assert [s.path.name for s in dataset.train] == ["0.png", "1.png"]
    (kept,) = dataset.validation
    assert (kept.path.name, kept.group, kept.split) == ("2.png", "day 2", "train")
    crack, good = dataset.test
    assert (crack.defect, crack.mask, crack.anomalous) == ("crack", root / "m.png", True)
    assert good.defect == "good" and not good.anomalous
    assert find_dataset(root) == dataset


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_forms_of_csv(root, end, encoding, separator):
    lines = (
        HEADER,
        *TRAIN,
        '"Größe, 1.png",good,Schraube M5,train,,',
        "3.png,good,Schraube M5,train,,",
    )
    rows = [next(csv.reader([line])) for line in lines]
    path = root / "manifest.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=separator, lineterminator=end).writerows(rows)
    dataset = find_dataset(root)
    assert dataset.classes == ("Schraube M5", "bolt") and not dataset.test
    assert "Größe, 1.png" in found(dataset)


def test_json_lines(root):
    rows = [
        {"image": "0.png", "label": 0},
        {"image": "1.png", "label": "good"},
        {"image": "2.png", "label": 1, "split": "test", "mask": "m.png", "boxes": [1, 2]},
        {"image": "3.png", "label": True, "split": "test", "mask": None},
        {"image": "Größe, 1.png", "label": False, "split": None},
    ]
    path = write(root, *(json.dumps(row) for row in rows), "", name="list.jsonl")
    dataset = find_dataset(path)
    assert dataset.classes == ("data",)
    assert [(s.path.name, s.mask is not None) for s in dataset.test] == [
        ("2.png", True),
        ("3.png", False),
    ]
    assert {s.defect for s in dataset.test} == {"defect"} and len(dataset.train) == 3


def test_defaults_of_columns(root):
    """Only images: all good, one class. Masks alone tell defects. No split: every fifth good."""
    plain = find_dataset(write(root, "Image", *(f"{i}.png" for i in range(10))))
    assert len(plain.train) == 10 and not plain.test and plain.classes == ("data",)
    lines = [f"{i}.png,{'m.png' * (i == 9)}" for i in range(10)]
    dataset = find_dataset(write(root, "file,mask", *lines))
    assert [s.path.name for s in dataset.train] == [f"{i}.png" for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert [(s.path.name, s.anomalous) for s in dataset.test] == [("9.png", True), ("4.png", False)]
    assert "every fifth image is, 1 of 9" in " ".join(dataset.notes)


def test_groups_make_folds_and_are_not_divided(root):
    lines = [f"{i}.png,{'NG' if i == 9 else 'OK'},roll {i // 3}" for i in range(10)]
    dataset = find_dataset(write(root, "path,label,group", *lines))
    folds = [{dataset.train[i].group for i in fold} for fold in fold_images(dataset.train)]
    assert folds == [{"roll 0"}, {"roll 1"}, {"roll 2"}]
    by_path = fold_images(dataset.train, "[0-9](?=.png)")
    assert len(by_path) == 5  # a pattern wins


def test_views_of_a_part(root):
    dataset = find_dataset(
        write(
            root,
            "image,split,label,part",
            *(
                f"{i}.png,{'test' if i > 5 else 'train'},{'dent' if i == 9 else 'good'},{i // 2}"
                for i in range(10)
            ),
        )
    )
    assert [(s.path.name, s.part) for s in dataset.test if s.anomalous] == [("9.png", "4")]
    assert len(fold_images(dataset.train)) == 3


def test_paths(root, tmp_path):
    write(root, "image", "sub\\a.png", f"{root}/0.png", name="here.csv")
    dataset = find_dataset(root / "here.csv")
    assert {s.path.name for s in dataset.train} == {"a.png", "0.png"}
    other = write(tmp_path, "image", "data/0.png", "data/../data/1.png", name="above.csv")
    assert len(find_dataset(other).train) == 2


def test_a_manifest_that_is_found_stays_in_its_folder(root, tmp_path):
    """One that is given by name was looked at; one that lies in a folder comes with it."""
    Image.new("L", (4, 4)).save(tmp_path / "secret.png")
    for entry in ("../secret.png", str(tmp_path / "secret.png")):
        path = write(root, "image", entry, "0.png")
        with pytest.raises(GradError, match=r"line 2, column image: .* is no path inside"):
            find_dataset(root)
        assert len(find_dataset(path).train) == 2
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    write(root, "image", "link.png")
    with pytest.raises(GradError, match="a link to a place outside"):
        find_dataset(root)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((HEADER, ",good,bolt,train,,"), "line 2, column image: there is no path"),
        ((HEADER, *TRAIN, "2.png,,bolt,train,,"), "line 4, column label: '' is no label"),
        ((HEADER, "2.png,a\x1b[1mb,bolt,,,"), "line 2, column label"),
        ((HEADER, "2.png,good,,train,,"), "line 2, column class: '' can't be the name"),
        ((HEADER, "2.png,good,a/b,train,,"), "line 2, column class: 'a/b' can't be"),
        ((HEADER, "2.png,good,bolt,tset,,"), "line 2, column split: 'tset' is none of train, val"),
        ((HEADER, *TRAIN, "0.png,good,bolt,test,,"), r"line 4: .*0\.png is in line 2 too"),
        (
            (HEADER, "a,b.png,good,bolt,train,,"),
            "line 2: 7 values for 6 columns: put values .* quotes",
        ),
        (("label,split", "good,train"), "line 1: no column image among label, split"),
        (("image,path", "0.png,1.png"), "line 2: two columns image"),
        (("image,image", "0.png,1.png"), "line 2: two columns image"),
        ((HEADER, '"0.png,good'), "single training image|no label"),
        (
            (HEADER, "x" * 5000 + ".png,good,bolt,train,,"),
            "line 2, column image: .* can't be a path",
        ),
        ((HEADER,), "lists no images"),
        ((), "no column image among none"),
    ],
)
def test_lines_that_are_wrong(root, lines, words):
    with pytest.raises(GradError, match=words):
        find_dataset(write(root, *lines))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: no JSON object"),
        ("[1]", "line 2: no JSON object"),
        ("[" * 100000, "line 2: no JSON object"),
        ('{"label": "good"}', "line 2, column image: there is no path"),
        ('{"image": ["0.png"]}', "line 2, column image: give a text or a number"),
        ('{"image": "a\\u0000b"}', "line 2, column image: .* can't be a path"),
    ],
)
def test_json_lines_that_are_wrong(root, line, words):
    with pytest.raises(GradError, match=words):
        find_dataset(write(root, '{"image": "0.png"}', line, name="manifest.jsonl"))


def test_files_that_are_no_manifest(root):
    for name in ("list.csv", "list.jsonl"):
        (root / name).write_bytes(b"image\n\xff\xfe\x00\x81\n")
        with pytest.raises(GradError, match="no text in UTF-8"):
            find_dataset(root / name)
    with pytest.raises(GradError, match=r"is a file: give the folder .* or a table"):
        find_dataset(root / "0.png")
    write(root, "image", "0.png")
    write(root, "{}", name="manifest.jsonl")
    with pytest.raises(GradError, match=r"manifest\.csv and manifest\.jsonl: keep one"):
        find_dataset(root)


def test_what_is_not_used_is_said(root):
    lines = (
        HEADER + ",camera",
        *(line + ",3" for line in TRAIN),
        "2.png,crack,bolt,train,,,3",
        "77.png,good,bolt,test,,,3",
        "3.png,crack,bolt,test,78.png,,3",
    )
    path = write(root, *lines)
    dataset = find_dataset(path)
    text = " ".join(dataset.notes)
    for words in (
        "columns not used: camera",
        "8 images beside listed ones not in manifest.csv, the first is",
        "bolt: 1 image left out, anomalous and not for testing, first",
        "bolt: 2 listed files missing, first",
        "line 4",
    ):
        assert words in text, words
    assert [s.path.name for s in dataset.test] == ["3.png"]
    with pytest.raises(GradError, match="--strict"):
        find_dataset(path, strict=True)


def test_other_class_problems_do_not_matter(root):
    path = write(root, HEADER, *TRAIN, "2.png,crack,nut,test,,")
    assert find_dataset(path, ["bolt"]).classes == ("bolt",)
    with pytest.raises(GradError, match=r"Class nut in .* has no good training images"):
        find_dataset(path)


def test_a_region_of_interest_is_no_image_of_a_table(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "a/roi.png")
    (tmp_path / "manifest.csv").write_text("image\na/roi.png\n")
    with pytest.raises(GradError, match=r"line 2, column image: a/roi.png is a region of interest"):
        find_dataset(tmp_path)
