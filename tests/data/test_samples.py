from pathlib import Path

import pytest

from grad.data.demo import demo_dataset
from grad.data.images import load_image, load_mask
from grad.data.samples import Dataset, Sample, few_shot
from grad.system.errors import GradError


@pytest.fixture(scope="module")
def demo():
    return demo_dataset()


def samples(count, class_name="a", root="data"):
    return tuple(
        Sample(Path(root, class_name, f"{i}.png"), class_name, "train") for i in range(count)
    )


def test_demo_set_is_complete(demo):
    assert demo.layout == "mvtec"
    assert demo.notes == ()
    assert [tuple(vars(row).values()) for row in demo.summary()] == [
        ("cookie", 31, 14, 32, 32, 0),
        ("pcb", 100, 30, 40, 40, 0),
    ]


def test_demo_set_decodes(demo):
    for sample in demo.test[::10]:
        assert 0.05 < load_image(sample.path, (64, 64)).mean() < 0.95
    for sample in (s for s in demo.test if s.mask):
        assert 0 < load_mask(sample.mask).float().mean() < 0.5


def test_demo_set_brings_its_licences(demo):
    text = (demo.root / "LICENCES.md").read_text()
    assert "Attribution-ShareAlike 4.0" in text
    assert "Copyright (c) 2019 tangsanli5201" in text


def test_select(demo):
    pcb = demo.select(["pcb"])
    assert pcb.classes == ("pcb",)
    assert len(pcb.train) == 100
    with pytest.raises(GradError, match=r"--classes names pbc, .* choose among cookie, pcb\."):
        demo.select(["pbc"])
    with pytest.raises(GradError, match="--classes is empty"):
        demo.select([])


def test_few_shot_takes_so_many_of_each_class_and_leaves_the_test_set(demo):
    small = few_shot(demo, 4, seed=0)
    assert [row.train for row in small.summary()] == [4, 4]
    assert set(small.train) < set(demo.train)
    assert list(small.train) == [sample for sample in demo.train if sample in small.train]
    assert small.test == demo.test


def test_few_shot_follows_the_seed(demo):
    assert few_shot(demo, 4, seed=0) == few_shot(demo, 4, seed=0)
    assert len({few_shot(demo, 4, seed=seed).train for seed in range(5)}) == 5
    assert set(few_shot(demo, 2, seed=1).train) < set(few_shot(demo, 4, seed=1).train)


def test_few_shot_does_not_depend_on_other_classes_or_on_the_place():
    one = Dataset(Path("data"), "mvtec", samples(20), ())
    two = Dataset(Path("data"), "mvtec", samples(20) + samples(9, "b"), ())
    elsewhere = Dataset(Path("other"), "mvtec", samples(20, root="other"), ())
    names = [[s.path.name for s in few_shot(d, 5, 3).train[:5]] for d in (one, two, elsewhere)]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize(("shots", "words"), [(0, "too small"), (21, "has 20 training images")])
def test_few_shot_refuses(shots, words):
    with pytest.raises(GradError, match=words):
        few_shot(Dataset(Path("data"), "folder", samples(20), ()), shots, seed=0)
