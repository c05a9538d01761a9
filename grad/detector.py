"""``Detector``: find defects in images with a trained model.

Example:
    >>> detector = grad.Detector.load("runs/demo")
    >>> result = detector.predict("part.png")
    >>> result.score, result.is_anomalous
    >>> result.overlay().save("overlay.png")
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grad.calibration import Calibration, Threshold
from grad.checkpoint import LoadedModel, ModelInfo, load_checkpoint
from grad.decoding import Decode, Decoded, Skip, batches, collate, decode_ahead, default_workers
from grad.detection import Result, no_thresholds
from grad.devices import find_device
from grad.errors import GradError
from grad.inference import Engine
from grad.sources import Item, One, items_of
from grad.tiling import Tiling, score_tiles
from grad.training import Precision

__all__ = ["Detector", "Result"]

_BATCH = {"cpu": 8, "cuda": 64}  # images; on a CPU more of them leave its caches


class Detector:
    """A trained model, ready to judge images; safe to use from several threads at once.

    Use :meth:`load` to make one.

    Attributes:
        info: what belongs to the model.
        calibration: its thresholds; None for a run that was interrupted.
    """

    def __init__(self, engine: Engine, info: ModelInfo, calibration: Calibration | None) -> None:
        self._engine = engine
        self.info = info
        self.calibration = calibration

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str | torch.device = "auto",
        precision: Precision | Literal["auto"] = "auto",
        false_alarm_rate: float | None = None,
    ) -> Detector:
        """Read a model.

        Args:
            path: a ``model.safetensors``, or the folder of the run that wrote it.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; ``"auto"``: CUDA where there is one.
            precision: ``"auto"``: bfloat16 where the hardware multiplies it natively. Scores in
                bfloat16 are within about 1 % of those in float32.
            false_alarm_rate: share of good images that may be called anomalous; None: what the
                model was calibrated for.

        Raises:
            GradError: no such model, a damaged one, one of another version; no such device; a rate
                that is none, or a model that has no thresholds to change.
        """
        loaded = load_checkpoint(path)
        detector = cls.of(loaded, device=device, precision=precision)
        if false_alarm_rate is None:
            return detector
        if loaded.calibration is None:
            raise GradError(no_thresholds(f"The model {path}"))
        return cls(detector._engine, loaded.info, loaded.calibration.at_rate(false_alarm_rate))

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
        return cls(engine, loaded.info, loaded.calibration)

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
        image = float(np.float32(threshold))  # scores are float32 too

        def moved(limit: Threshold) -> Threshold:
            typical = limit.image_typical if limit.image_typical < image else image / 2
            return replace(limit, image=image, image_typical=typical, note="Given by hand.")

        classes = {name: moved(limit) for name, limit in self.calibration.classes.items()}
        calibration = replace(
            self.calibration, classes=classes, unknown=moved(self.calibration.unknown)
        )
        return Detector(self._engine, self.info, calibration)

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
                threshold for images of any class.
            tile: cut images into squares of so many pixels, for small defects in large images. The
                anomaly map then has the image's own size. The model should have been trained on
                tiles of this size. None: as in training.
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

        Images are decoded in threads while the network works on others.

        Args:
            sources: as in :meth:`predict`; a generator may go on for ever.
            class_name, tile, overlap: as in :meth:`predict`.
            batch_size: images that the network takes at once; None: what suits the device.
            workers: threads that decode; None: one a core, at most 8.
            keep_images: whether results of files hold the decoded image; otherwise
                :attr:`Result.image` decodes it again.
            on_error: is told why an image can't be used, which is then left out; None: raise.

        Raises:
            GradError: as in :meth:`predict`.
        """
        limit = self._limit(class_name)
        tiling = None if tile is None else Tiling(tile, overlap)
        if overlap is not None and tile is None:
            raise GradError("--overlap needs --tile: it says how much of it tiles share.")
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise GradError(f"--batch-size {size} is too small: give 1 or more.")
        decoded = decode_ahead(
            items_of(sources),
            Decode(None if tiling else self.image_size, keep_images),
            workers=workers or default_workers(),
            ahead=2 if tiling else 2 * size,
            on_error=on_error,
        )
        groups = batches(decoded, 1 if tiling else size)
        return self._results(groups, class_name, limit, tiling, keep_images)

    def score_batch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps and scores of images that have the network's size.

        Args:
            images: (B, 3, S, S), floats in [0, 1] or uint8, on any device.

        Returns:
            anomaly map, (B, S, S) float32; image score, (B,) float32; both on the CPU.
        """
        maps, scores = self._engine(images)
        return maps.cpu(), scores.cpu()

    def _results(
        self,
        groups: Iterator[list[Decoded]],
        class_name: str | None,
        limit: Threshold | None,
        tiling: Tiling | None,
        keep_images: bool,
    ) -> Generator[Result, None, None]:
        for group in groups:
            for one, (anomaly_map, score) in zip(group, self._scored(group, tiling), strict=True):
                whole = one.picture if keep_images else None
                yield Result(
                    one.item.name, class_name, score, anomaly_map, one.size, limit, one.item, whole
                )

    def _scored(self, group: list[Decoded], tiling: Tiling | None) -> list[tuple[Tensor, float]]:
        """Map and score of each image; they hold no memory of their batch."""
        if tiling is None:
            maps, scores = self.score_batch(collate([one.pixels for one in group]))
            return [(m.clone(), s) for m, s in zip(maps, scores.tolist(), strict=True)]
        score_map = self._engine.score_map
        return [score_tiles(score_map, one.picture, self.image_size, tiling) for one in group]

    def _limit(self, class_name: str | None) -> Threshold | None:
        if class_name is not None and class_name not in self.classes:
            raise GradError(
                f"The model was not trained on class {class_name}: choose among "
                f"{', '.join(self.classes)}, or name none."
            )
        return None if self.calibration is None else self.calibration.threshold(class_name)


def _is_one(images: object) -> bool:
    """Whether it is one image: not a folder, a batch or a list."""
    if isinstance(images, (str, os.PathLike)):
        return not Path(images).expanduser().is_dir()
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim < 4
    return isinstance(images, (Image.Image, Item))
