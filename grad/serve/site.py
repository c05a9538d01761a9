"""Several models in one server: a page that lists them, and each of them at a path of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from grad.serve import access
from grad.serve.access import Guard
from grad.serve.answers import Health
from grad.serve.app import PAGE
from grad.serve.inspector import Inspector
from grad.serve.settings import ServeSettings


def create_site(apps: Mapping[str, FastAPI], settings: ServeSettings) -> Starlette:
    """The application that serves several models.

    Args:
        apps: of one model each, by name; ``cookie`` is at ``/cookie/``.
        settings: limits and token, the same for all.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for inspector in inspectors.values():
                await stack.enter_async_context(inspector.running())
            yield

    inspectors: dict[str, Inspector] = {name: app.state.inspector for name, app in apps.items()}
    routes: list[Route | Mount] = []
    for name, app in apps.items():
        routes.append(Route(f"/{name}", _redirection(f"{name}/")))
        routes.append(Mount(f"/{name}", app))
    return Starlette(routes=[*routes, Mount("/", _start(inspectors, settings))], lifespan=lifespan)


def _start(inspectors: Mapping[str, Inspector], settings: ServeSettings) -> Starlette:
    """What is answered beside the models."""

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "models.html")

    async def icon(request: Request) -> Response:
        return FileResponse(PAGE / "icon.svg")

    async def health(request: Request) -> Response:
        return JSONResponse(Health().model_dump())

    async def models(request: Request) -> Response:
        """Name, classes and version of each."""
        infos = {name: inspector.info for name, inspector in inspectors.items()}
        shown = {"model", "model_version", "classes", "device"}
        return JSONResponse(
            [{"name": name, **info.model_dump(include=shown)} for name, info in infos.items()]
        )

    return Starlette(
        routes=[
            Route("/", page),
            Route("/favicon.ico", icon),
            Route("/health", health),
            Route("/models", models),
            Mount(access.PAGE_FILES, StaticFiles(directory=PAGE)),
        ],
        middleware=[Middleware(Guard, settings=settings)],
    )


def _redirection(path: str) -> Callable[[Request], Awaitable[Response]]:
    async def redirect(request: Request) -> Response:
        return RedirectResponse(path)

    return redirect
