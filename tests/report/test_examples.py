"""Which images are shown, and the pictures of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grad.data.samples import Sample
from grad.report.examples import (
    Example,
    ExamplePicker,
    overview,
    save_examples,
    sheet,
)
from grad.score.thresholds import Threshold
from grad.system.errors import GradError


def sample(folder: Path, name: str, anomalous: bool, *, masked: bool = True) -> Sample:
    """A 60 x 40 test image on disk, and a mask where it is a defect."""
    path = folder / f"{name}.png"
    Image.new("RGB", (60, 40), (90, 120, 150)).save(path)
    mask = None
    if anomalous and masked:
        mask = folder / f"{name}_mask.png"
        pixels = np.zeros((40, 60), np.uint8)
        pixels[10:20, 30:45] = 255
        Image.fromarray(pixels).save(mask)
    return Sample(path, "bolt", "test", anomalous, "bent" if anomalous else "good", mask)


def paths_only(names: str, class_name: str = "bolt") -> list[Sample]:
    """Samples without files: upper case letters are defects."""
    return [Sample(Path(name), class_name, "test", name.isupper()) for name in names]


def picked(picker: ExamplePicker) -> list[tuple[str, str, int]]:
    return [(str(one.sample.path), one.verdict, one.rank) for one in picker.examples()]


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_the_best_and_worst_of_each_class_and_kind_are_picked(batch: int) -> None:
    samples, scores = paths_only("abcdeXYZ"), [3.0, 1.0, 5.0, 2.0, 4.0, 7.0, 0.5, 6.0]
    for order in itertools.islice(itertools.permutations(range(8)), 0, None, 997):
        picker = ExamplePicker()
        for start in range(0, 8, batch):
            chosen = order[start : start + batch]
            values = torch.tensor([scores[i] for i in chosen])
            maps = values[:, None, None].expand(-1, 2, 2)
            picker.add([samples[i] for i in chosen], values, maps)
        best_first = [("X", "best", 1), ("Y", "worst", 1), ("b", "best", 1), ("c", "worst", 1)]
        assert picked(picker) == best_first
        assert all(one.anomaly_map[0, 0] == one.score for one in picker.examples())


def test_ranks_and_merging() -> None:
    whole, left, right = ExamplePicker(2), ExamplePicker(2), ExamplePicker(2)
    samples, scores = paths_only("abcdef"), torch.tensor([2.0, 2.0, 0.0, 9.0, 5.0, 1.0])
    maps = torch.zeros(6, 2, 2)
    whole.add(samples, scores, maps)
    left.add(samples[:4], scores[:4], maps[:4])
    right.add(samples[4:], scores[4:], maps[4:])
    left.merge(right)
    expected = [("c", "best", 1), ("f", "best", 2), ("d", "worst", 1), ("e", "worst", 2)]
    assert picked(whole) == picked(left) == expected
    assert whole.examples()[2].label == "highest-scored good image"
    assert whole.examples()[3].label == "highest-scored good image, no. 2"


def test_one_image_is_shown_once_and_classes_are_apart() -> None:
    picker = ExamplePicker(3)
    maps = torch.zeros(2, 2, 2)
    picker.add(paths_only("aB"), torch.tensor([1.0, 2.0]), maps)
    picker.add(paths_only("xy", "axle"), torch.tensor([1.0, 2.0]), maps)
    expected = [("x", "best", 1), ("y", "worst", 1), ("B", "best", 1), ("a", "best", 1)]
    assert picked(picker) == expected


def test_kept_maps_do_not_keep_their_batch() -> None:
    picker = ExamplePicker()
    maps = torch.zeros(50, 8, 8)
    picker.add(paths_only("a" * 50), torch.arange(50.0), maps)
    for example in picker.examples():
        assert example.anomaly_map.untyped_storage().nbytes() == 8 * 8 * 4


def test_sheets_and_overview_are_written(tmp_path: Path) -> None:
    names = {"good-1": False, "good-2": False, "bent-1": True, "bent-2": True}
    samples = [sample(tmp_path, name, bad) for name, bad in names.items()]
    maps = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0))
    picker = ExamplePicker()
    picker.add(samples, torch.tensor([0.1, 0.4, 0.9, 0.3]), maps)
    files = save_examples(tmp_path / "examples", picker.examples())
    assert [file.relative_to(tmp_path / "examples").as_posix() for file in files] == [
        "overview.png",
        "bolt/defect-best-1.png",
        "bolt/defect-worst-1.png",
        "bolt/good-best-1.png",
        "bolt/good-worst-1.png",
    ]
    on_disk = {path for path in (tmp_path / "examples").rglob("*") if path.is_file()}
    assert on_disk == set(files)
    for file in files:
        with Image.open(file) as picture:
            assert picture.mode == "RGB"
            assert len(np.unique(np.array(picture).reshape(-1, 3), axis=0)) > 20
    first = files[1].read_bytes()
    save_examples(tmp_path / "examples", picker.examples())
    assert files[1].read_bytes() == first


def test_sheets_of_any_text_and_shape(tmp_path: Path) -> None:
    one = sample(tmp_path, "Prüfling-№7-" + "very-long-name-" * 8, True, masked=False)
    picture = sheet(Example(one, 1e-9, torch.rand(9, 30), "worst"))
    assert picture.width > 3 * picture.height  # three 60 x 40 panels side by side
    many = [
        Example(Sample(one.path, f"class {i:02}", "test", i % 2 > 0), 1.0, torch.rand(4, 4))
        for i in range(17)
    ]
    assert overview(many).size[1] > 3 * 5 * 144
    assert overview([]).mode == "RGB"


def test_a_mistake_is_called_that() -> None:
    limit = Threshold(2.0, 3.0, 1.0, 1.0, 50, "", joint=True)
    good, bad = paths_only("aB")
    for one, score, said in (
        (good, 1.0, ""),
        (good, 2.5, "false alarm"),
        (bad, 1.0, "missed"),
        (bad, 2.5, ""),
    ):
        assert Example(one, score, torch.ones(2, 2), limit=limit).mistake == said
        assert Example(one, score, torch.ones(2, 2)).mistake == ""
    assert Example(bad, 1.0, torch.full((2, 2), 4.0), limit=limit).mistake == "", "by a pixel"


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = sample(tmp_path, "gone", False)
    gone.path.unlink()
    with pytest.raises(GradError, match=r"gone\.png"):
        save_examples(tmp_path / "examples", [Example(gone, 1.0, torch.rand(4, 4))])
    assert not any(path.is_file() for path in (tmp_path / "examples").rglob("*"))
