"""The anomaly map and the image score against the formulas they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from grad.score.anomaly_map import anomaly_map, image_score, map_and_score


@pytest.mark.parametrize("size", [(224, 224), (37, 120), (16, 9)])
def test_anomaly_map_is_upsampled_and_box_averaged(size: tuple[int, int]) -> None:
    score = torch.rand(3, 28, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    upsampled = F.interpolate(score[:, None], size=size, mode="bilinear", align_corners=True)
    expected = F.avg_pool2d(upsampled, 21, stride=1, padding=10, count_include_pad=True)[:, 0]
    actual = anomaly_map(score, size)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-6)


def test_zeros_around_the_map_count() -> None:
    smoothed = anomaly_map(torch.ones(1, 8, 8), (64, 64))[0]
    assert smoothed[32, 32] == pytest.approx(1.0)
    assert smoothed[0, 0] == pytest.approx(11 * 11 / 441)


@pytest.mark.parametrize("size", [(224, 224), (32, 32), (50, 33)])
def test_image_score_is_the_largest_window_mean(size: tuple[int, int]) -> None:
    maps = torch.rand(4, *size, generator=torch.Generator().manual_seed(1))
    expected = F.avg_pool2d(maps.double(), 32, stride=1).amax(dim=(1, 2))
    torch.testing.assert_close(image_score(maps), expected.float(), rtol=1e-6, atol=0)


def test_window_shrinks_to_a_small_map() -> None:
    maps = torch.rand(2, 10, 40, generator=torch.Generator().manual_seed(2))
    expected = F.avg_pool2d(maps, (10, 32), stride=1).amax(dim=(1, 2))
    torch.testing.assert_close(image_score(maps), expected)
    assert image_score(torch.tensor([[[3.0]]])).item() == 3.0


def test_an_image_scores_the_same_alone_and_in_a_batch() -> None:
    score = torch.rand(7, 28, 28, generator=torch.Generator().manual_seed(3))
    together = anomaly_map(score, (96, 80))
    for index in range(7):
        alone = anomaly_map(score[index : index + 1], (96, 80))
        assert torch.equal(alone[0], together[index])
        assert torch.equal(image_score(alone)[0], image_score(together)[index])


@pytest.mark.parametrize("size", [(224, 224), (96, 80), (37, 120), (16, 9), (1, 1)])
def test_matrices_do_the_same_in_one_step(size: tuple[int, int]) -> None:
    score = torch.rand(7, 28, 20, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    maps, scores = map_and_score(score, size)
    expected = anomaly_map(score, size)
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores, image_score(expected), rtol=1e-5, atol=1e-6)
    for index in range(7):
        alone = map_and_score(score[index : index + 1], size)
        torch.testing.assert_close(alone[0][0], maps[index], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(alone[1][0], scores[index], rtol=1e-6, atol=1e-7)


def test_half_precision_scores_are_taken_as_float32() -> None:
    score = torch.rand(1, 14, 14).to(torch.bfloat16)
    torch.testing.assert_close(
        anomaly_map(score, (56, 56)), anomaly_map(score.float(), (56, 56)), rtol=0, atol=0
    )


def test_nan_reaches_the_image_score() -> None:
    score = torch.zeros(2, 14, 14)
    score[1, 3, 3] = float("nan")
    scores = image_score(anomaly_map(score, (56, 56)))
    assert scores[0] == 0
    assert scores[1].isnan()
