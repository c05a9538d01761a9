"""Who may ask, and what browsers may do with the answers."""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grad.serve.settings import ServeSettings, is_loopback

DOCUMENTATION = "/docs"
OPENAPI = "/openapi.json"
PAGE_FILES = "/page"
DOCUMENTATION_FILES = "/docs/files"

# The page asks for the token, so it must load without one; its files are the same for everybody.
_OPEN = ("/health", "/", "/favicon.ico")
_OPEN_FOLDERS = (f"{PAGE_FILES}/", f"{DOCUMENTATION_FILES}/")
# A browser asks its user for the token only where it meets this scheme.
_ASKED_BY_BROWSER = (DOCUMENTATION, OPENAPI)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class Guard:
    """ASGI middleware: names of hosts, the token, and the headers of every answer.

    A browser says from which page a request comes. Without a token, those of other pages' scripts
    are refused: they would be carried out in the name of who only looks at such a page.

    Without a token on a loopback address, only requests to a loopback name are answered: another
    name means that a web page elsewhere has had its own name resolved to this machine.

    Args:
        app: what is guarded.
        settings: says whether there is a token.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._token = settings.token
        self._local_only = settings.token is None and settings.is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = local_path(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), path)
            await send(message)

        refusal = self._refusal(scope["method"], path, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        origin = headers.get("origin")
        foreign = origin is not None and _host_of(origin) != host.lower()
        if self._token is None and foreign and method not in ("GET", "HEAD"):
            return _answer(403, f"The page {origin!r} may not use this server.")
        if self._local_only and not is_loopback(_without_port(host)):
            return _answer(
                400,
                f"This server answers at localhost only, not at {host!r}: start it with --token, "
                "or with --host set to an address of the network.",
            )
        if self._token is None or path in _OPEN or path.startswith(_OPEN_FOLDERS):
            return None
        given = _given_token(headers.get("authorization", ""))
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        scheme = "Basic" if path in _ASKED_BY_BROWSER else "Bearer"
        sentence = "The token is wrong" if given else "A token is needed"
        return _answer(
            401,
            f"{sentence}: send the header 'Authorization: Bearer TOKEN' with the server's --token.",
            {"WWW-Authenticate": f'{scheme} realm="GRAD"'},
        )


def local_path(scope: Scope) -> str:
    """The path of a request within the application, which may be mounted under another."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _answer(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status, headers)


def _given_token(authorization: str) -> str:
    """The token of a header; of the scheme Basic, that browsers use, the password."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _host_of(origin: str) -> str:
    """Host and port of an origin such as ``https://example.org:8000``; none of ``null``."""
    return origin.partition("://")[2].lower()


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _add_headers(headers: MutableHeaders, path: str) -> None:
    headers.update(_HEADERS)
    # Swagger UI writes style attributes.
    style = " 'unsafe-inline'" if path == DOCUMENTATION else ""
    headers["Content-Security-Policy"] = _CONTENT.format(style=style)
    headers["Cache-Control"] = "no-cache" if path.startswith(_OPEN_FOLDERS) else "no-store"
