"""The region of interest: which pixels of an image count; what is outside counts in nothing.

A region is a picture of the images' proportions, white where one looks. What is outside is painted
grey before anything else sees the image, so that neither features nor statistics nor losses depend
on it, and anomaly maps are zero there (:mod:`grad.score.anomaly_map`). A model that was trained on
whole images and got its region later sees all, as it did; then maps alone are cut.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from grad.data.images import UnreadableImage, image_size, load_mask
from grad.data.picture import Picture
from grad.data.samples import ROI_FILE, Dataset, Roi, Sample
from grad.data.scan import count
from grad.system.errors import GradError

_LONGEST = 2048  # pixels, side of a stored region
GREY = 128  # of 255, near the mean of the images that backbones were trained on
_DIM = "#808080"  # over what is outside where an image is shown


def read_roi(path: Path, painted: bool = True) -> Roi | None:
    """The region of interest that a picture draws: where it is brighter than half its brightest.

    Args:
        path: any file that Pillow decodes; larger ones are kept smaller, 2,048 pixels a side.
        painted: whether what is outside is painted over.

    Returns:
        The region; None where it is the whole image.

    Raises:
        GradError: the file can't be read, or is black.
    """
    mask = load_mask(path.expanduser(), rule="half").numpy()
    return _store(mask, f"The region of interest {path}", painted)


def roi_of(picture: Picture, painted: bool = True) -> Roi | None:
    """:func:`read_roi` of a picture that is decoded already."""
    values = np.asarray(picture.rgb()).max(axis=2)
    return _store(values > values.max() / 2, "The region of interest", painted)


def _store(mask: NDArray[np.bool_], who: str, painted: bool) -> Roi | None:
    if not mask.any():
        raise GradError(
            f"{who} is black everywhere, so that nothing would be looked at: make white what "
            "counts."
        )
    if mask.all():
        return None
    picture = Image.fromarray(mask)
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return Roi(base64.b64encode(file.getvalue()).decode("ascii"), painted)


@lru_cache(maxsize=32)
def inside(roi: Roi, size: tuple[int, int]) -> Tensor:
    """Which pixels of an image that was resized to (h, w) lie in a region.

    Those that no pixel outside has any part in: as resizing blends pixels, the region becomes
    smaller by up to one pixel.

    Returns:
        (h, w) bool, shared: not to be changed.
    """
    with Image.open(io.BytesIO(base64.b64decode(roi.mask))) as image:
        outside = Image.fromarray((np.array(image.convert("L")) == 0).astype(np.float32))
    # Weights are never negative, so that a share of 0 is exact, and none is too small to count.
    share = Picture((outside,)).resize(size).bands[0]
    return torch.from_numpy(np.asarray(share) == 0)


def paint_outside(pixels: Tensor, roi: Roi | None, looked_at: Tensor | None) -> Tensor:
    """Grey outside of a region, for the network.

    Args:
        pixels: (..., 3, h, w), floats in [0, 1] or uint8, resized.
        roi: the region; where it is not to be painted, ``pixels`` stay as they are.
        looked_at: (h, w), the part of :func:`inside` that ``pixels`` show.
    """
    if roi is None or looked_at is None or not roi.painted:
        return pixels
    grey = GREY if pixels.dtype == torch.uint8 else GREY / 255
    return torch.where(looked_at.to(pixels.device), pixels, torch.tensor(grey).to(pixels))


def grey_outside(image: Image.Image, roi: Roi | None) -> Image.Image:
    """An RGB image for showing, what is outside of a region dimmed to grey."""
    if roi is None:
        return image
    dim = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, _DIM), 0.7)
    dim.paste(image, mask=Image.fromarray(inside(roi, image.size[::-1]).numpy()))
    return dim


def find_rois(dataset: Dataset, file: Path | None) -> dict[str, Roi]:
    """The regions of a data set's classes: ``CLASS/roi.png``, else one file for all.

    Args:
        dataset: what was found in a folder; where that is one class, ``roi.png`` lies in it.
        file: of ``--roi``.

    Raises:
        GradError: one can't be read, is black, or has other proportions than an image of its class;
            one lies beside several classes, where it would be none's.
    """
    found = {}
    shared = dataset.root / ROI_FILE
    if file is None and len(dataset.classes) > 1 and shared.is_file():
        raise GradError(
            f"{shared} lies beside the folders of {len(dataset.classes)} classes: put it into "
            f"those that it is for, or give it for all with --roi {shared}."
        )
    for name in dataset.classes:
        own = [dataset.root / name / ROI_FILE]
        if len(dataset.classes) == 1:
            own.append(dataset.root / ROI_FILE)
        path = next((path for path in own if path.is_file()), file)
        roi = None if path is None else read_roi(path)
        if path is not None and roi is not None:
            mine = [s for s in dataset.train + dataset.test if s.class_name == name]
            _check_proportions(path, mine)
            found[name] = roi
    return found


def with_rois(
    dataset: Dataset, rois: Mapping[str, Roi], further: Sequence[Sample] = ()
) -> tuple[Dataset, tuple[Sample, ...]]:
    """The same images with the regions of their classes, which the set's notes tell.

    Test images whose defect lies outside are left out: there is nothing in them to be found, and
    they are not good.

    Args:
        rois: by class; others have none.
        further: more images of those classes.
    """
    if not rois:
        return dataset, tuple(further)
    train, test, more = (
        tuple(replace(sample, roi=rois.get(sample.class_name)) for sample in samples)
        for samples in (dataset.train, dataset.test, further)
    )
    kept = tuple(sample for sample in test if _shows_its_defect(sample))
    notes = [
        f"{name}: {looked_at_share(roi):.0%} of each image is looked at, its region of interest."
        for name, roi in sorted(rois.items())
        if name in dataset.classes
    ]
    if len(kept) < len(test):
        notes.append(
            f"{count(len(test) - len(kept), 'test image')} left out, whose defect lies outside of "
            "the region of interest."
        )
    return replace(dataset, train=train, test=kept, notes=(*dataset.notes, *notes)), more


def looked_at_share(roi: Roi | None) -> float:
    """The share of an image that lies in a region, at most 1."""
    if roi is None:
        return 1.0
    with Image.open(io.BytesIO(base64.b64decode(roi.mask))) as image:
        size = (image.height, image.width)
    return float(inside(roi, size).float().mean())


def _shows_its_defect(sample: Sample) -> bool:
    """Whether a defect's mask, where there is one with pixels, has some inside of the region."""
    if sample.mask is None or sample.roi is None:
        return True
    mask = load_mask(sample.mask, rule=sample.mask_rule)
    size = (mask.shape[0], mask.shape[1])
    return not bool(mask.any()) or bool((mask & inside(sample.roi, size)).any())


def _check_proportions(path: Path, samples: Sequence[Sample]) -> None:
    height, width = image_size(path.expanduser())
    for sample in samples:
        try:
            h, w = image_size(sample.path)
        except UnreadableImage:
            continue  # reported where images are decoded
        if abs(h * width - w * height) > max(h, w, height, width):  # more than rounding makes
            raise GradError(
                f"The region of interest {path} has {width} x {height} pixels, the image "
                f"{sample.path} {w} x {h}: give a picture of the same proportions."
            )
