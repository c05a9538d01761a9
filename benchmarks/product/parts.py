"""What does each part of a model with statistics add to Gaussians of the features alone?

    python benchmarks/bench_parts.py RUN... --data DIR [--cache DIR]

The runs are of one preset and one set of classes, one a seed. They are judged as they are, and with
parts of the score left out; *prediction zero* puts zero in the place of the normal version, so that
residuals are the features themselves, and measures their Gaussians anew: what PaDiM's idea knows of
the same maps, with the same routing to classes.

Two numbers say how well the normal version is one, of the squared distance of standardised features
from it. *Inside over outside*: the mean within masks of defects over that beside them; an identity
shortcut has 1. *New over known*: the mean of good test images over that of training images.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from accuracy.render import grid
from torch import Tensor, nn

from grad.data.images import load_mask
from grad.data.layouts import find_dataset
from grad.detector.checkpoint import LoadedModel, load_checkpoint
from grad.detector.features import features_for
from grad.features.compute import default_cache
from grad.features.features import Features
from grad.model.grad import GRAD
from grad.model.measure import measure_residuals
from grad.score.dataset import evaluate
from grad.score.metrics.classes import summarize
from grad.system.command_line import run_command
from grad.system.errors import GradError

METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro_30": "AUPRO 30 %",
}
ROWS = {
    "the product": ("residual", "turn", "context"),
    "residual x turn": ("residual", "turn"),
    "residual": ("residual",),
    "context": ("context",),
    "features x context (prediction zero)": ("residual", "context"),
    "features (prediction zero)": ("residual",),
}
_BATCH = 16  # images


class Part(nn.Module):
    """Some of the factors of a model's score.

    Args:
        model: with statistics.
        factors: of ``"residual"``, ``"turn"`` (the chord between directions), ``"context"``.
        zero: whether zero stands for the normal version.
    """

    def __init__(self, model: GRAD, factors: Sequence[str], zero: bool) -> None:
        super().__init__()
        self.model, self.factors, self.zero = model, factors, zero

    def predict(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the normal version of the standardised features that are rebuilt."""
        if self.zero:
            return maps.new_zeros(len(maps), self.model.settings.rebuilt, *maps.shape[2:])
        return self.model(maps)

    def loss_and_score(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """As the model's; the loss is none."""
        known = self.model.statistics
        assert known is not None
        prediction = self.predict(maps).permute(0, 2, 3, 1).float()
        features = known.standardise(maps).permute(0, 2, 3, 1).float()
        features, context = features.split(
            [prediction.shape[3], features.shape[3] - prediction.shape[3]], dim=3
        )
        kind = known.nearest(features, context)
        score = torch.ones(features.shape[:3])
        if "residual" in self.factors:
            score = known.residuals.distance(features - prediction, kind)
        if "turn" in self.factors:
            cosine = torch.cosine_similarity(features, prediction, dim=3)
            score = score * ((1 - cosine).clamp_min(0) / 2).sqrt()
        if "context" in self.factors and known.context is not None:
            score = score * known.context.distance(context, kind)
        return score.new_zeros(()), score


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error."""
    return run_command(lambda: _run(arguments))


def judge_parts(
    loaded: LoadedModel, train: Features, test: Features
) -> dict[str, dict[str, float]]:
    """The mean metrics of each row."""
    model = loaded.model
    if model.statistics is None:
        raise GradError("The model has no statistics: give one of --preset grad-plus.")
    zero = copy.deepcopy(model)
    assert zero.statistics is not None
    measure_residuals(zero.statistics, Part(zero, (), True).predict, train)
    found = {}
    for name, factors in ROWS.items():
        is_zero = "zero" in name
        part = Part(zero if is_zero else model, factors, is_zero)
        reports = evaluate(
            part,  # type: ignore[arg-type]
            test,
            loaded.info.image_size,
            (),
            classes=loaded.info.classes,
        )
        found[name] = summarize(reports)["mean"]
    return found


def judge_prediction(model: GRAD, train: Features, test: Features) -> tuple[float, float]:
    """Squared residual inside over outside of masks, and of new over known good images."""
    defects = [i for i, s in enumerate(test.samples) if s.mask is not None]
    good = [i for i, s in enumerate(test.samples) if not s.anomalous]
    ratios = []
    for index in defects:
        residual = _residual(model, test, [index])[0]
        mask = load_mask(test.samples[index].mask or Path(), None, test.samples[index].mask_rule)
        share = nn.functional.adaptive_avg_pool2d(mask[None].float(), residual.shape)[0]
        if 0 < share.sum() < share.numel():
            inside = (residual * share).sum() / share.sum()
            outside = (residual * (1 - share)).sum() / (1 - share).sum()
            ratios.append(float(inside / outside))
    new, known = (
        statistics.fmean(
            float(_residual(model, of, some[i : i + _BATCH]).mean())
            for i in range(0, len(some), _BATCH)
        )
        for of, some in ((test, good), (train, list(range(len(train)))))
    )
    return statistics.median(ratios), new / known


def _residual(model: GRAD, features: Features, indices: Sequence[int]) -> Tensor:
    """(B, H, W): squared distance of standardised features from their normal version."""
    assert model.statistics is not None
    maps = features.batch(indices).float()
    with torch.inference_mode():
        prediction = model(maps).float()
        wanted = model.statistics.standardise(maps)[:, : prediction.shape[1]]
    return (wanted - prediction).square().sum(dim=1)


def _run(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=default_cache())
    given = parser.parse_args(arguments)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    shortcuts = []
    for run in given.runs:
        loaded = load_checkpoint(run)
        data = find_dataset(given.data, loaded.info.classes)
        train = features_for(loaded, data.train, cache=given.cache)
        test = features_for(loaded, data.test, cache=given.cache)
        for name, mean in judge_parts(loaded, train, test).items():
            rows[name].append(mean)
        shortcuts.append(judge_prediction(loaded.model, train, test))
    lines = [["score", *METRICS.values()]]
    for name, means in rows.items():
        lines.append([name, *(_spread([mean[key] for mean in means]) for key in METRICS)])
    print(grid(lines))
    inside, new = zip(*shortcuts, strict=True)
    print(f"inside over outside: {_spread(inside)}; new over known: {_spread(new)}")


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"
