"""What a trained model learns from further good images, without the old ones at hand.

With statistics the network stays as it is: what good images leave over, and how far that varies, is
measured class by class (:mod:`grad.model.statistics`), and further images count there as if they
had been among the first. Without statistics the class gets a network of its own, trained on from
the one that there was (:mod:`grad.detector.training.continuation`). Either way no class but that
of the images changes.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from grad.detector.checkpoint import LoadedModel, Update
from grad.detector.exemplars import Exemplars, features_of, with_further
from grad.detector.training.continuation import go_on
from grad.features.features import Features
from grad.model.grad import GRAD
from grad.model.measure import insert_class
from grad.score.dataset import further_scores, good_scores, left_out_scores
from grad.score.thresholds import Calibration
from grad.system.errors import GradError

UNSURE = (
    "a model without statistics trains on few images for this, and good images may be called "
    "anomalous more often than before: judge it on others (`grad evaluate`, `grad predict`) before "
    "it goes to work; `grad update --undo` goes back."
)


@dataclass(frozen=True)
class _Learned:
    """A model that knows further images of a class.

    Attributes:
        model: it.
        scores, maxima: image scores and largest map values of the images, as by a model that did
            not know them.
        calibration: of what was known before, for scores of this model.
        exemplars: of this model.
    """

    model: GRAD
    scores: list[float]
    maxima: list[float]
    calibration: Calibration
    exemplars: Exemplars


def learn(
    loaded: LoadedModel,
    features: Features,
    groups: str | None = None,
    console: Console | None = None,
    *,
    anew: bool = False,
) -> LoadedModel:
    """A model that also knows some further good images of a class, or of one more class.

    Of a class that it knows, those that it judged as good also make the threshold, each scored by
    a model without it. False alarms only teach the model: they were picked for their high
    scores, so that as a part of all good images they would count too often.

    Args:
        loaded: with statistics or exemplars; stays as it is.
        features: of the images, all of one class, at least one.
        groups: which images belong together (:func:`grad.features.split.fold_images`).
        console: where progress goes; None for silence.
        anew: whether these images alone, each of them, make the threshold of the class, as it has
            just got a region of interest (:func:`grad.detector.region.in_region`).

    Raises:
        GradError: the model can't learn on, or its thresholds are not made from good images.
    """
    calibration = check_can_learn(loaded)
    name, info = features.samples[0].class_name, loaded.info
    before = calibration.classes.get(name)
    if before is None:
        picked = [False] * len(features)
    else:
        of_images, of_maxima = good_scores(loaded.model, features, info.image_size)
        picked = [*map(before.is_anomalous, of_images[name], of_maxima[name])]
    way = _train_on if loaded.model.statistics is None else _measure
    learned = way(loaded, calibration, features, groups, console)
    counted = [
        [value for value, alarm in zip(values, picked, strict=True) if anew or not alarm]
        for values in (learned.scores, learned.maxima)
    ]
    known = learned.calibration.without(name) if anew else learned.calibration
    after = known.knowing(name, *counted)
    still = map(after.classes[name].is_anomalous, learned.scores, learned.maxima)
    update = Update(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        class_name=name,
        images=tuple(sample.path.name for sample in features.samples),
        digests=_digests(features),
        false_alarms=sum(picked),
        still_alarms=sum(alarm for alarm, was in zip(still, picked, strict=True) if was),
        threshold_before=None if before is None else before.image,
        threshold_after=after.classes[name].image,
        region=anew,
        unsure=loaded.model.statistics is None and before is not None,
    )
    classes = tuple(sorted({*info.classes, name}))
    info = replace(info, classes=classes, updates=(*info.updates, update))
    return LoadedModel(learned.model, loaded.backbone, info, after, learned.exemplars)


def judge_defects(
    learned: LoadedModel, features: Features
) -> tuple[LoadedModel, list[tuple[Path, float]]]:
    """Let the defects that one has raise the threshold of what was learned last, and be judged.

    They train nothing. The threshold never falls to find one, as good images would be called
    anomalous (:meth:`grad.score.thresholds.Calibration.with_defects`).

    Args:
        learned: by :func:`learn`.
        features: of images of defects of the same class.

    Returns:
        The model, and the path and image score of each defect that it misses.
    """
    calibration, update = learned.calibration, learned.info.updates[-1]
    name = update.class_name
    assert calibration is not None and name is not None
    by_class = good_scores(learned.model, features, learned.info.image_size)
    scores = [*zip(*(part[name] for part in by_class), strict=True)]
    calibration = calibration.with_defects(name, scores)
    limit = calibration.classes[name]
    missed = [
        (sample.path, pair[0])
        for sample, pair in zip(features.samples, scores, strict=True)
        if not limit.is_anomalous(*pair)
    ]
    update = replace(
        update,
        threshold_after=limit.image,
        defects=len(features),
        found=len(features) - len(missed),
    )
    info = replace(learned.info, updates=(*learned.info.updates[:-1], update))
    return replace(learned, info=info, calibration=calibration), missed


def _measure(
    loaded: LoadedModel,
    calibration: Calibration,
    features: Features,
    groups: str | None,
    console: Console | None,
) -> _Learned:
    """The same network with statistics that know further images."""
    name, side = features.samples[0].class_name, loaded.info.image_size
    model, classes = copy.deepcopy(loaded.model), sorted({*loaded.info.classes, name})
    assert model.statistics is not None
    kind = classes.index(name)
    if name in loaded.info.classes:
        scores, maxima = further_scores(model, features, side, kind, groups, console)
    else:
        insert_class(model.statistics, model, features, kind)
        scores, maxima = left_out_scores(model, features, side, classes, groups, console)
    return _Learned(model, scores[name], maxima[name], calibration, loaded.exemplars)


def _train_on(
    loaded: LoadedModel,
    calibration: Calibration,
    features: Features,
    groups: str | None,
    console: Console | None,
) -> _Learned:
    """The same with a network that was trained for the class, whose known scores follow it."""
    name, exemplars = (
        features.samples[0].class_name,
        features_of(loaded.exemplars, loaded.info.rois),
    )
    found = go_on(loaded.model, exemplars, features, loaded.info.image_size, groups, console)
    of_images, of_maxima = (
        {**known, name: tuple(factor * value for value in known[name])} if name in known else known
        for known, factor in zip(
            (calibration.good_scores, calibration.good_maxima), found.shift, strict=True
        )
    )
    images = len(calibration.good_scores.get(name, ()))
    return _Learned(
        found.model,
        found.scores,
        found.maxima,
        replace(calibration, good_scores=of_images, good_maxima=of_maxima),
        with_further(loaded.exemplars, features.tiles(), images),
    )


def check_can_learn(loaded: LoadedModel) -> Calibration:
    """The thresholds of a model that can learn on.

    Raises:
        GradError: it can't; says why.
    """
    statistics, calibration = loaded.model.statistics, loaded.calibration
    if statistics is None and set(loaded.exemplars) != set(loaded.info.classes):
        raise GradError(
            "The model keeps no images to learn on with, as it was trained with --no-update or by "
            "an earlier version of GRAD: train it again, or with --preset grad-plus."
        )
    if statistics is not None and not (len(statistics.images) and statistics.images.all()):
        raise GradError(
            "The model was trained by a version of GRAD that did not count its images: train it "
            "again."
        )
    if calibration is None or calibration.method != "good":
        raise GradError(
            "The model's thresholds are not made from good images: `grad evaluate RUN "
            "--false-alarm-rate auto --save` makes them so."
        )
    return calibration


def without_known_images(loaded: LoadedModel, features: Features) -> Features:
    """Those of the images that no update of the model has learned from, each of them once."""
    known = {digest for update in loaded.info.updates for digest in update.digests}
    fresh = []
    for index, digest in enumerate(_digests(features)):
        if digest not in known:
            fresh.append(index)
            known.add(digest)
    return features.subset(fresh)


def _digests(features: Features) -> tuple[str, ...]:
    """Of the content of each image's file; of an image in memory that of its features."""

    def content(index: int, path: Path) -> bytes:
        if path.is_file():
            return path.read_bytes()
        return features.batch([index]).permute(0, 2, 3, 1).contiguous().numpy().tobytes()

    return tuple(
        hashlib.sha256(content(index, sample.path)).hexdigest()[:16]
        for index, sample in enumerate(features.samples)
    )
