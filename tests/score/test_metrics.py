"""The metrics against scikit-learn, ADEval and plain loops; merging; bounds; undefined cases."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from grad.score.metrics.classes import METRICS, ClassMetrics, ClassReport, region_areas, summarize
from grad.score.metrics.pixels import PixelScores, exact_pixels, ordered_keys
from grad.system.errors import GradError


def blobs(seed: int, images: int, size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth positive maps like a model's, masks of two regions in the bad half, and labels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(images, 1, size // 4, size // 4, generator=generator)
    maps = torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")[:, 0]
    masks = torch.zeros(images, size, size, dtype=torch.bool)
    labels = torch.arange(images) >= images // 2
    for index in range(images // 2, images):
        for side in (size // 4, size // 10):
            y, x = torch.randint(0, size - side, (2,), generator=generator).tolist()
            masks[index, y : y + side, x : x + side] = True
    return maps.exp() + 0.6 * masks * torch.rand(images, 1, 1, generator=generator), masks, labels


def metrics_of(maps: Tensor, masks: Any, labels: Tensor, **options: Any) -> ClassMetrics:
    metrics = ClassMetrics("bolt", **options)
    metrics.update(maps, masks, maps.amax(dim=(1, 2)), labels)
    return metrics


def f1_of_sklearn(truth: np.ndarray, score: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, score)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-30)))


def assert_agrees_with_sklearn(report: ClassReport, prefix: str, truth: Any, score: Any) -> None:
    truth, score = np.asarray(truth).ravel(), np.asarray(score).ravel()
    expected = {
        "auroc": roc_auc_score(truth, score),
        "ap": average_precision_score(truth, score),
        "f1max": f1_of_sklearn(truth, score),
    }
    for key, value in expected.items():
        assert report.values[f"{prefix}_{key}"] == pytest.approx(value, abs=1e-9)


def aupro_by_loop(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """One threshold at a time, region by region; regions are found by flood filling."""
    regions = []
    for image, mask in enumerate(masks):
        left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
        while left:
            region, front = [], [left.pop()]
            while front:
                y, x = front.pop()
                region.append((y, x))
                near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
                left -= near
                front += near
            regions.append([maps[image][pixel] for pixel in region])
    good = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        overlap = np.mean([np.mean(np.array(region) >= threshold) for region in regions])
        points.append((float(np.mean(good >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


small_maps = st.integers(0, 2**31 - 1).flatmap(
    lambda seed: st.tuples(st.just(seed), st.sampled_from([2, 3, 12, 10**6]), st.floats(0.05, 0.95))
)


@settings(max_examples=60)
@given(small_maps)
def test_agrees_with_sklearn_and_a_loop_with_ties(drawn: tuple[int, int, float]) -> None:
    seed, levels, share = drawn
    rng = np.random.default_rng(seed)
    masks = rng.random((4, 9, 7)) < share
    masks[0] = False
    masks[1, 4, 4], masks[1, 0, 0] = True, False
    labels = masks.any(axis=(1, 2))
    maps = (rng.integers(0, levels, masks.shape) - levels // 2).astype(np.float32)
    metrics = metrics_of(torch.from_numpy(maps), torch.from_numpy(masks), torch.from_numpy(labels))
    report = metrics.compute()
    assert_agrees_with_sklearn(report, "pixel", masks, maps)
    assert_agrees_with_sklearn(report, "image", labels, maps.max(axis=(1, 2)))
    assert report.values["aupro_30"] == pytest.approx(aupro_by_loop(maps, masks, 0.3), abs=1e-9)
    assert report.values["aupro_5"] == pytest.approx(aupro_by_loop(maps, masks, 0.05), abs=1e-9)
    assert all(value is not None and 0 <= value <= 1 for value in report.values.values())
    assert set(report.error_bounds.values()) == {0.0}


def test_agrees_with_adeval(monkeypatch: pytest.MonkeyPatch) -> None:
    adeval = pytest.importorskip("adeval")
    if not hasattr(np, "trapz"):  # ADEval 1.1 calls it by the name before NumPy 2
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    maps, masks, labels = blobs(0, 24)
    report = metrics_of(maps, masks, labels).compute()
    accumulator = adeval.EvalAccumulator(
        0.0, 3.0, float(maps.min()), float(maps.max()), nstrips=4000
    )
    for anomaly_map, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        accumulator.add_anomap(anomaly_map, mask.astype(np.uint8))
    for score, label in zip(maps.amax(dim=(1, 2)).tolist(), labels.tolist(), strict=True):
        accumulator.add_image(score, label)
        accumulator.add_sample(score, label)
    published = accumulator.summary()
    assert report.values["aupro_30"] == pytest.approx(published["p_aupro"], abs=1e-3)
    assert report.values["pixel_auroc"] == pytest.approx(published["p_auroc"], abs=1e-3)
    assert report.values["pixel_ap"] == pytest.approx(published["p_aupr"], abs=1e-3)


def test_a_perfect_map_and_the_opposite_one() -> None:
    _, masks, labels = blobs(1, 6)
    report = metrics_of(masks.float(), masks, labels).compute()
    assert [report.values[key] for key in METRICS] == [1.0] * len(METRICS)
    report = metrics_of(1 - masks.float(), masks, labels).compute()
    assert report.values["pixel_auroc"] == 0  # not turned over
    assert report.values["aupro_30"] == 0


def test_a_constant_map() -> None:
    _, masks, labels = blobs(2, 6)
    report = metrics_of(torch.full(masks.shape, 0.25), masks, labels).compute()
    assert report.values["image_auroc"] == report.values["pixel_auroc"] == 0.5
    assert report.values["image_ap"] == 0.5
    assert report.values["pixel_ap"] == pytest.approx(masks.float().mean().item())
    assert report.values["aupro_30"] == pytest.approx(0.15)
    assert report.values["aupro_5"] == pytest.approx(0.025)


def test_regions_that_touch_diagonally_are_one() -> None:
    mask = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]], dtype=bool)
    assert region_areas(mask).tolist() == [[3, 3, 0, 0, 1], [0, 0, 3, 0, 0], [0, 0, 0, 0, 1]]
    assert region_areas(np.ones((2, 3), bool)).tolist() == [[6] * 3] * 2
    assert region_areas(np.zeros((2, 3), bool)).tolist() == [[0] * 3] * 2


def test_small_regions_weigh_as_much_as_large_ones() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, :10, :10] = True
    mask[0, 15, 15] = True
    found = torch.zeros(1, 20, 20)
    found[0, 15, 15] = 1
    report = metrics_of(found, mask, torch.tensor([True])).compute()
    ramp = 0.5 + 0.5 * 0.3 / 2  # the rest is one tie, a straight line from (0, 1/2) to (1, 1)
    assert report.values["aupro_30"] == pytest.approx(ramp)


@pytest.mark.parametrize("exact_pixels", [None, 30_000, 9_000])
def test_merging_is_the_same_as_one_accumulator(
    exact_pixels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grad.score.metrics.pixels.FOLDED_PIXELS", 7_000)
    maps, masks, labels = blobs(3, 12)
    options = {"exact_pixels": exact_pixels, "bins": 500}
    whole = metrics_of(maps, masks, labels, **options).compute()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    parts = [metrics_of(maps[i], masks[i], labels[i], **options) for i in order.split(5)]
    for part in parts[1:]:
        parts[0].merge(part)
    merged = parts[0].compute()
    for key in METRICS:
        assert merged.values[key] == pytest.approx(whole.values[key], abs=1e-12)
        assert merged.error_bounds[key] == pytest.approx(whole.error_bounds[key], abs=1e-12)
    assert (whole.error_bounds["pixel_auroc"] == 0) == (exact_pixels is None)


def test_computing_does_not_change_the_state() -> None:
    maps, masks, labels = blobs(4, 8)
    options = {"exact_pixels": 10_000, "bins": 300}
    metrics = metrics_of(maps[:6], masks[:6], labels[:6], **options)
    assert metrics.compute() == metrics.compute()
    metrics.update(maps[6:], masks[6:], maps[6:].amax(dim=(1, 2)), labels[6:])
    assert metrics.compute() == metrics_of(maps, masks, labels, **options).compute()


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1), st.sampled_from([3, 40, 1000]))
def test_binned_metrics_are_within_their_bounds(seed: int, bins: int) -> None:
    maps, masks, labels = blobs(seed, 6, size=32)
    exact = metrics_of(maps, masks, labels).compute()
    binned = metrics_of(maps, masks, labels, exact_pixels=0, bins=bins).compute()
    for key in METRICS:
        exact_value, value = exact.values[key], binned.values[key]
        assert exact_value is not None and value is not None
        assert abs(value - exact_value) <= binned.error_bounds[key] + 1e-12


@pytest.mark.parametrize("good_first", [True, False])
def test_bounds_hold_for_the_extreme_orders_of_one_bin(good_first: bool) -> None:
    mask = torch.arange(11).view(1, 1, 11) > 0
    maps = 1.5 + 0.01 * torch.arange(11).view(1, 1, 11) * (-1 if good_first else 1)
    exact = metrics_of(maps, mask, torch.tensor([True])).compute()
    binned = metrics_of(maps, mask, torch.tensor([True]), exact_pixels=0, bins=1).compute()
    for key in METRICS[3:]:
        exact_value, value = exact.values[key], binned.values[key]
        assert exact_value is not None and value is not None
        assert abs(value - exact_value) <= binned.error_bounds[key] + 1e-12


def test_bounds_are_small_with_the_default_bins() -> None:
    maps, masks, labels = blobs(5, 40, size=256)
    binned = metrics_of(maps, masks, labels, exact_pixels=2**19).compute()
    assert binned.error_bounds["pixel_auroc"] > 0
    assert max(binned.error_bounds.values()) < 1e-4


@pytest.mark.parametrize("order", [1, -1])
def test_scores_far_apart_share_the_bins(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros and huge values beside the usual ones: bins lie where there are scores."""
    monkeypatch.setattr("grad.score.metrics.pixels.FOLDED_PIXELS", 3_000)
    maps, masks, labels = blobs(8, 12)
    maps[::3, :4] = 0.0
    maps[5, 7] = 1e30
    maps[7, 8] = -2.0
    exact = metrics_of(maps, masks, labels).compute()
    for bins in (40, 3_000):
        parts = [
            metrics_of(
                maps[i : i + 1], masks[i : i + 1], labels[i : i + 1], exact_pixels=0, bins=bins
            )
            for i in range(12)
        ][::order]
        for part in parts[1:]:
            parts[0].merge(part)
        binned = parts[0].compute()
        whole = metrics_of(maps, masks, labels, exact_pixels=0, bins=bins).compute()
        for key in METRICS[3:]:
            exact_value, value = exact.values[key], binned.values[key]
            assert exact_value is not None and value is not None
            assert value == pytest.approx(whole.values[key], abs=1e-12)
            assert abs(value - exact_value) <= binned.error_bounds[key] + 1e-12
    assert binned.error_bounds["pixel_auroc"] < 5e-3


def test_memory_does_not_grow_with_the_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr("grad.score.metrics.pixels.FOLDED_PIXELS", 1_500)
    pixels = PixelScores(exact_pixels=4_000, bins=256)
    for _ in range(50):
        pixels.add(rng.lognormal(size=900).astype(np.float32), np.arange(900, dtype=np.int32) % 3)
    histogram = pixels._histogram
    assert histogram is not None
    assert 64 < histogram.counts[0].size <= 256
    kept = sum(part.size for part in pixels._kept)
    assert kept == pixels._kept_size <= 1_500
    assert histogram.counts[:2].sum() + kept == 50 * 900


def test_all_classes_together_keep_a_bounded_number_of_pixels() -> None:
    assert exact_pixels(0) == exact_pixels(1) == exact_pixels(8) == 2**24
    for classes in (15, 400):
        assert 0 < exact_pixels(classes) * classes <= 2**27


def test_keys_order_as_scores_do() -> None:
    scores = [-math.inf, -3e38, -2.0, -1e-40, -0.0, 0.0, 1e-45, 1.0, 1.0000001, 3e38, math.inf]
    keys = ordered_keys(np.array(scores, np.float32)).astype(np.int64)
    assert keys[4] == keys[5]
    assert (np.diff(np.delete(keys, 4)) > 0).all()


@pytest.mark.parametrize(
    ("labels", "masks", "image_reason", "pixel_reason"),
    [
        ([], "given", "no test images", "no test images"),
        ([False, False], None, "no defect images to test on", "no defect images to test on"),
        ([True, True], "given", "no good images to test on", ""),
        ([True, True], "full", "no good images to test on", "no good pixels in the test images"),
        ([False, True], None, "", "no masks"),
        ([False, True], "empty", "", "no defect pixels in the masks"),
    ],
)
def test_undefined_metrics_are_none_with_a_reason(
    labels: list[bool], masks: str | None, image_reason: str, pixel_reason: str
) -> None:
    maps = torch.rand(len(labels), 8, 8)
    truth = torch.zeros(len(labels), 8, 8, dtype=torch.bool)
    if masks == "full":
        truth[:] = True
    if masks == "given":
        truth[:, 2:4, 2:4] = torch.tensor(labels, dtype=torch.bool)[:, None, None]
    defect = torch.tensor(labels, dtype=torch.bool)
    report = metrics_of(maps, None if masks is None else truth, defect).compute()
    for key in METRICS:
        reason = image_reason if key.startswith("image") else pixel_reason
        assert (report.values[key] is None) == bool(reason)
        assert report.reasons.get(key, "") == reason


def test_a_defect_without_a_mask_is_left_out_and_named() -> None:
    maps, masks, labels = blobs(6, 4)
    some = metrics_of(maps, [None, None, masks[2], None], labels).compute()
    expected = metrics_of(maps[:3], masks[:3], labels[:3]).compute()
    assert some.values["pixel_auroc"] == expected.values["pixel_auroc"]
    assert "1 of 2" in some.reasons["pixel_auroc"]
    assert "image_auroc" not in some.reasons


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["map", "score"])
def test_scores_that_are_no_numbers_name_the_class(bad: float, where: str) -> None:
    maps, scores = torch.rand(2, 8, 8), torch.rand(2)
    (maps if where == "map" else scores).view(-1)[1] = bad
    with pytest.raises(GradError, match="bolt"):
        ClassMetrics("bolt").update(maps, None, scores, [False, True])


def test_masks_that_do_not_fit_name_the_class() -> None:
    maps, scores = torch.rand(1, 8, 8), torch.rand(1)
    with pytest.raises(GradError, match=r"bolt.*4 x 8.*8 x 8"):
        ClassMetrics("bolt").update(maps, torch.zeros(1, 4, 8) > 0, scores, [True])
    with pytest.raises(GradError, match="good image of class 'bolt'"):
        ClassMetrics("bolt").update(maps, torch.ones(1, 8, 8) > 0, scores, [False])


def test_the_summary_is_plain_json_and_means_skip_undefined_values() -> None:
    maps, masks, labels = blobs(7, 6)
    full = metrics_of(maps, masks, labels).compute()
    bare = metrics_of(maps, None, labels).compute()
    summary = summarize({"bolt": full, "nut": bare})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary["classes"]["bolt"]) == list(METRICS)
    assert summary["classes"]["nut"]["aupro_5"] is None
    assert summary["reasons"] == {"nut": dict.fromkeys(METRICS[3:], "no masks")}
    assert summary["mean"]["aupro_5"] == full.values["aupro_5"]
    assert summary["mean_over"] == {
        **dict.fromkeys(METRICS[:3], 2),
        **dict.fromkeys(METRICS[3:], 1),
    }
    assert summarize({"nut": bare})["mean"]["pixel_ap"] is None


def test_a_part_scores_as_its_worst_view():
    """Two batches and a merge; a part's views may come in any of them; single images are parts."""
    one, other = ClassMetrics("bolt"), ClassMetrics("bolt")
    views = [  # score, anomalous, part
        (0.1, False, "a"),
        (0.6, True, "b"),
        (0.9, False, "b"),
        (0.3, False, "a"),
        (0.7, False, None),
        (0.2, True, "c"),
    ]
    for metrics, some in ((one, views[:2]), (one, views[2:4]), (other, views[4:])):
        scores = torch.tensor([score for score, _, _ in some])
        labels, parts = [bad for _, bad, _ in some], [part for _, _, part in some]
        metrics.update(scores[:, None, None].expand(-1, 4, 4), None, scores, labels, parts=parts)
    one.merge(other)
    report = one.compute()
    truth, score = [0, 1, 0, 1], [0.3, 0.9, 0.7, 0.2]  # a, b, the single one, c
    assert report.values["part_auroc"] == roc_auc_score(truth, score)
    summary = summarize({"bolt": report, "nut": ClassMetrics("nut").compute()})
    assert list(summary["mean"])[3] == "part_auroc" and summary["mean_over"]["part_auroc"] == 1
    assert summary["mean"]["part_auroc"] == report.values["part_auroc"]


def test_parts_of_one_view_are_images():
    metrics = ClassMetrics("bolt")
    maps = torch.rand(2, 4, 4)
    metrics.update(maps, None, torch.rand(2), [False, True], parts=["a", "b"])
    assert "part_auroc" not in metrics.compute().values
    metrics.update(maps, None, torch.rand(2), [True, True], parts=["a", "b"])
    report = metrics.compute()
    assert report.values["part_auroc"] is None
    assert report.reasons["part_auroc"] == "no good and anomalous parts to test on"
