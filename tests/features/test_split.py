"""Which good images are learned from and which make thresholds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grad.data.augment import with_variants
from grad.data.samples import Sample, held_out_count, hold_out
from grad.data.validation import find_validation
from grad.features.features import Features
from grad.features.split import fold_images, fold_sources, split_training
from grad.system.errors import GradError


def samples(**counts):
    return tuple(
        Sample(Path("data", name, f"{i:03}.png"), name, "train")
        for name, count in counts.items()
        for i in range(count)
    )


def features(found):
    return Features(found, (), (), tuple((0, row) for row in range(len(found))))


def names(found):
    return [f"{sample.class_name}/{sample.path.stem}" for sample in found]


@pytest.mark.parametrize(
    ("images", "share", "held"),
    [(31, 0.1, 3), (263, 0.1, 26), (15, 0.1, 2), (14, 0.1, 0), (6, 0.4, 2), (5, 0.4, 0), (9, 0, 0)],
)
def test_how_many_are_held_out(images, share, held):
    assert held_out_count(images, share) == held


def test_the_choice_is_stable():
    both = samples(a=40, b=30)
    rest, held = hold_out(both, 0.1, seed=0)
    assert sorted(rest + held) == list(range(70))
    assert [both[i].class_name for i in held] == ["a"] * 4 + ["b"] * 3
    alone = samples(b=30)
    assert names(alone[i] for i in hold_out(alone, 0.1, 0)[1]) == names(both[i] for i in held[4:])
    more = hold_out(both, 0.2, seed=0)[1]
    assert set(held) < set(more)
    assert hold_out(both, 0.1, seed=1)[1] != held
    shuffled = both[::-1]
    assert set(names(shuffled[i] for i in hold_out(shuffled, 0.1, 0)[1])) == set(
        names(both[i] for i in held)
    )


def test_small_classes_are_not_held_out():
    split = split_training(features(samples(large=40, small=5, one=1)), features(()), 0.1, 0)
    assert split.sources == {"large": "held out", "small": "folds", "one": "training"}
    trained, thresholds = set(names(split.training.samples)), names(split.calibration.samples)
    assert {f"small/{i:03}" for i in range(5)} < trained
    assert len(thresholds) == 4 and not trained & set(thresholds)
    assert (split.training_images("large"), split.further_images("large")) == (36, 4)
    assert (split.training_images("small"), split.further_images("small")) == (5, 0)
    one = split.of_classes(["small"])
    assert one.classes == ("small",) and len(one.training) == 5


def test_variants_go_where_their_image_goes_and_are_not_counted():
    images = samples(a=40, b=30)
    alone = split_training(features(images), features(()), 0.1, 0)
    split = split_training(features(with_variants(images, ["flip"])), features(()), 0.1, 0)
    assert split.calibration.samples == alone.calibration.samples
    assert split.training.as_they_come().samples == alone.training.samples
    assert set(names(split.training.samples)) == set(names(alone.training.samples))
    assert len(split.training) == 3 * len(alone.training)
    assert (split.training_images("a"), split.further_images("a")) == (36, 4)
    assert split.sources == alone.sources


@pytest.mark.parametrize("groups", [None, "[0-9]0"])
def test_variants_of_an_image_are_left_out_together(groups):
    images = samples(a=31)
    plain = fold_images(images, groups)
    lit = fold_images(with_variants(images, ["light"]), groups)
    for fold, of_images in zip(lit, plain, strict=True):
        assert [i for i in fold if i < 31] == of_images
        assert sorted({i % 31 for i in fold}) == of_images and len(fold) == 6 * len(of_images)
    one = with_variants(images[:1], ["light", "flip"])
    assert fold_sources(one) == {"a": "training"} and fold_images(one) == [list(range(8))]


def test_without_a_share_all_images_train():
    split = split_training(features(samples(a=40, b=30)), features(()), 0.0, 0)
    assert split.sources == {"a": "folds", "b": "folds"}
    assert (len(split.training), len(split.calibration)) == (70, 0)


@pytest.mark.parametrize(("images", "parts"), [(1, 1), (3, 3), (31, 5)])
def test_folds_part_the_images(images, parts):
    folds = fold_images(samples(a=images))
    assert len(folds) == parts
    assert sorted(i for fold in folds for i in fold) == list(range(images))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_images_of_a_group_are_in_one_fold():
    paths = [f"roll-{i % 7}/{i}.png" for i in range(40)] + ["odd.png", "even.png"]
    found = [Sample(Path(path), "a", "train") for path in paths]
    for pattern in ("roll-[0-9]", "/?roll-([0-9])/"):
        folds = fold_images(found, pattern)
        assert len(folds) == 5
        assert sorted(i for fold in folds for i in fold) == list(range(42))
        homes = {paths[i].split("/")[0]: number for number, fold in enumerate(folds) for i in fold}
        for number, fold in enumerate(folds):
            assert all(homes[paths[i].split("/")[0]] == number for i in fold)
    assert len(fold_images(found[:40], "roll")) == 1, "a single group can't be left out"
    split = split_training(features(tuple(found[:40])), features(()), 0.0, 0, "roll")
    assert split.sources == {"a": "training"}


def test_further_images_leave_all_for_training():
    split = split_training(features(samples(a=40)), features(samples(a=3)), 0.1, 0)
    assert split.sources == {"a": "validation"}
    assert (len(split.training), len(split.calibration)) == (40, 3)
    assert split.further_images("a") == 3


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("place", ["", "good", "train/good", "validation/good"])
def test_where_further_images_may_lie(tmp_path, place):
    for name in ("a", "b"):
        image(tmp_path / name / place / "0.png")
    (tmp_path / "a" / place / "notes.txt").touch()
    found = find_validation(tmp_path, ["a", "b"], ())
    assert names(found) == ["a/0", "b/0"]
    assert not any(sample.anomalous for sample in found)


def test_a_single_class_may_lie_right_in_the_folder(tmp_path):
    image(tmp_path / "0.png")
    assert names(find_validation(tmp_path, ["a"], ())) == ["a/0"]
    with pytest.raises(GradError, match="no images of class a"):
        find_validation(tmp_path, ["a", "b"], ())


def test_wrong_folders_of_further_images(tmp_path):
    with pytest.raises(GradError, match=r"--validation .*nothing is no folder"):
        find_validation(tmp_path / "nothing", ["a"], ())
    path = image(tmp_path / "a" / "0.png")
    with pytest.raises(GradError, match=r"--validation .* is trained on too \(1 such\)"):
        find_validation(tmp_path, ["a"], [Sample(path, "a", "train")])
    with pytest.raises(GradError, match=r"no images of class b: put good ones in .*/b"):
        find_validation(tmp_path, ["a", "b"], ())


def test_what_is_a_single_image_or_group_is_never_left_out():
    assert fold_sources(samples(a=1, b=2)) == {"a": "training", "b": "folds"}
    assert fold_sources(samples(b=2), "[a-z]+$") == {"b": "training"}


def test_a_class_without_further_images_has_folds():
    split = split_training(features(samples(a=9, b=9)), features(samples(a=3)), 0.5, 0)
    assert split.sources == {"a": "validation", "b": "folds"}
    assert len(split.training) == 18 and len(split.calibration) == 3


def test_groups_and_parts_of_samples_are_not_divided():
    found = [replace(s, group=f"roll {i // 3}") for i, s in enumerate(samples(a=6))]
    found += [replace(s, part=f"part {i // 2}") for i, s in enumerate(samples(b=4))]
    found += samples(c=1)
    assert fold_images(found) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9], [10]]
    assert len(fold_images(found, "/([0-9]+)", count=20)) == 6  # a pattern wins
