"""The web application: what is answered at which path."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect
from torch import Tensor

from grad.data.picture import Picture
from grad.detector.result import check_score
from grad.score.drift import DRIFT, DriftWatches
from grad.score.heat import SCRIPT
from grad.serve import access, answers, failures
from grad.serve.access import Guard
from grad.serve.answers import Health, Info, Prediction
from grad.serve.batching import Batcher
from grad.serve.prometheus import CONTENT_TYPE, Measured, Metrics
from grad.serve.scorer import Scorer
from grad.serve.settings import ServeSettings
from grad.serve.uploads import Upload, decode, read_upload
from grad.system.version import __version__

_log = logging.getLogger("grad.serving")

PAGE = Path(__file__).parent / "page"
_DECODERS = 4  # threads that decode and encode, at most

_Result = TypeVar("_Result")

_CLASS = "Class whose threshold judges the image; without one, that of a class not stated."
_PARAMETERS = ("class_name", "overlay", "map", "preview")
_BODY = {
    "requestBody": {
        "required": True,
        "description": "One image: its bytes as they are, or a form with one file.",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The form can't be read or holds no file."},
    401: {"description": "The token is missing or wrong."},
    408: {"description": "The upload took too long."},
    413: {"description": "Too many bytes, or too many pixels."},
    415: {"description": "Neither an image nor a form."},
    422: {"description": "The image can't be decoded, or a parameter is wrong."},
    503: {"description": "The queue is full; Retry-After says when to try again."},
}


@dataclass(frozen=True)
class _Wanted:
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
    """

    def __init__(self, scorer: Scorer, settings: ServeSettings) -> None:
        self.scorer = scorer
        self.settings = settings
        self.accepted = 0
        self.metrics = Metrics(lambda: self.accepted)
        self._decoding = 0
        known = scorer.calibration
        self._drift = None if known is None else DriftWatches(known)
        threads = min(_DECODERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grad-image")
        self._batcher = Batcher(
            scorer.score_batch,
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

    async def inspect(self, request: Request, wanted: _Wanted) -> Prediction:
        """Read, decode, score and judge one image.

        Raises:
            Refused: see :mod:`grad.serve.failures`.
        """
        if wanted.class_name not in (None, *self.scorer.classes):
            raise failures.unknown_class(str(wanted.class_name), self.scorer.classes)
        with self._place():
            upload = await read_upload(request, self.settings)
            picture, pixels = await self._decoded(upload)
            anomaly_map, score = await self._scored(pixels)
            return await self._in_pool(
                lambda: self._answer(upload.name, picture, anomaly_map, score, wanted)
            )

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
            return await self._in_pool(lambda: self._decode(upload))
        finally:
            self._decoding -= 1

    async def _scored(self, pixels: Tensor) -> tuple[Tensor, float]:
        try:
            anomaly_map, score = await self._batcher.score(pixels)
            check_score("The image", score)
        except Exception as error:  # out of memory, say: this batch's failure, not the server's
            _log.exception("A batch could not be scored.")
            raise failures.failed(error) from error
        return anomaly_map, score

    def _decode(self, upload: Upload) -> tuple[Picture, Tensor]:
        picture = decode(upload, self.settings, self.scorer.info.white_level)
        size = self.scorer.image_size
        return picture, picture.resize((size, size)).tensor()

    def _answer(
        self, name: str, picture: Picture, anomaly_map: Tensor, score: float, wanted: _Wanted
    ) -> Prediction:
        answer = answers.judge(self.scorer, name, wanted.class_name, picture, score, anomaly_map)
        if self._drift is not None and self._drift.add(
            wanted.class_name, score, answer.map_maximum
        ):
            answer.drift = DRIFT[:1].upper() + DRIFT[1:]
            self.metrics.drift.labels(wanted.class_name or "").set(1)
        if wanted.map:
            answer.map = answers.encode_map(anomaly_map)
        if wanted.overlay:
            answer.overlay = answers.encode_overlay(self.scorer, picture, anomaly_map, answer)
        if wanted.preview:
            answer.preview = answers.encode_preview(picture)
        verdict = {None: "none", True: "anomalous", False: "good"}[answer.is_anomalous]
        self.metrics.verdicts.labels(verdict).inc()
        return answer

    async def _in_pool(self, function: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


def create_app(scorer: Scorer, settings: ServeSettings, name: str = "model") -> FastAPI:
    """The application that serves a model.

    Args:
        scorer: a detector.
        settings: limits and token.
        name: what the page calls the model.
    """
    inspector = Inspector(scorer, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inspector.running():
            yield

    app = FastAPI(
        title="GRAD inspection",
        version=__version__,
        description="Finds defects in images with a model trained on good ones.",
        lifespan=lifespan,
        docs_url=None,  # its page would load from elsewhere; ours is below
        redoc_url=None,
    )
    app.state.inspector = inspector
    _add_end_points(app, inspector, name)
    _add_pages(app)
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Measured, metrics=inspector.metrics, paths=paths)
    return app


def _add_end_points(app: FastAPI, inspector: Inspector, name: str) -> None:
    info = answers.describe(inspector.scorer, inspector.settings, name)

    @app.post(
        "/predict",
        summary="Score and judge one image",
        tags=["inspection"],
        openapi_extra=_BODY,
        responses=_REFUSALS,
    )
    async def predict(
        request: Request,
        class_name: Annotated[str | None, Query(description=_CLASS, max_length=200)] = None,
        overlay: Annotated[bool, Query(description="Send the image under its heat map.")] = False,
        map: Annotated[bool, Query(description="Send the anomaly map.")] = False,
        preview: Annotated[bool, Query(description="Send the image as PNG.")] = False,
    ) -> Prediction:
        """Score and judge one image."""
        unknown = [name for name in request.query_params if name not in _PARAMETERS]
        if unknown:
            raise failures.unknown_parameter(unknown[0], _PARAMETERS)
        return await inspector.inspect(request, _Wanted(class_name, overlay, map, preview))

    @app.get("/info", summary="Classes, thresholds, limits, versions", tags=["inspection"])
    async def get_info() -> Info:
        """Classes, thresholds, limits and versions."""
        return info

    @app.get("/health", summary="Whether the server runs", tags=["operation"])
    async def health() -> Health:
        """Whether the server runs."""
        return Health()

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        tags=["operation"],
        response_class=Response,
    )
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(inspector.metrics.exposition(), media_type=CONTENT_TYPE)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        refused = failures.failed(error)  # the log has the traceback
        return JSONResponse({"detail": refused.detail}, refused.status_code)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        refused = failures.wrong_parameter(error.errors()[0])
        return JSONResponse({"detail": refused.detail}, refused.status_code)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the metrics count it


def _add_pages(app: FastAPI) -> None:
    def page(name: str) -> Callable[[], FileResponse]:
        return lambda: FileResponse(PAGE / name)

    for path, file in (
        ("/", "index.html"),
        ("/favicon.ico", "icon.svg"),
        (access.DOCUMENTATION, "docs.html"),
    ):
        app.add_api_route(path, page(file), include_in_schema=False, response_class=FileResponse)
    swagger = resources.files("fastapi_offline") / "static"
    app.mount(access.DOCUMENTATION_FILES, StaticFiles(directory=str(swagger)))
    heat = f"{access.PAGE_FILES}/{SCRIPT.name}"  # the report has it too
    app.add_api_route(heat, lambda: FileResponse(SCRIPT), include_in_schema=False)
    app.mount(access.PAGE_FILES, StaticFiles(directory=PAGE))
