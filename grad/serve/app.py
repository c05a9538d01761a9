"""The web application: what is answered at which path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect

from grad.score.heat import SCRIPT
from grad.serve import access, failures
from grad.serve.access import Guard
from grad.serve.answers import (
    Feedback,
    Health,
    Info,
    LearnedFeedback,
    MovedThreshold,
    Prediction,
    SavedRegion,
)
from grad.serve.feedback import Said
from grad.serve.inspector import Inspector, Wanted
from grad.serve.prometheus import CONTENT_TYPE, Measured
from grad.serve.teaching import Teaching
from grad.system.version import __version__

PAGE = Path(__file__).parent / "page"
_CLASS = "Class whose threshold judges the image; without one, that of a class not stated."
_ONE_CLASS = "Class of the image; none: the model's only one."
_EACH_CLASS = "Class that it is for; none: all."
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


def create_app(inspector: Inspector, teaching: Teaching | None = None) -> FastAPI:
    """The application that serves a model, at ``/`` or where it is mounted.

    Args:
        inspector: judges by the model.
        teaching: of the same inspector; None: nothing can be given back.
    """
    teaching = teaching or Teaching(inspector)

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
    _add_end_points(app, inspector, teaching)
    _add_teaching(app, teaching)
    _add_pages(app)
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(Guard, settings=inspector.settings)
    app.add_middleware(Measured, metrics=inspector.metrics, paths=paths)
    return app


def _add_end_points(app: FastAPI, inspector: Inspector, teaching: Teaching) -> None:
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
        _check_parameters(request, "class_name", "overlay", "map", "preview")
        return await inspector.inspect(request, Wanted(class_name, overlay, map, preview))

    @app.get("/info", summary="Classes, thresholds, limits, versions", tags=["inspection"])
    async def get_info() -> Info:
        """Classes, thresholds, limits and versions."""
        return teaching.info()

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


def _add_teaching(app: FastAPI, teaching: Teaching) -> None:
    """What people give back: feedback, thresholds, regions, and that the model learns."""

    @app.post(
        "/feedback",
        summary="Keep an image with what was said of it",
        tags=["feedback"],
        openapi_extra=_BODY,
        responses=_REFUSALS,
    )
    async def keep(
        request: Request,
        said: Annotated[Said, Query(description="What the image was.")],
        class_name: Annotated[str | None, Query(description=_ONE_CLASS, max_length=200)] = None,
        name: Annotated[str | None, Query(description="Of its file.", max_length=500)] = None,
    ) -> Feedback:
        """Keep an image once; said to be something else, it moves."""
        _check_parameters(request, "said", "class_name", "name")
        return await teaching.keep(request, class_name, said, name)

    @app.get("/feedback", summary="How many images are kept", tags=["feedback"])
    async def get_feedback() -> Feedback:
        """How many images are kept."""
        return await teaching.feedback()

    @app.post("/learn", summary="Learn from the feedback of a class", tags=["feedback"])
    async def learn(
        request: Request,
        class_name: Annotated[str | None, Query(description=_ONE_CLASS, max_length=200)] = None,
    ) -> LearnedFeedback:
        """Learn from the feedback of a class, as ``grad update`` does; needs a token."""
        _check_parameters(request, "class_name")
        return await teaching.learn(class_name)

    @app.post("/threshold", summary="Change the model's threshold", tags=["feedback"])
    async def threshold(
        request: Request,
        image: Annotated[float, Query(description="Image scores above are anomalous.")],
        class_name: Annotated[str | None, Query(description=_CLASS, max_length=200)] = None,
    ) -> MovedThreshold:
        """Change the threshold of a class in the model's file; needs a token."""
        _check_parameters(request, "image", "class_name")
        return await teaching.move_threshold(class_name, image)

    @app.post(
        "/roi",
        summary="Give the model a region of interest",
        tags=["feedback"],
        openapi_extra=_BODY,
        responses=_REFUSALS,
    )
    async def roi(
        request: Request,
        class_name: Annotated[str | None, Query(description=_EACH_CLASS, max_length=200)] = None,
    ) -> SavedRegion:
        """Have images of a class looked at where a picture is white; needs a token."""
        _check_parameters(request, "class_name")
        return await teaching.set_region(request, class_name)


def _check_parameters(request: Request, *known: str) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise failures.unknown_parameter(unknown[0], known)


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
