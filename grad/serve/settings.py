"""The limits of a server, and what they default to."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from grad.system.errors import GradError

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Above this, Pillow itself refuses an image."""


@dataclass(frozen=True)
class ServeSettings:
    """How a server answers, whatever model it serves.

    Attributes:
        host: address to listen at.
        port: TCP port; 0 for one that is free.
        token: what every request but ``/health`` and the page's own files must bring; None: open.
        max_upload_mb: most megabytes (10^6 bytes) of a request.
        max_pixels: most pixels of an image.
        queue: most images accepted and not yet answered.
        batch_size: most images in one run of the network.
        max_wait_ms: how long a batch that is not full waits for images still being decoded.
        head_timeout_s: how long a connection may wait before a request, or inside its head.
        read_timeout_s: how long an upload may take.
        idle_timeout_s: how long nothing of it may come.
        ssl_certfile, ssl_keyfile: certificate and its key (PEM), for https; None: plain HTTP. A
            certificate may hold its key.
        access_log: whether each request is a line on standard error.

    Raises:
        GradError: if a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_upload_mb: float = 32.0
    max_pixels: int = 50_000_000
    queue: int = 64
    batch_size: int = 8
    max_wait_ms: float = 5.0
    head_timeout_s: int = 30
    read_timeout_s: float = 60.0
    idle_timeout_s: float = 5.0
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    access_log: bool = False

    def __post_init__(self) -> None:
        _between("--port", self.port, 0, 65535)
        _between("--max-upload-mb", self.max_upload_mb, 0.001, 4096)
        _between("--max-pixels", self.max_pixels, 1, MOST_PIXELS)
        _between("--queue", self.queue, 1, 100_000)
        _between("--batch-size", self.batch_size, 1, 4096)
        _between("--max-wait-ms", self.max_wait_ms, 0, 10_000)
        _between("--head-timeout-s", self.head_timeout_s, 1, 86_400)
        _between("--read-timeout-s", self.read_timeout_s, 0.001, 86_400)
        _between("--idle-timeout-s", self.idle_timeout_s, 0.001, 86_400)
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise GradError("--ssl-keyfile needs --ssl-certfile: the certificate that it is for.")
        for flag, file in (
            ("--ssl-certfile", self.ssl_certfile),
            ("--ssl-keyfile", self.ssl_keyfile),
        ):
            if file is not None and not file.expanduser().is_file():
                raise GradError(f"{flag} {file} is no file: give one in PEM format.")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise GradError("--token must be printable ASCII, as HTTP headers are.")
        if self.token is not None and not self.token.strip():
            raise GradError("--token is empty: give a word that is hard to guess, or leave it out.")

    @property
    def max_upload_bytes(self) -> int:
        """``max_upload_mb`` in bytes."""
        return round(self.max_upload_mb * 1e6)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address, in brackets where it is IPv6, means this machine alone."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _between(flag: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high) or math.isnan(value):
        raise GradError(f"{flag} must be between {low:,g} and {high:,g}, not {value:,g}.")
