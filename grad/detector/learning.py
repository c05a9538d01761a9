"""What a trained model learns from further good images: its statistics and thresholds, at once.

The network stays as it is; what good images leave over, and how far that varies, is measured
class by class (:mod:`grad.model.statistics`), and further images count there as if they had been
among the first. So no old image is needed, and no class but that of the images changes.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from grad.detector.checkpoint import LoadedModel, Update
from grad.features.features import Features
from grad.model.measure import insert_class
from grad.score.dataset import further_scores, good_scores, left_out_scores
from grad.score.thresholds import Calibration
from grad.system.errors import GradError


def learn(
    loaded: LoadedModel,
    features: Features,
    groups: str | None = None,
    console: Console | None = None,
) -> LoadedModel:
    """A model that also knows some further good images of a class, or of one more class.

    Of a class that it knows, those that it judged as good also make the threshold, each scored by
    statistics without it. False alarms only teach the statistics: they were picked for their high
    scores, so that as a part of all good images they would count too often.

    Args:
        loaded: with statistics; stays as it is.
        features: of the images, all of one class, at least one.
        groups: which images belong together (:func:`grad.features.split.fold_images`).
        console: where progress goes; None for silence.

    Raises:
        GradError: the model can't learn on, or its thresholds are not made from good images.
    """
    calibration = check_can_learn(loaded)
    name = features.samples[0].class_name
    model, info = copy.deepcopy(loaded.model), loaded.info
    assert model.statistics is not None
    classes = tuple(sorted({*info.classes, name}))
    kind, is_new = classes.index(name), name not in info.classes
    if is_new:
        insert_class(model.statistics, model, features, kind)
        found = left_out_scores(model, features, info.image_size, classes, groups, console)
        picked = [False] * len(features)
    else:
        limit = calibration.classes[name]
        of_images, of_maxima = good_scores(loaded.model, features, info.image_size)
        picked = [*map(limit.is_anomalous, of_images[name], of_maxima[name])]
        found = further_scores(model, features, info.image_size, kind, groups, console)
    scores, maxima = (part[name] for part in found)
    counted = [i for i, alarm in enumerate(picked) if not alarm]
    after = calibration.knowing(name, [scores[i] for i in counted], [maxima[i] for i in counted])
    still = map(after.classes[name].is_anomalous, scores, maxima)
    update = Update(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        class_name=name,
        images=tuple(sample.path.name for sample in features.samples),
        digests=tuple(_digest(sample.path) for sample in features.samples),
        false_alarms=sum(picked),
        still_alarms=sum(alarm for alarm, was in zip(still, picked, strict=True) if was),
        threshold_before=None if is_new else calibration.classes[name].image,
        threshold_after=after.classes[name].image,
    )
    info = replace(info, classes=classes, updates=(*info.updates, update))
    return LoadedModel(model, loaded.backbone, info, after)


def check_can_learn(loaded: LoadedModel) -> Calibration:
    """The thresholds of a model that can learn on.

    Raises:
        GradError: it can't; says why.
    """
    statistics, calibration = loaded.model.statistics, loaded.calibration
    if statistics is None:
        raise GradError(
            "The model has no statistics of good images to learn with: train it with --preset "
            "grad-plus."
        )
    if not statistics.images.all() or not len(statistics.images):
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
    for index, sample in enumerate(features.samples):
        digest = _digest(sample.path)
        if digest not in known:
            fresh.append(index)
            known.add(digest)
    return features.subset(fresh)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
