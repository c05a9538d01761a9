"""A server on a socket: from binding the port to a clean end."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from types import FrameType

import uvicorn
from rich.console import Console
from starlette.types import ASGIApp

from grad.serve.connection import Connection
from grad.serve.settings import ServeSettings
from grad.system.errors import GradError

_LAST_ANSWERS = 30  # seconds that accepted requests have at the end
_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": "%(asctime)s %(client_addr)s %(request_line)s %(status_code)s",
            "use_colors": False,
        }
    },
    "handlers": {
        "access": {
            "class": "logging.StreamHandler",
            "formatter": "access",
            "stream": "ext://sys.stderr",
        }
    },
    "loggers": {"uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False}},
}


def bind(settings: ServeSettings) -> socket.socket:
    """The socket to listen on.

    Raises:
        GradError: the port is in use, not allowed, or the address is none of this machine's.
    """
    host, port = settings.host.strip("[]"), settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address, family=family)
        # asyncio does not set it for a listener made elsewhere. Without, the body of an answer
        # waits 40 ms for the acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        # create_server adds words of its own; getaddrinfo has numbers of its own.
        number = error.errno or 0
        reason = (os.strerror(number) if number > 0 else str(error.strerror)).lower()
        raise GradError(
            f"The server can't listen at {host} port {port} ({reason}): choose another --port or "
            "--host, or end the program that uses it."
        ) from error


def url(listener: socket.socket, scheme: str = "http") -> str:
    """Where a browser on this machine finds the page."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


def announce(settings: ServeSettings, listener: socket.socket, console: Console) -> None:
    """Say where the page is, and warn where everybody may use it."""
    where = url(listener, "http" if settings.ssl_certfile is None else "https")
    console.print(
        f"Inspection page: {where} (Ctrl-C ends it)", markup=False, highlight=False, soft_wrap=True
    )
    if settings.token is None and not settings.is_loopback:
        console.print(
            "Everybody who reaches this machine can use the server: give --token to ask for one.",
            style="yellow",
            soft_wrap=True,
        )


def configure(app: ASGIApp, settings: ServeSettings) -> uvicorn.Config:
    """How uvicorn serves an application.

    Raises:
        GradError: the certificate or its key can't be used.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="info" if settings.access_log else "warning",
        access_log=settings.access_log,
        log_config=_LOG if settings.access_log else None,
        server_header=False,
        timeout_keep_alive=settings.head_timeout_s,
        timeout_graceful_shutdown=_LAST_ANSWERS,
        ssl_certfile=settings.ssl_certfile and settings.ssl_certfile.expanduser(),
        ssl_keyfile=settings.ssl_keyfile and settings.ssl_keyfile.expanduser(),
    )
    try:
        config.load()  # reads the certificate
    except (ssl.SSLError, OSError) as error:
        raise GradError(
            f"--ssl-certfile {settings.ssl_certfile} can't be used ({error}): give a certificate "
            "and its key in PEM format."
        ) from error
    return config


def serve(app: ASGIApp, listener: socket.socket, settings: ServeSettings) -> None:
    """Answer requests until SIGINT or SIGTERM; what was accepted by then is still answered.

    Raises:
        GradError: the certificate or its key can't be used.
    """
    config = configure(app, settings)
    # uvicorn handles both signals and then raises them again: here, that is no failure.
    before = {sig: signal.signal(sig, _nothing) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Ignore a signal."""
