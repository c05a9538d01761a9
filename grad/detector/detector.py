"""``Detector``: find defects in images with a trained model.

Example:
    >>> detector = grad.Detector.load("runs/demo")
    >>> result = detector.predict("part.png")
    >>> result.score, result.is_anomalous
    >>> result.overlay().save("overlay.png")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grad.data.picture import Picture, collate
from grad.data.roi import inside, paint_outside
from grad.data.samples import Roi, check_class_name
from grad.data.sources import Item, One, items_of
from grad.data.tiling import Tiling, tiling_of
from grad.detector.checkpoint import (
    LoadedModel,
    ModelInfo,
    Origin,
    load_checkpoint,
    save_checkpoint,
)
from grad.detector.engine import Engine
from grad.detector.features import features_of_images
from grad.detector.learning import check_can_learn, learn, without_known_images
from grad.detector.result import Result, check_score
from grad.detector.threads import work_in_threads
from grad.score.anomaly_map import score_tiles
from grad.score.rates import Rate
from grad.score.regions import cut_small_peaks, map_pixels
from grad.score.thresholds import Calibration, no_thresholds
from grad.system.clock import utc_time
from grad.system.devices import Precision, default_workers, find_device
from grad.system.errors import GradError

__all__ = ["Detector", "Result"]

_BATCH = {"cpu": 8, "cuda": 64}  # images; on a CPU more of them leave its caches

Skip = Callable[[GradError], None]
"""Is told why an image is left out."""


class Detector:
    """A trained model, ready to judge images; safe to use from several threads at once.

    Use :meth:`load` to make one.

    Attributes:
        info: what belongs to the model.
        calibration: its thresholds; None for a run that was interrupted.
        origin: which file it was read from; None where it was made in memory.
    """

    def __init__(
        self,
        engine: Engine,
        info: ModelInfo,
        calibration: Calibration | None,
        origin: Origin | None = None,
        source: Path | LoadedModel | None = None,
    ) -> None:
        self._engine = engine
        self._source = source
        self.info = info
        self.calibration = calibration
        self.origin = origin

    def __copy__(self) -> Detector:
        """Nothing in it changes, so a copy shares all of it."""
        return self.with_calibration(self.calibration)

    def __deepcopy__(self, memo: dict[int, Any]) -> Detector:
        return self.__copy__()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Detector can't be pickled, as its weights are laid out for this process: call "
            "grad.Detector.load in each process"
        )

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str | torch.device = "auto",
        precision: Precision | Literal["auto"] = "auto",
        false_alarm_rate: Rate | None = None,
    ) -> Detector:
        """Read a model.

        Args:
            path: a ``model.safetensors``, or the folder of the run that wrote it.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; ``"auto"``: CUDA where there is one.
            precision: ``"auto"``: float32, in which thresholds are made, so that verdicts are the
                same on every machine. ``"bfloat16"`` is about twice as fast where the hardware
                multiplies it natively; its scores are within about 1 % of those in float32, but of
                ``grad-plus``, which measures small residuals, up to 6 % of the threshold away.
            false_alarm_rate: share of good images that may be called anomalous; None: what the
                model was calibrated for.

        Raises:
            GradError: no such model, a damaged one, one of another version; no such device; a rate
                that is none, or a model that has no thresholds to change.
        """
        loaded = load_checkpoint(path)
        detector = cls.of(loaded, device=device, precision=precision)
        detector._source = Path(path)
        if false_alarm_rate is None:
            return detector
        if loaded.calibration is None:
            raise GradError(no_thresholds(f"The model {path}"))
        return detector.with_calibration(loaded.calibration.at_rate(false_alarm_rate))

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        *,
        device: str | torch.device = "auto",
        precision: Precision | Literal["auto"] = "auto",
    ) -> Detector:
        """The detector of a model in memory; arguments as in :meth:`load`."""
        engine = Engine(
            loaded.backbone,
            loaded.model,
            loaded.info.image_size,
            device=find_device(device),
            precision=precision,
        )
        return cls(engine, loaded.info, loaded.calibration, loaded.origin, loaded)

    def with_calibration(
        self, calibration: Calibration | None, origin: Origin | None = None
    ) -> Detector:
        """The same model with other thresholds; ``origin`` is its own where None is given."""
        return Detector(self._engine, self.info, calibration, origin or self.origin, self._source)

    def with_threshold(self, threshold: float) -> Detector:
        """The same model with one threshold of your own for image scores of all classes.

        Thresholds of map values stay.

        Raises:
            GradError: it is not above zero; the model has no thresholds at all.
        """
        if self.calibration is None:
            raise GradError(no_thresholds("The model"))
        if not 0 < threshold < float("inf"):
            raise GradError(f"--threshold {threshold} must be a number above 0.")
        return self.with_calibration(self.calibration.fixed(threshold))

    def update(self, images: One | Iterable[One | Item], *, class_name: str) -> Detector:
        """A detector that also knows some further good images, as ``grad update`` makes one.

        This one stays as it is. :meth:`save` writes the new one.

        Args:
            images: good ones, as :meth:`predict` takes them; files that the model learned from
                before are left out.
            class_name: what they show; a name that the model does not know is one more class.

        Raises:
            GradError: an image that can't be used; images that were learned before; a model that
                can't learn on, or whose file has changed.
        """
        loaded = replace(self._loaded(), calibration=self.calibration)
        check_can_learn(loaded)
        features = without_known_images(
            loaded, features_of_images(loaded, images, check_class_name(class_name, "class_name"))
        )
        if not len(features):
            raise GradError("The model learned from these images before: give new ones.")
        learned = learn(loaded, features)
        return Detector.of(learned, device=self.device, precision=self.precision)

    def save(self, path: Path | str) -> None:
        """Write the model as a ``model.safetensors``, which :meth:`load` reads.

        Raises:
            GradError: it can't be written; the file that it was read from has changed.
        """
        loaded = self._loaded()
        save_checkpoint(
            Path(path),
            loaded.model,
            loaded.backbone,
            self.info,
            self.calibration,
            loaded.exemplars,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the model was trained on."""
        return self.info.classes

    @property
    def image_size(self) -> int:
        """S, the side of the square that images are resized to, in pixels."""
        return self.info.image_size

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._engine.device

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        return self._engine.precision

    @property
    def batch_size(self) -> int:
        """How many images it takes at once where nothing else is said."""
        return _BATCH[self.device.type]

    def warm_up(self, batch_size: int = 1) -> None:
        """Prepare for batches of a size, so that the first takes no longer than the others.

        On CUDA their work is also captured as one graph: a single image then takes less time.
        """
        self._engine.warm_up(batch_size)

    @overload
    def predict(
        self,
        images: Image.Image,
        *,
        class_name: str | None = ...,
        tile: int | None = ...,
        overlap: int | None = ...,
    ) -> Result: ...
    @overload
    def predict(
        self,
        images: Sequence[One],
        *,
        class_name: str | None = ...,
        tile: int | None = ...,
        overlap: int | None = ...,
    ) -> list[Result]: ...
    @overload
    def predict(
        self,
        images: One,
        *,
        class_name: str | None = ...,
        tile: int | None = ...,
        overlap: int | None = ...,
    ) -> Any: ...
    def predict(
        self,
        images: One | Sequence[One],
        *,
        class_name: str | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Result | list[Result]:
        """Judge an image, or several.

        Any size will do: images are resized as in training, or cut into tiles. The same pixels give
        the same numbers whatever they come in, except that floats are not rounded to 8 bits after
        resizing, as images of 8 bits are.

        Args:
            images: one image: the path of a file; a Pillow image; a numpy array (h, w), (h, w, 3)
                or (h, w, 4), RGB, alpha is ignored; a tensor (3, h, w). Or several: the path of a
                folder (all images in it and below); an array or a tensor with a batch axis before
                those; a list of any of these. Arrays and tensors are uint8, uint16, or floats in
                [0, 1].
            class_name: what the images show, one of :attr:`classes`; None: judge them by the
                threshold for a class not stated.
            tile: cut images into squares of so many pixels, for small defects in large images. The
                anomaly map then has the image's own size. The model should have been trained on
                tiles of this size. None: as in training; 0: whole images in any case.
            overlap: pixels that neighbouring tiles share at least; None: as in training, or a
                quarter of ``tile``.

        Returns:
            One result for one image, a list of results for several.

        Raises:
            GradError: an image that can't be used, a folder without any, an unknown class.

        Examples:
            >>> detector = grad.Detector.load("runs/demo")
            >>> detector.predict("part.png").is_anomalous
            True
            >>> [result.score for result in detector.predict("parts/")]
            [12.1, 57.3]
        """
        found = list(self.stream(images, class_name=class_name, tile=tile, overlap=overlap))
        return found[0] if _is_one(images) else found

    def stream(
        self,
        sources: One | Iterable[One | Item],
        *,
        class_name: str | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        keep_images: bool = False,
        on_error: Skip | None = None,
    ) -> Generator[Result, None, None]:
        """Judge any number of images, one result after the other, in order and bounded memory.

        Decoding and the network run in several threads, each with images of its own.

        Args:
            sources: as in :meth:`predict`; a generator may go on for ever.
            class_name, tile, overlap: as in :meth:`predict`.
            batch_size: images that the network takes at once; None: what suits the device.
            workers: number of threads; None: one a core, at most 8.
            keep_images: whether results of files hold the decoded image; otherwise
                :attr:`Result.image` decodes it again.
            on_error: is told why an image can't be used, which is then left out; None: raise.

        Raises:
            GradError: as in :meth:`predict`.
        """
        if tile is None and overlap is None:
            tile, overlap = self.info.tile, self.info.overlap
        tiling = None if tile == 0 else tiling_of(tile, overlap)
        size = self.batch_size if batch_size is None else batch_size
        given: dict[str, Any] = {"batch-size": size, "workers": workers}
        for name, value in given.items():
            if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
                raise GradError(f"--{name} {value!r} must be a whole number, 1 or more.")
        if workers is None:
            workers = default_workers(self.device)
            if tiling is not None:  # each holds a large image
                workers = min(workers, 2)
        self._check_class(class_name)
        judge = _Judge(
            self._engine,
            class_name,
            self.calibration,
            tiling,
            self.info.roi(class_name),
            self.info.min_area,
            keep_images,
            self.origin,
        )
        level = self.info.white_level
        items = (replace(item, white_level=level) for item in items_of(sources))
        found = work_in_threads(items, judge, size=1 if tiling else size, workers=workers)
        return _without_errors(found, on_error)

    def score_batch(
        self, images: Tensor, class_names: Sequence[str | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Anomaly maps and scores of images that have the network's size.

        Args:
            images: (B, 3, S, S), floats in [0, 1] or uint8, on any device.
            class_names: of each image, for its region of interest; None: not stated.

        Returns:
            anomaly map, (B, S, S) float32; image score, (B,) float32; both on the CPU.

        Raises:
            ValueError: another shape, or values that are not finite.
            GradError: classes are not stated, and have different regions of interest.
        """
        if images.is_floating_point() and not images.isfinite().all():
            raise ValueError("images hold values that are not finite")
        looked_at = None
        if self.info.rois:
            rois = [self.info.roi(name) for name in class_names or [None] * len(images)]
            size = (self.image_size, self.image_size)
            whole = torch.ones(size, dtype=torch.bool)
            looked_at = torch.stack([whole if roi is None else inside(roi, size) for roi in rois])
            images = torch.stack(list(map(paint_outside, images, rois, looked_at)))
        maps, scores = self._engine(images, looked_at)
        return maps.cpu(), scores.cpu()

    def _loaded(self) -> LoadedModel:
        """The model as it was before it was prepared for predicting."""
        if isinstance(self._source, LoadedModel):
            return self._source
        assert self._source is not None, "of an engine alone"
        loaded = load_checkpoint(self._source, self.device)
        if loaded.info != self.info:
            raise GradError(
                f"The model {self._source} has changed since it was read: load it again."
            )
        return loaded

    def _check_class(self, class_name: str | None) -> None:
        if class_name is not None and class_name not in self.classes:
            raise GradError(
                f"The model was not trained on class {class_name}: choose among "
                f"{', '.join(self.classes)}, or name none."
            )


@dataclass(frozen=True)
class _Judge:
    """Items to results, in any thread."""

    engine: Engine
    class_name: str | None
    calibration: Calibration | None
    tiling: Tiling | None
    roi: Roi | None
    min_area: int
    keep_images: bool
    origin: Origin | None

    def __call__(self, items: list[Item]) -> list[Result | GradError]:
        """A result for each item, or why there is none."""
        decoded = [_picture_or_error(item) for item in items]
        pictures = [one for one in decoded if isinstance(one, Picture)]
        with torch.device("cpu"):  # whatever the program's own default is
            try:
                scored = iter(self._scored(pictures))
            except GradError as error:  # of the only one, which can't be cut into tiles
                return [error]
        return [
            self._result_or_error(item, one, *next(scored)) if isinstance(one, Picture) else one
            for item, one in zip(items, decoded, strict=True)
        ]

    def _scored(self, pictures: list[Picture]) -> list[tuple[Tensor, float]]:
        """Anomaly map and score of each, without memory that they share."""
        if not pictures:
            return []
        side, roi = self.engine.image_size, self.roi
        if self.tiling is not None:
            score_map = self.engine.score_map
            return [score_tiles(score_map, p, side, self.tiling, roi) for p in pictures]
        size = (side, side)
        looked_at = None if roi is None else inside(roi, size)
        images = collate([picture.resize(size).tensor() for picture in pictures])
        maps, scores = self.engine(paint_outside(images, roi, looked_at), looked_at)
        return [(m.clone(), s) for m, s in zip(maps.cpu(), scores.tolist(), strict=True)]

    def _result_or_error(
        self, item: Item, picture: Picture, anomaly_map: Tensor, score: float
    ) -> Result | GradError:
        try:
            check_score(item.name, score)
        except GradError as error:
            return error
        map_size = (anomaly_map.shape[0], anomaly_map.shape[1])
        pixels = map_pixels(self.min_area, picture.size, map_size)
        result = Result(
            name=item.name,
            class_name=self.class_name,
            score=score,
            anomaly_map=cut_small_peaks(anomaly_map, pixels),
            size=picture.size,
            limit=None,
            item=item,
            decoded=picture if self.keep_images else None,
            clipped=picture.clipped,
            roi=self.roi,
            min_area=self.min_area,
            time=utc_time(),
            origin=self.origin,
        )
        if self.calibration is None:
            return result
        p_value, resolution = self.calibration.p_value(score, result.map_maximum, self.class_name)
        return replace(
            result,
            limit=self.calibration.threshold(self.class_name),
            p_value=p_value,
            p_resolution=resolution,
        )


def _picture_or_error(item: Item) -> Picture | GradError:
    try:
        return item.picture()
    except GradError as error:
        return error


def _without_errors(
    found: Generator[Result | GradError, None, None], on_error: Skip | None
) -> Generator[Result, None, None]:
    with closing(found):
        for one in found:
            if isinstance(one, Result):
                yield one
            elif on_error is None:
                raise one
            else:
                on_error(one)


def _is_one(images: object) -> bool:
    """Whether it is one image: not a folder, a batch or a list."""
    if isinstance(images, (str, os.PathLike)):
        return not os.path.isdir(Path(images).expanduser())
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim < 4
    return isinstance(images, (Image.Image, Item))
