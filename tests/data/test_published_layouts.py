"""What is found in data sets of all layouts, and what of each is particular."""

import json

import pytest
from helpers.layouts import (
    MADE,
    SIZE,
    kolektor_sdd,
    kolektor_sdd2,
    manifest,
    mpdd,
    mvtec_ad_2,
    mvtec_loco,
    real_iad,
    write,
)

from grad.data.images import load_mask
from grad.data.layouts import find_dataset, survey_dataset
from grad.data.layouts.known import LAYOUTS
from grad.data.leave_out import leave_out, write_list
from grad.data.samples import few_shot
from grad.data.survey import check_masks, survey_images
from grad.data.white_level import with_white_level
from grad.features.split import fold_images
from grad.system.errors import GradError


def counts(dataset):
    return {
        row.name: (row.train, row.validation, row.test_good, row.test_anomalous, row.masks)
        for row in dataset.summary()
    }


@pytest.fixture(params=MADE, ids=lambda make: make.__name__)
def made(request, tmp_path):
    layout, found = request.param(tmp_path)
    below = tmp_path / next(iter(found))
    return below if layout.startswith("kolektor") else tmp_path, layout, found


def test_what_is_found(made):
    root, layout, expected = made
    dataset = find_dataset(root)
    assert (dataset.layout, counts(dataset)) == (layout, expected)
    assert any(layout in row.names for row in LAYOUTS)
    assert find_dataset(root, strict=True) == dataset  # nothing is odd
    assert all(not s.anomalous and s.split == "train" for s in dataset.train + dataset.validation)
    paths = [sample.path for sample in dataset.samples]
    assert len(set(paths)) == len(paths)
    for sample in dataset.test:
        assert sample.mask is None or load_mask(sample.mask, SIZE).any()
    survey = survey_images(dataset)
    assert len(survey.images) == len(paths) and not survey.unreadable and not survey.empty_masks
    assert survey_dataset(root) == (dataset, ())


def test_options_go_with_every_layout(made, tmp_path):
    root, _, expected = made
    dataset = find_dataset(root)
    name = dataset.classes[-1]
    one = dataset.select([name])
    assert one == find_dataset(root, [name]) or one.notes != ()
    assert list(counts(one)) == [name]
    few = few_shot(one, 2, seed=0)
    assert len(few.train) == 2 and few.test == one.test and few.validation == one.validation
    out = tmp_path / "oddest.txt"
    write_list(out, dataset.root, [one.train[0].path.absolute()])
    assert leave_out(one, out).train == one.train[1:]
    check_masks(one.with_mask_rule("half"))
    level, more = with_white_level(one, 4095, 1, one.validation)
    assert {s.white_level for s in level.train + level.test + more} == {4095}
    assert [s.group for s in level.train] == [s.group for s in one.train]
    with pytest.raises(GradError, match="--classes names other"):
        find_dataset(root, ["other"])
    assert len(expected) == len(dataset.classes)


# What is particular


def test_what_of_mvtec_ad_2_is_not_used_is_said(tmp_path):
    mvtec_ad_2(tmp_path)
    can, fabric = find_dataset(tmp_path).notes
    assert can == "can: test_private and test_private_mixed come without labels: not used."
    assert fabric.startswith("fabric")
    assert find_dataset(tmp_path / "can").layout == "mvtec ad 2 class"


def test_test_wins_over_test_public(tmp_path):
    mvtec_ad_2(tmp_path)
    write(tmp_path / "can/test/good/0.png")
    dataset = find_dataset(tmp_path / "can")
    assert counts(dataset) == {"can": (4, 2, 1, 0, 0)}
    assert any("test_public is left out" in note for note in dataset.notes)


def test_masks_of_an_image_are_joined(tmp_path):
    mvtec_loco(tmp_path)
    sample = next(s for s in find_dataset(tmp_path).test if s.path.parts[-2:] == LOGICAL)
    assert sample.mask == tmp_path / "pushpins/ground_truth/logical_anomalies/001"
    assert load_mask(sample.mask).nonzero().tolist() == [[0, 3], [1, 3]]
    assert load_mask(sample.mask, (16, 12)).sum() == 8


LOGICAL = ("logical_anomalies", "001.png")


def test_one_of_several_masks_is_wrong(tmp_path):
    mvtec_loco(tmp_path)
    masks = tmp_path / "pushpins/ground_truth/logical_anomalies"
    write(masks / "001/001.png", size=(5, 5))
    with pytest.raises(GradError, match=r"001/001\.png has 5 x 5 pixels"):
        find_dataset(tmp_path)
    with pytest.raises(GradError, match="001 can't be read: sizes differ in it"):
        load_mask(masks / "001")
    (masks / "001/001.png").write_bytes(b"x")
    with pytest.raises(GradError, match=r"001/001\.png can't be read"):
        find_dataset(tmp_path)


def test_a_folder_of_masks_without_its_image(tmp_path):
    mvtec_loco(tmp_path)
    (tmp_path / "pushpins/test/logical_anomalies/001.png").unlink()
    with pytest.raises(GradError, match=r"logical_anomalies/001 has no image"):
        find_dataset(tmp_path)


def test_an_empty_folder_of_masks_is_none(tmp_path):
    mvtec_loco(tmp_path)
    for mask in (tmp_path / "pushpins/ground_truth/logical_anomalies/001").iterdir():
        mask.unlink()
    dataset = find_dataset(tmp_path)
    assert counts(dataset)["pushpins"][-2:] == (4, 3)
    assert "1 of 4 defect images have no mask" in dataset.notes[0]


def test_defects_among_the_training_images_of_sdd2_are_not_used(tmp_path):
    kolektor_sdd2(tmp_path)
    (note,) = find_dataset(tmp_path / "KolektorSDD2").notes
    assert "2 defective images in" in note and "learns from good images" in note


def test_items_of_sdd_are_not_divided(tmp_path):
    kolektor_sdd(tmp_path)
    dataset = find_dataset(tmp_path / "KolektorSDD")
    good = {s.group for s in dataset.test if not s.anomalous}
    assert good == {"kos05", "kos10"}
    assert not good & {sample.group for sample in dataset.train}
    assert "every fifth group of images is, 4 of 19" in dataset.notes[0]
    folds = [{dataset.train[i].group for i in fold} for fold in fold_images(dataset.train)]
    assert len(folds) == 5 and sum(map(len, folds)) == 8


def test_masks_beside_images_in_one_folder(tmp_path):
    for i in range(6):
        write(tmp_path / f"{i}.png", i)
    write(tmp_path / "5_mask.png", spot=(1, 1))
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "masks beside images"
    assert counts(dataset) == {tmp_path.name: (4, 0, 1, 1, 1)}
    write(tmp_path / "9_mask.png", spot=(1, 1))
    with pytest.raises(GradError, match=r"9_mask\.png has no image"):
        find_dataset(tmp_path)


def test_a_broken_mask_beside_its_image(tmp_path):
    kolektor_sdd2(tmp_path)
    root = tmp_path / "KolektorSDD2"
    (root / "train/10000_GT.png").write_bytes(b"x")
    (root / "test/30000_GT.png").write_bytes(b"x")
    with pytest.raises(GradError, match=r"10000_GT\.png can't be read"):
        find_dataset(root)
    _, problems = survey_dataset(root)
    assert len(problems) == 2


def test_views_of_a_part(tmp_path):
    real_iad(tmp_path)
    dataset = find_dataset(tmp_path, ["pcb"])
    parts = {sample.part for sample in dataset.test}
    assert parts == {"OK/S0004", "NG/BX/S0005"}
    assert {s.defect for s in dataset.test if s.part == "NG/BX/S0005"} == {"good", "BX"}
    assert all("realiad_1024" in str(sample.path) for sample in dataset.samples)
    assert "not from realiad_256" in dataset.notes[0]
    small = find_dataset(tmp_path / "realiad_256")
    assert all("realiad_256" in str(sample.path) for sample in small.samples)
    folds = [{dataset.train[i].part for i in fold} for fold in fold_images(dataset.train)]
    assert sorted(map(len, folds)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("meta"), "is no list of Real-IAD"),
        (lambda d: d.pop("test"), "is no list of Real-IAD"),
        (lambda d: d.update(train=3), "is no list of Real-IAD"),
        (lambda d: d["test"][1].pop("image_path"), r"pcb\.json, test 2: no image_path"),
        (lambda d: d["test"][1].update(mask_path=7), "test 2: no image_path"),
        (lambda d: d["train"].append("x"), "train 10: no image_path"),
        (lambda d: d["train"][0].update(image_path="../x.png"), "train 1: '../x.png' is no path"),
        (lambda d: d["train"][0].update(image_path="a\0b"), "train 1: .* can't be a path"),
    ],
)
def test_lists_of_real_iad_that_are_wrong(tmp_path, change, words):
    real_iad(tmp_path)
    file = tmp_path / "realiad_jsons/realiad_jsons/pcb.json"
    listed = json.loads(file.read_text(encoding="utf-8"))
    change(listed)
    file.write_text(json.dumps(listed), encoding="utf-8")
    with pytest.raises(GradError, match=words):
        find_dataset(tmp_path, ["pcb"])
    find_dataset(tmp_path, ["audiojack"])


def test_files_of_real_iad_that_are_missing_are_counted(tmp_path):
    real_iad(tmp_path)
    folder = tmp_path / "realiad_1024/pcb"
    next(folder.glob("OK/S0001/*.jpg")).unlink()
    next(folder.glob("NG/BX/S0005/*.png")).unlink()
    dataset = find_dataset(tmp_path, ["pcb"])
    assert counts(dataset) == {"pcb": (8, 0, 4, 2, 1)}
    assert any("pcb: 2 listed files missing, first" in note for note in dataset.notes)


# What people have


@pytest.mark.parametrize(("good", "bad"), [("good", "NG"), ("OK", "ng"), ("Normal", "defect")])
def test_good_beside_defects(tmp_path, good, bad):
    for i in range(10):
        write(tmp_path / good / f"{i}.png", i)
    write(tmp_path / bad / "0.png")
    write(tmp_path / f"ground_truth/{bad}/0.png", spot=(1, 1))
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "good and defects class"
    assert counts(dataset) == {tmp_path.name: (8, 0, 2, 1, 1)}
    assert [s.path.name for s in dataset.test if not s.anomalous] == ["4.png", "9.png"]
    (note,) = dataset.notes
    assert note.endswith("every fifth image is, 2 of 10.")


def test_kinds_of_defects_inside_ng(tmp_path):
    for i in range(5):
        write(tmp_path / f"OK/{i}.png", i)
    for kind in ("scratch", "dent"):
        write(tmp_path / f"NG/{kind}/0.png")
        write(tmp_path / f"NG/{kind}/0_mask.png", spot=(1, 1))
    dataset = find_dataset(tmp_path)
    assert {s.defect for s in dataset.test} == {"good", "scratch", "dent"}
    assert counts(dataset) == {tmp_path.name: (4, 0, 1, 2, 2)}


def test_folders_of_another_name_are_taken_as_defects_and_it_is_said(tmp_path):
    for i in range(5):
        write(tmp_path / f"good/{i}.png", i)
    write(tmp_path / "crack/0.png")
    dataset = find_dataset(tmp_path)
    assert any("images in crack are taken as defects" in note for note in dataset.notes)


def test_good_alone_all_trains(tmp_path):
    for i in range(9):
        write(tmp_path / f"good/{i}.png", i)
    dataset = find_dataset(tmp_path)
    assert counts(dataset) == {tmp_path.name: (9, 0, 0, 0, 0)} and dataset.notes == ()


def test_defects_alone_are_refused(tmp_path):
    write(tmp_path / "NG/0.png")
    with pytest.raises(GradError, match="holds NG without good images"):
        find_dataset(tmp_path)


def test_masks_beside_the_images_of_mvtec_folders(tmp_path):
    mpdd(tmp_path)
    (tmp_path / "bracket_black/ground_truth/hole/000_mask.png").unlink()
    write(tmp_path / "bracket_black/test/hole/000_mask.png", spot=(1, 1))
    assert counts(find_dataset(tmp_path)) == {"bracket_black": (3, 0, 1, 2, 2)}


def test_a_manifest_wins_over_folders_and_it_is_said(tmp_path):
    manifest(tmp_path)
    mpdd(tmp_path)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "manifest"
    assert any("looks like mvtec too: it is read as manifest" in n for n in dataset.notes)


def test_every_layout_has_a_test():
    made = {"mvtec ad 2", "mvtec loco", "mvtec", "btad", "kolektor sdd", "kolektor sdd2"}
    made |= {"real-iad", "good and defects", "manifest", "masks beside images", "visa", "folder"}
    names = {name.removesuffix(" class") for row in LAYOUTS for name in row.names}
    assert names == made
