"""From a request to an image: read within limits, then decoded within limits."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from grad.data.images import check_scans
from grad.data.picture import Picture
from grad.data.samples import FULL_WHITE
from grad.serve import failures
from grad.serve.settings import ServeSettings

FORM = "multipart/form-data"
_BYTES = ("application/octet-stream", "application/x-www-form-urlencoded")
# curl --data-binary calls everything a urlencoded form.

Image.init()
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "JPEG2000", "PPM", "TGA")
    if name in Image.OPEN
)
"""What is decoded, in Pillow's names: pictures only, nothing that starts another program."""

_OVERHEAD = 64 * 1024  # bytes that a form may have around its file
_DRAIN = 16 * 2**20  # bytes of a refused upload read on, so that the client gets to read the answer


@dataclass(frozen=True)
class Upload:
    """The bytes of an image file, and its name where the request told one."""

    name: str
    data: bytes


async def read_upload(request: Request, settings: ServeSettings) -> Upload:
    """The one file in a request: its body, or the file of a form.

    Raises:
        Refused: 400, 408, 413, 415, see :mod:`grad.serve.failures`.
        ClientDisconnect: the client went away while it sent.
    """
    content_type, _ = parse_options_header(request.headers.get("content-type", ""))
    kind = content_type.decode("latin-1").lower()
    if kind and kind != FORM and kind not in _BYTES and not kind.startswith("image/"):
        raise failures.unsupported(kind)
    read = _read_form if kind == FORM else _read_body
    try:
        upload = await asyncio.wait_for(read(request, settings), settings.read_timeout_s)
    except asyncio.TimeoutError:  # another class before Python 3.11
        raise failures.too_slow(settings.read_timeout_s) from None
    if not upload.data:
        raise failures.unreadable("it has no bytes")
    return upload


async def _read_body(request: Request, settings: ServeSettings) -> Upload:
    body = bytearray()
    async for chunk in _limited(request, settings.max_upload_bytes, settings):
        body += chunk
    return Upload("upload", bytes(body))


async def _read_form(request: Request, settings: ServeSettings) -> Upload:
    stream = _limited(request, settings.max_upload_bytes + _OVERHEAD, settings)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=8)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise failures.bad_request(
            f"The form can't be read ({error.message.rstrip('.')}): send one file in it."
        ) from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise failures.bad_request("The form holds no file: send one image file in it.")
        data = await files[0].read()
    finally:
        await form.close()
    if len(data) > settings.max_upload_bytes:
        raise _too_many_bytes(settings)
    return Upload(files[0].filename or "upload", data)


async def _limited(
    request: Request, limit: int, settings: ServeSettings
) -> AsyncGenerator[bytes, None]:
    """The body in pieces, refused as soon as it is longer than allowed.

    Of a refused body some more is read and dropped: a client that is still sending when the
    connection closes would see a reset instead of the answer. One that asks first
    (``Expect: 100-continue``) is told at once.
    """
    length = request.headers.get("content-length", "")
    refused = length.isdigit() and int(length) > limit
    if refused and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_many_bytes(settings)
    size = 0
    async for chunk in _timely(request, settings):
        size += len(chunk)
        refused = refused or size > limit
        if refused and size > limit + _DRAIN:
            break
        if not refused:
            yield chunk
    if refused:
        raise _too_many_bytes(settings)


async def _timely(request: Request, settings: ServeSettings) -> AsyncGenerator[bytes, None]:
    """The body as it comes, refused where nothing of it came for a while.

    A place among the accepted images is not kept for who sends nothing.
    """
    stream = request.stream()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), settings.idle_timeout_s)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:  # another class before Python 3.11
            raise failures.too_slow(settings.idle_timeout_s) from None
        yield chunk


def decode(upload: Upload, settings: ServeSettings, white_level: int = FULL_WHITE) -> Picture:
    """The first frame of an image file, upright.

    Raises:
        Refused: 413 for more pixels than allowed, known from the header before anything is
            decoded; 422 for what is no image, or has values that are none.
    """
    try:
        with Image.open(io.BytesIO(upload.data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > settings.max_pixels:
                raise _too_many_pixels(f"{width} x {height} pixels", settings)
            check_scans(image, lambda: upload.data)
            image.load()
            return Picture.from_image(ImageOps.exif_transpose(image), white_level)
    except failures.Refused:
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels("too many pixels", settings) from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise failures.unreadable(f"it is none of {known}, or its header is damaged") from None
    except Exception as error:  # whatever a decoder stumbles over in a broken file
        reason = " ".join(str(error).rstrip(".").split()) or type(error).__name__
        raise failures.unreadable(reason) from error


def _too_many_pixels(what: str, settings: ServeSettings) -> failures.Refused:
    limit = f"{settings.max_pixels / 1e6:g} million pixels"
    return failures.too_large(f"The image has {what}", limit)


def _too_many_bytes(settings: ServeSettings) -> failures.Refused:
    return failures.too_large("The upload is too large", f"{settings.max_upload_mb:g} MB")


__all__ = ["FORMATS", "ClientDisconnect", "Upload", "decode", "read_upload"]
