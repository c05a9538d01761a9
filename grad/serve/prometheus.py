"""What Prometheus sees of a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grad.serve.access import local_path

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OTHER = "other"  # paths that don't exist: a label for each would fill the memory


class Metrics:
    """The counters of one server.

    Args:
        queue_length: images that are accepted and not yet answered.
    """

    def __init__(self, queue_length: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "grad_requests", "Requests answered.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "grad_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_images = Histogram(
            "grad_batch_images",
            "Images in one run of the network.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self.verdicts = Counter(
            "grad_images",
            "Images scored, by verdict: good, anomalous, or none without a calibration.",
            ("verdict",),
            registry=self.registry,
        )
        self.drift = Gauge(
            "grad_drift",
            "1 from when scores of a class are others than those of good images; class not stated: "
            "empty.",
            ("class_name",),
            registry=self.registry,
        )
        self.queue = Gauge(
            "grad_queue_length", "Images accepted and not yet answered.", registry=self.registry
        )
        self.queue.set_function(queue_length)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware: counts every request and its time.

    Args:
        app: what is measured.
        metrics: where it is counted.
        paths: those that are counted under their own names.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note how it ended; without an answer it is a 500, or a 499."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = local_path(scope)
        path = path if path in self._paths else OTHER
        status = 500
        start = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
