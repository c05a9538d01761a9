"""A trained model gets a region of interest later: its maps are cut, the network sees all it saw.

Maps that are cut are nowhere higher than before. So thresholds that were made from whole images
hold no more false alarms than were asked for, inside any region; but they may be higher than they
need be. A model keeps scores, not maps, so that only further images tell how much.
"""

from __future__ import annotations

from dataclasses import replace

from grad.data.roi import inside
from grad.data.samples import Roi
from grad.detector.checkpoint import LoadedModel, ModelInfo, Update
from grad.score.thresholds import no_thresholds
from grad.system.clock import utc_time
from grad.system.errors import GradError


def with_region(loaded: LoadedModel, roi: Roi | None, class_name: str | None = None) -> LoadedModel:
    """A model that looks at a part of the images of a class; thresholds stay as they are.

    Args:
        loaded: stays as it is.
        roi: not painted; None takes the region away again.
        class_name: one that the model was trained on; None: all of them.

    Raises:
        GradError: no such class; a region of training, which stays; one that is too small, or for
            which thresholds would have to be made; nothing changes; the model has no thresholds.
    """
    info, calibration = loaded.info, loaded.calibration
    if calibration is None:
        raise GradError(no_thresholds("The model"))
    if class_name not in (None, *info.classes):
        raise GradError(
            f"The model was not trained on class {class_name}: choose among "
            f"{', '.join(info.classes)}, or give good images of it with --good."
        )
    names = info.classes if class_name is None else (class_name,)
    changed = _cut(info, roi, names)
    if changed.rois == info.rois:
        raise GradError(
            f"{_classes(names)} had this region of interest before: give another."
            if roi
            else f"{_classes(names)} had no region of interest, and one that is white everywhere "
            "is none: make black what does not count."
        )
    for name in names:
        if _has_scores_inside(info, name) and not _holds(info, name, roi):
            raise GradError(
                f"The threshold of class {name} knows images of a smaller region of interest: give "
                "good images with --good too, or go back with --undo."
            )
    limit = calibration.threshold(class_name).image
    update = Update(utc_time(), class_name, (), (), 0, 0, limit, limit, region=True)
    changed = replace(changed, updates=(*info.updates, update))
    return replace(loaded, info=changed, origin=None)


def in_region(loaded: LoadedModel, roi: Roi | None, class_name: str) -> LoadedModel:
    """The same for a class that is to learn from further images next, which make its threshold.

    What comes of it is recorded then, by :func:`grad.detector.learning.learn` with ``anew``.

    Raises:
        GradError: a region of training, which stays; one that is too small; the class has a
            threshold, and the model no statistics, so that no images make another alone.
    """
    if class_name in loaded.info.classes and loaded.model.statistics is None:
        raise GradError(
            "The model has no statistics, so that the images it learns from can't make a threshold "
            "by themselves: give --roi without --good, or train again with --roi."
        )
    return replace(loaded, info=_cut(loaded.info, roi, (class_name,)), origin=None)


def describe_thresholds(info: ModelInfo) -> str:
    """What thresholds are after :func:`with_region`, and what to do."""
    last = info.updates[-1]
    if not info.is_cut_later(last.class_name):
        return "Thresholds stay: they were made from whole images."
    return (
        "Thresholds stay: they were made from more of each image, so that there are no more false "
        "alarms than were asked for, but they may be too high. Good images make them for the "
        "region: `grad update` with --roi and --good (of presets with statistics), or `grad train` "
        "with --roi."
    )


def _cut(info: ModelInfo, roi: Roi | None, names: tuple[str, ...]) -> ModelInfo:
    size = (info.image_size, info.image_size)
    if roi is not None and not inside(roi, size).any():
        raise GradError(
            f"The region of interest is smaller than a pixel of the {size[1]} x {size[0]} that the "
            "model sees: make it larger."
        )
    for name in names:
        if name in info.rois and info.rois[name].painted:
            raise GradError(
                f"The model was trained inside of a region of interest of class {name} and has "
                "seen nothing else: train again for another region."
            )
    others = {name: known for name, known in info.rois.items() if name not in names}
    mine = {} if roi is None else dict.fromkeys(names, roi)
    return replace(info, rois=dict(sorted((others | mine).items())))


def _has_scores_inside(info: ModelInfo, name: str) -> bool:
    """Whether the class's threshold knows images that were scored inside of its region."""
    mine = [update for update in info.updates if update.class_name in (None, name)]
    regions = [index for index, update in enumerate(mine) if update.region]
    return bool(regions) and any(update.images for update in mine[regions[0] :])


def _holds(info: ModelInfo, name: str, roi: Roi | None) -> bool:
    """Whether a class's region has all of another in it."""
    known, size = info.rois.get(name), (info.image_size, info.image_size)
    if known is None or roi is None:
        return known is None
    return not bool((inside(roi, size) & ~inside(known, size)).any())


def _classes(names: tuple[str, ...]) -> str:
    return f"Class {names[0]}" if len(names) == 1 else f"The classes {', '.join(names)}"
