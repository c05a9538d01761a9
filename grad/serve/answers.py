"""What a server says: the answer to an image, and what there is to know about the model."""

from __future__ import annotations

import base64
import io
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from torch import Tensor

from grad.data.picture import Picture
from grad.data.roi import grey_outside
from grad.data.samples import Roi
from grad.detector.result import overlay_notes
from grad.score.heat import colours, overlay
from grad.score.regions import Region, find_regions, map_pixels, resize_map
from grad.score.thresholds import Calibration, Method, Threshold, no_thresholds
from grad.serve.scorer import Scorer
from grad.serve.settings import ServeSettings
from grad.serve.uploads import FORMATS
from grad.system.clock import utc_time
from grad.system.version import __version__

PREVIEW, OVERLAY = 1024, 4096  # pixels, longest sides at most
_MOST_SCORES = 1000  # good scores of a class that /info lists; of more, evenly spaced ranks

NO_CALIBRATION = no_thresholds("This model", "images are scored, but not judged.")


class AnomalyMap(BaseModel):
    """An anomaly map as a picture."""

    png: str = Field(description="16-bit grey PNG in base64, of the model's image size.")
    low: float = Field(description="Map value of black.")
    high: float = Field(description="Map value of white, 65535.")
    roi: str | None = Field(
        description="PNG in base64, black where the image is not looked at; null: all is."
    )
    least: float = Field(description="Share of the image that the smallest region that counts has.")


class Prediction(BaseModel):
    """The answer to one image."""

    name: str = Field(description="The file's name, where the request told one.")
    class_name: str | None = Field(description="The class that was asked for.")
    score: float = Field(description="The score; larger is more anomalous.")
    value: float | None = Field(description="Calibrated value in [0, 1]; 0.5 is the threshold.")
    map_maximum: float = Field(description="The largest value of the anomaly map.")
    threshold: float | None = Field(
        description="Scores above are anomalous; where /info calls the threshold joint, so is "
        "an image whose map has a value above the pixel threshold there."
    )
    is_anomalous: bool | None = Field(description="The verdict; null without a calibration.")
    p_value: float | None = Field(
        description="(1 + good images at least as odd) / (n + 1), of the n good images that the "
        "threshold was made from."
    )
    p_resolution: float | None = Field(description="1 / (n + 1), the smallest that it can be.")
    regions: list[Region] | None = Field(
        description="Connected parts of what is marked, highest peak first, in pixels of the "
        "image; null without a calibration."
    )
    width: int = Field(description="Of the image, upright, in pixels.")
    height: int = Field(description="Of the image, upright, in pixels.")
    time: str = Field(description="When it was judged, in UTC, ISO 8601.")
    model: str | None = Field(description="The model's name.")
    model_version: str | None = Field(
        description="12 hexadecimal digits of a digest of the model's content, thresholds too."
    )
    note: str | None = Field(default=None, description="Why there is no verdict.")
    drift: str | None = Field(
        default=None,
        description="From when scores of this class are others than those of good images: what to "
        "do.",
    )
    map: AnomalyMap | None = Field(default=None, description="With ?map=true.")
    overlay: str | None = Field(
        default=None,
        description="With ?overlay=true: PNG in base64, the image under its heat map, what is "
        "marked within a line; below it a strip with verdict and score.",
    )
    preview: str | None = Field(
        default=None,
        description="With ?preview=true: PNG in base64, the image itself.",
    )


class ThresholdRow(BaseModel):
    """The threshold of a class; of a class not stated where ``class_name`` is null."""

    class_name: str | None
    image: float = Field(description="Image scores above are anomalous.")
    pixel: float = Field(description="Anomaly map values above are marked.")
    image_typical: float = Field(description="Median score of good images.")
    pixel_typical: float = Field(description="Median of good images' largest map value.")
    images: int = Field(description="Good images that it was made from.")
    note: str = Field(description="How it was made.")
    moved: str | None = Field(description="When it was moved by hand, in UTC; null: never.")
    joint: bool = Field(description="Whether a map value above ``pixel`` makes an image anomalous.")
    good_scores: list[float] = Field(
        description="Their scores, ascending; at most 1,000 of them. Where thresholds are joint "
        "and the largest map value lies further up, a score as far up as that."
    )


class Info(BaseModel):
    """The model that is served, and the server's limits."""

    version: str
    model: str | None
    model_version: str | None = Field(description="As in answers.")
    classes: list[str]
    backbone: str
    image_size: int
    device: str
    false_alarm_rate: float | None
    method: Method | None
    thresholds: list[ThresholdRow]
    note: str | None
    max_upload_bytes: int
    max_pixels: int
    queue: int
    formats: list[str]
    keeps_feedback: bool = Field(default=False, description="Whether /feedback takes images.")
    can_change: bool = Field(
        default=False, description="Whether /threshold, /learn and /roi change the model."
    )
    colours: str = Field(
        description="Heat map: 256 steps of red, green, blue and opacity for calibrated values "
        "0 to 1, 1024 bytes in base64."
    )


class Counts(BaseModel):
    """Images of a class in the folder of feedback."""

    good: int = 0
    defect: int = 0


class Feedback(BaseModel):
    """What is in the folder of feedback."""

    file: str | None = Field(
        default=None, description="Of the image that was given, below the folder."
    )
    classes: dict[str, Counts] = Field(description="Images by class.")
    megabytes: float
    most_images: int
    most_megabytes: float


class MovedThreshold(BaseModel):
    """A threshold that was moved, in the model's file."""

    class_name: str | None
    before: float
    after: float
    time: str = Field(description="When, in UTC, ISO 8601.")
    model_version: str = Field(description="Of the model from now on.")


class LearnedFeedback(BaseModel):
    """What a model learned, as it is recorded in its file, where ``grad info`` lists it."""

    class_name: str
    images: list[str] = Field(description="File names of the good images that were new to it.")
    false_alarms: int = Field(description="How many of them it had called anomalous.")
    threshold_before: float | None
    threshold_after: float
    defects: int = Field(description="Defects of the class in the folder of feedback.")
    found: int = Field(description="How many of those the model finds now.")
    time: str = Field(description="When, in UTC, ISO 8601.")
    model_version: str = Field(description="Of the model from now on.")
    note: str | None = Field(description="Why to judge it on other images first, where that is so.")


class SavedRegion(BaseModel):
    """A region of interest that a class got, in the model's file."""

    class_name: str | None = Field(description="Null: all classes.")
    share: float = Field(description="Share of an image that is looked at.")
    note: str = Field(description="What the thresholds are now.")
    time: str = Field(description="When, in UTC, ISO 8601.")
    model_version: str = Field(description="Of the model from now on.")


class Health(BaseModel):
    """That the server is there."""

    status: Literal["ok"] = "ok"
    version: str = __version__


def describe(scorer: Scorer, settings: ServeSettings) -> Info:
    """What ``/info`` says."""
    calibration, origin = scorer.calibration, scorer.origin
    return Info(
        version=__version__,
        model=None if origin is None else origin.name,
        model_version=None if origin is None else origin.version,
        classes=list(scorer.classes),
        backbone=scorer.info.backbone,
        image_size=scorer.image_size,
        device=str(scorer.device),
        false_alarm_rate=None
        if calibration is None or calibration.false_alarm_rate == "auto"
        else calibration.false_alarm_rate,
        method=calibration.method if calibration else None,
        thresholds=_rows(calibration) if calibration else [],
        note=None if calibration else NO_CALIBRATION,
        max_upload_bytes=settings.max_upload_bytes,
        max_pixels=settings.max_pixels,
        queue=settings.queue,
        formats=list(FORMATS),
        colours=_base64(colours().tobytes()),
    )


def judge(
    scorer: Scorer,
    name: str,
    class_name: str | None,
    picture: Picture,
    score: float,
    anomaly_map: Tensor,
) -> Prediction:
    """The answer to an image, without pictures."""
    calibration, origin = scorer.calibration, scorer.origin
    maximum = float(anomaly_map.max())
    row = calibration.threshold(class_name) if calibration else None
    p_value, resolution = (
        calibration.p_value(score, maximum, class_name) if calibration else (None, None)
    )
    clipped = "Values above the model's white level count as white." if picture.clipped else None
    return Prediction(
        name=name,
        class_name=class_name,
        score=score,
        value=row.value(score, maximum) if row else None,
        map_maximum=maximum,
        threshold=row.image if row else None,
        is_anomalous=row.is_anomalous(score, maximum) if row else None,
        p_value=p_value,
        p_resolution=resolution,
        regions=_regions(scorer, anomaly_map, row, score, picture.size) if row else None,
        width=picture.size[1],
        height=picture.size[0],
        time=utc_time(),
        model=None if origin is None else origin.name,
        model_version=None if origin is None else origin.version,
        note=clipped if row else NO_CALIBRATION,
    )


def _regions(
    scorer: Scorer, anomaly_map: Tensor, row: Threshold, score: float, size: tuple[int, int]
) -> list[Region]:
    level = row.pixel_level(score, float(anomaly_map.max()))
    if math.isinf(level):
        return []
    return find_regions(resize_map(anomaly_map, size), level, scorer.info.min_area)


def encode_map(anomaly_map: Tensor, roi: Roi | None, least: float) -> AnomalyMap:
    """(S, S) as a 16-bit picture, from 0 to its largest value."""
    values = anomaly_map.numpy()
    low, high = min(0.0, float(values.min())), float(values.max())
    levels = np.round((values - low) * (65535 / max(high - low, 1e-30))).astype(np.uint16)
    return AnomalyMap(
        png=_png(Image.fromarray(levels)),
        low=low,
        high=high,
        roi=None if roi is None else roi.mask,
        least=least,
    )


def encode_preview(picture: Picture) -> str:
    """The image as a PNG that every browser shows."""
    return _png(picture.resize(_fitted(picture, PREVIEW)).rgb())


def encode_overlay(
    scorer: Scorer, picture: Picture, anomaly_map: Tensor, answer: Prediction
) -> str:
    """The image under its heat map."""
    known = scorer.calibration
    row = known.threshold(answer.class_name) if known else None
    size = _fitted(picture, OVERLAY)
    image = grey_outside(picture.resize(size).rgb(), scorer.info.roi(answer.class_name))
    pixels = map_pixels(scorer.info.min_area, picture.size, size)
    notes = overlay_notes(row, scorer.origin, answer.time)
    return _png(overlay(image, anomaly_map, row, answer.score, pixels, notes))


def _rows(calibration: Calibration) -> list[ThresholdRow]:
    rows = []
    for name in (*calibration.classes, None):
        threshold = calibration.threshold(name)
        of = calibration.good_scores
        mine = {name: of[name]} if name in of else of
        scores, maxima = (
            np.concatenate([np.asarray(values[one]) for one in mine])
            for values in (calibration.good_scores, calibration.good_maxima)
        )
        scores = np.sort(_joint_scores(scores, maxima, threshold))
        if scores.size > _MOST_SCORES:
            ranks = np.linspace(0, scores.size - 1, _MOST_SCORES).round().astype(int)
            scores = scores[ranks]
        rows.append(
            ThresholdRow(
                class_name=name,
                image=threshold.image,
                pixel=threshold.pixel,
                image_typical=threshold.image_typical,
                pixel_typical=threshold.pixel_typical,
                images=threshold.images,
                note=threshold.note,
                moved=threshold.moved,
                joint=threshold.joint,
                good_scores=scores.tolist(),
            )
        )
    return rows


def _joint_scores(
    scores: NDArray[np.float64], maxima: NDArray[np.float64], threshold: Threshold
) -> NDArray[np.float64]:
    """Scores or, where a map's largest value is further up, the scores as far up as that."""
    if not threshold.joint:
        return scores
    span = threshold.image - threshold.image_typical
    distance = (maxima - threshold.pixel_typical) / (threshold.pixel - threshold.pixel_typical)
    return np.maximum(scores, threshold.image_typical + distance * span)


def _fitted(picture: Picture, most: int) -> tuple[int, int]:
    """(H, W) with the longest side at most so many pixels."""
    height, width = picture.size
    factor = min(1.0, most / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return _base64(buffer.getvalue())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
