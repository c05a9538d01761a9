"""From a request to its answer: what all requests to a model share."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from torch import Tensor

from grad.data.picture import Picture
from grad.detector.result import check_score
from grad.score.drift import DRIFT, DriftWatches
from grad.score.regions import cut_small_peaks, map_pixels
from grad.serve import answers, failures
from grad.serve.answers import Prediction
from grad.serve.batching import Batcher
from grad.serve.prometheus import Metrics
from grad.serve.scorer import Scorer
from grad.serve.settings import ServeSettings
from grad.serve.uploads import Upload, decode, read_upload
from grad.system.webhook import Webhook

_log = logging.getLogger("grad.serving")

_DECODERS = 4  # threads that decode and encode, at most

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Wanted:
    """What a request asks for beside the verdict."""

    class_name: str | None
    overlay: bool
    map: bool
    preview: bool


class Inspector:
    """From a request to its answer; holds what all requests share.

    Args:
        scorer: scores batches.
        settings: limits.
        hook: where answers are posted to; None: nowhere.
    """

    def __init__(
        self,
        scorer: Scorer,
        settings: ServeSettings,
        hook: Webhook | None = None,
    ) -> None:
        self.settings, self._hook = settings, hook
        self.use(scorer)
        self.accepted = 0
        self.metrics = Metrics(lambda: self.accepted)
        self._decoding = 0
        threads = min(_DECODERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grad-image")
        self._batcher = Batcher(
            lambda images, names: self.scorer.score_batch(images, names),
            batch_size=settings.batch_size,
            max_wait=settings.max_wait_ms / 1e3,
            announced=lambda: self._decoding,
            observe=self.metrics.batch_images.observe,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers requests inside; what was accepted is answered before it ends."""
        async with self._batcher:
            yield
        self._pool.shutdown()

    def use(self, scorer: Scorer) -> None:
        """Judge by another model from now on, whose images have the same size."""
        known = scorer.calibration
        self._drift = None if known is None else DriftWatches(known)
        self.info = answers.describe(scorer, self.settings)
        self.scorer = scorer

    async def inspect(self, request: Request, wanted: Wanted) -> Prediction:
        """Read, decode, score and judge one image.

        Raises:
            Refused: see :mod:`grad.serve.failures`.
        """
        _, answer = await self.look_at(request, wanted)
        if (
            self._drift is not None
            and not self.scorer.info.is_cut_later(wanted.class_name)
            and self._drift.add(wanted.class_name, answer.score, answer.map_maximum)
        ):
            answer.drift = DRIFT[:1].upper() + DRIFT[1:]
            self.metrics.drift.labels(wanted.class_name or "").set(1)
        verdict = {None: "none", True: "anomalous", False: "good"}[answer.is_anomalous]
        self.metrics.verdicts.labels(verdict).inc()
        if self._hook is not None:
            self._hook.send(answer.model_dump(exclude={"map", "overlay", "preview"}))
        return answer

    async def look_at(self, request: Request, wanted: Wanted) -> tuple[Upload, Prediction]:
        """The same for one that counts nowhere, and its file.

        Raises:
            Refused: see :mod:`grad.serve.failures`.
        """
        if wanted.class_name not in (None, *self.scorer.classes):
            raise failures.unknown_class(str(wanted.class_name), self.scorer.classes)
        if wanted.class_name is None and self.scorer.info.has_several_rois:
            raise failures.class_needed(self.scorer.classes)
        with self._place():
            upload = await read_upload(request, self.settings)
            picture, pixels = await self._decoded(upload)
            scorer, anomaly_map, score = await self._scored(pixels, wanted.class_name)
            answer = await self.in_pool(
                lambda: self._answer(scorer, upload.name, picture, anomaly_map, score, wanted)
            )
        return upload, answer

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the images that are accepted, which bounds the memory they take."""
        if self.accepted >= self.settings.queue:
            raise failures.queue_full(self.settings.queue)
        self.accepted += 1
        try:
            yield
        finally:
            self.accepted -= 1

    async def _decoded(self, upload: Upload) -> tuple[Picture, Tensor]:
        """The image at its own size, and as the model takes it."""
        self._decoding += 1
        try:
            return await self.in_pool(lambda: self._decode(upload))
        finally:
            self._decoding -= 1

    async def _scored(self, pixels: Tensor, class_name: str | None) -> tuple[Scorer, Tensor, float]:
        """The anomaly map and the score of an image, and by which model."""
        try:
            while True:
                scorer = self.scorer
                anomaly_map, score = await self._batcher.score(pixels, class_name)
                if scorer is self.scorer:  # else it was exchanged before or after
                    break
            check_score("The image", score)
        except Exception as error:  # out of memory, say: this batch's failure, not the server's
            _log.exception("A batch could not be scored.")
            raise failures.failed(error) from error
        return scorer, anomaly_map, score

    def _decode(self, upload: Upload) -> tuple[Picture, Tensor]:
        picture = decode(upload, self.settings, self.scorer.info.white_level)
        size = self.scorer.image_size
        return picture, picture.resize((size, size)).tensor()

    def _answer(
        self,
        scorer: Scorer,
        name: str,
        picture: Picture,
        anomaly_map: Tensor,
        score: float,
        wanted: Wanted,
    ) -> Prediction:
        info, map_size = scorer.info, (anomaly_map.shape[0], anomaly_map.shape[1])
        pixels = map_pixels(info.min_area, picture.size, map_size)
        anomaly_map = cut_small_peaks(anomaly_map, pixels)
        answer = answers.judge(scorer, name, wanted.class_name, picture, score, anomaly_map)
        if wanted.map:
            least = info.min_area / (picture.size[0] * picture.size[1])
            answer.map = answers.encode_map(anomaly_map, info.roi(wanted.class_name), least)
        if wanted.overlay:
            answer.overlay = answers.encode_overlay(scorer, picture, anomaly_map, answer)
        if wanted.preview:
            answer.preview = answers.encode_preview(picture)
        return answer

    async def in_pool(self, function: Callable[[], _Result]) -> _Result:
        """What a function returns, which works on images and is called in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)
