"""Lists of training images: the oddest that a run writes, and those that the next leaves out."""

import json
import shutil

import pytest
from helpers.command import error_of
from helpers.images import make_images
from PIL import Image

from grad.data.layouts import find_dataset
from grad.data.leave_out import leave_out, write_list
from grad.train.__main__ import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes; two of twenty training images of the first are defects."""
    root = tmp_path_factory.mktemp("data")
    make_images(root, classes=("a", "b"), train=18, test=4, size=64)
    for i in range(2):
        shutil.copy(root / f"a/test/dark/a{i}.png", root / f"a/train/good/wrong{i}.png")
    return root


@pytest.fixture
def train(data, tmp_path):
    def call(out, *arguments):
        quick = "--backbone tf_efficientnet_lite0 --preset grad-plus --epochs 2 --image-size 64"
        folders = ["--data", str(data), "--cache", str(tmp_path / "cache"), "--out", str(out)]
        return main([*quick.split(), *folders, "--device", "cpu", *map(str, arguments)])

    return call


def test_defects_among_the_good_images_are_listed_and_left_out(train, data, tmp_path, capsys):
    assert train(tmp_path / "first") == 0
    listed = tmp_path / "first/oddest.txt"
    lines = [line for line in listed.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 2 + 2, "a tenth of each class"
    assert {f"a/train/good/wrong{i}.png" for i in range(2)} <= set(lines)
    with Image.open(tmp_path / "first/examples/oddest.png") as sheet:
        assert sheet.size == (8 + 4 * 152, 8 + 144 + 36 + 8)
    edited = tmp_path / "bad.txt"
    edited.write_text("# looked at\n\n" + "\n".join(line for line in lines if "wrong" in line))
    assert train(tmp_path / "second", "--leave-out", edited) == 0
    assert "2 training images left out" in " ".join(capsys.readouterr().out.split())
    images = json.loads((tmp_path / "second/metrics.json").read_text())["settings"]["images"]
    assert images["a"]["train"] == 18 and images["b"]["train"] == 18


def test_images_of_another_class_are_named_and_listed(train, data, tmp_path, capsys):
    strays = [data / f"b/train/good/from-a{i}.png" for i in range(2)]
    for i, path in enumerate(strays):
        shutil.copy(data / f"a/train/good/a{i}.png", path)
    try:
        assert train(tmp_path / "run") == 0
    finally:
        for path in strays:
            path.unlink()
    said = " ".join(capsys.readouterr().out.split())
    assert "b: 2 training images nearer to a than to the others, such as" in said
    assert said.count("nearer to") == 1
    lines = [x for x in (tmp_path / "run/oddest.txt").read_text().splitlines() if x[0] != "#"]
    assert lines[:2] == [f"b/train/good/from-a{i}.png" for i in range(2)]
    assert len(set(lines)) == len(lines)


def test_names_of_any_kind_come_back(tmp_path):
    names = (
        "plain.png",
        "# no remark.png",
        "two\nlines.png",
        '"quoted".png',
        " space.png",
        "ü.png",
    )
    make_images(tmp_path, classes=("a",), train=1, test=1)
    for name in names:
        shutil.copy(tmp_path / "a/train/good/a0.png", tmp_path / "a/train/good" / name)
    dataset = find_dataset(tmp_path)
    paths = [tmp_path / "a/train/good" / name for name in names]
    write_list(tmp_path / "list.txt", tmp_path, paths)
    rest = leave_out(dataset, tmp_path / "list.txt")
    assert [sample.path.name for sample in rest.train] == ["a0.png"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a/train/good/none.png", "none.png, which is no training image"),
        ("a/test/dark/a0.png", "which is no training image"),
        ("\n".join(f"b/train/good/b{i}.png" for i in range(18)), "all training images of class b"),
        ('"broken', "can't be read"),
        (None, "can't be read"),
    ],
)
def test_a_list_that_does_not_fit_is_one_sentence(text, message, train, tmp_path, capsys):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    assert train(tmp_path / "run", "--leave-out", tmp_path / "list.txt") == 2
    assert message in error_of(capsys)
    assert not (tmp_path / "run").exists()
