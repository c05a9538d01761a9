"""Concurrent requests scored together: a queue, and one thread that runs the network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor

from grad.data.picture import collate

Score = Callable[[Tensor, list[str | None]], tuple[Tensor, Tensor]]
"""(B, 3, S, S) images, floats in [0, 1] or uint8, and their classes to (B, S, S) anomaly maps and
(B,) image scores, as a detector's ``score_batch``."""


@dataclass(frozen=True)
class _Waiting:
    image: Tensor
    class_name: str | None
    result: asyncio.Future[tuple[Tensor, float]]


class Batcher:
    """Collects images into batches and scores them one batch after the other.

    While a batch is in the network, the next one gathers by itself. A batch that is not full waits
    ``max_wait`` for company only where company is announced, so a lone request waits for nothing.

    Args:
        score: what scores a batch; runs in a thread of its own.
        batch_size: most images in a batch.
        max_wait: seconds that a batch which is not full waits.
        announced: how many images are on their way here beside those that wait already.
        observe: is told the size of each batch.
    """

    def __init__(
        self,
        score: Score,
        *,
        batch_size: int,
        max_wait: float,
        announced: Callable[[], int] = lambda: 0,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._score_batch = score
        self._batch_size = batch_size
        self._max_wait = max_wait
        self._announced = announced
        self._observe = observe
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grad-score")

    async def __aenter__(self) -> Batcher:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._worker.cancel()
        with suppress(asyncio.CancelledError):
            await self._worker
        self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """Images that are in no batch yet."""
        return self._queue.qsize()

    async def score(self, image: Tensor, class_name: str | None = None) -> tuple[Tensor, float]:
        """The anomaly map (S, S) and the score of one image (3, S, S), floats or uint8.

        Raises:
            Exception: whatever scoring the batch raised.
        """
        waiting = _Waiting(image, class_name, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            self._observe(len(batch))
            try:
                results = await loop.run_in_executor(self._thread, self._run, batch)
            except Exception as error:  # belongs to those who wait; the next batch goes on
                for waiting in batch:
                    if not waiting.result.done():
                        waiting.result.set_exception(error)
            else:
                for waiting, result in zip(batch, results, strict=True):
                    if not waiting.result.done():
                        waiting.result.set_result(result)

    async def _next_batch(self) -> list[_Waiting]:
        batch = [await self._queue.get()]
        if self.waiting + 1 < self._batch_size and self._announced() > 0:
            await asyncio.sleep(self._max_wait)
        while len(batch) < self._batch_size and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _run(self, batch: list[_Waiting]) -> list[tuple[Tensor, float]]:
        images, names = collate([one.image for one in batch]), [one.class_name for one in batch]
        maps, scores = self._score_batch(images, names)
        # Copies, as a view would keep its whole batch alive.
        return [
            (one.clone(), score) for one, score in zip(maps.cpu(), scores.tolist(), strict=True)
        ]
