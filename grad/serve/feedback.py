"""Images that people have said something of: kept in a folder, each once, for ``grad update``.

``FOLDER/CLASS/good`` and ``FOLDER/CLASS/defect`` hold the files as they were uploaded. A file is
known by a digest of its bytes, which is in its name; beside it a ``.json`` has the answer that it
got. Nothing is remembered elsewhere, so that people may look through the folder, and move or remove
what they like.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from PIL import Image

from grad.data.samples import check_class_name
from grad.serve import failures
from grad.serve.uploads import FORMATS
from grad.system.errors import GradError
from grad.system.files import replacing

Said = Literal["good", "defect"]
SAID: tuple[Said, ...] = ("good", "defect")
MOST_IMAGES, MOST_MB = 2000, 2000
_DIGITS, _LONGEST = 16, 80
_KEPT = re.compile(rf".*-([0-9a-f]{{{_DIGITS}}})\.(?!json$)[a-z0-9]+")
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


@dataclass(frozen=True)
class Kept:
    """An image in the folder.

    Attributes:
        path: the file.
        class_name, said: what it was said to be.
        size: in bytes.
    """

    path: Path
    class_name: str
    said: Said
    size: int


class FeedbackFolder:
    """The folder of ``--feedback``, or that of one of several models in it.

    Args:
        folder: made where it is missing.

    Raises:
        GradError: it can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GradError(
                f"The folder --feedback {folder} can't be made ({error.strerror}): choose another."
            ) from error

    def keep(
        self, data: bytes, name: str, class_name: str, said: Said, answer: dict[str, Any]
    ) -> Path:
        """Keep an image, or move it to where it is now said to belong; returns its path.

        Args:
            data: the file, an image of a known format.
            name: what it is called elsewhere.
            class_name: of the image.
            said: what it was said to be.
            answer: what the model said.

        Raises:
            Refused: 507, the folder is full.
            GradError: the folder can't be written to.
        """
        home = self.folder / check_class_name(class_name, "class_name") / said
        digest = hashlib.sha256(data).hexdigest()[:_DIGITS]
        with self._lock:
            kept = self.kept()
            known = [one.path for one in kept if f"-{digest}." in one.path.name]
            if not known:
                _check_room(kept, len(data))
            path = home / (known[0].name if known else f"{_stem(name)}-{digest}.{_suffix(data)}")
            told = {"name": name, "said": said, "answer": answer}
            with replacing(_beside(path)) as temporary:
                temporary.write_text(json.dumps(told) + "\n", encoding="utf-8")
            if not known:
                with replacing(path) as temporary:
                    temporary.write_bytes(data)
            elif known[0] != path:
                try:
                    os.replace(known[0], path)
                except OSError as error:
                    raise GradError(f"{known[0]} can't be moved ({error.strerror}).") from error
                with suppress(OSError):
                    _beside(known[0]).unlink()
        return path

    def kept(self) -> list[Kept]:
        """All images, by class and name."""
        found = []
        for said in SAID:
            for path in sorted(self.folder.glob(f"*/{said}/*")):
                with suppress(OSError):  # removed meanwhile
                    if _KEPT.fullmatch(path.name):
                        size = path.stat().st_size
                        found.append(Kept(path, path.parent.parent.name, said, size))
        return sorted(found, key=lambda one: (one.class_name, one.path.name))


def _check_room(kept: list[Kept], size: int) -> None:
    megabytes = (sum(one.size for one in kept) + size) / 1e6
    if len(kept) >= MOST_IMAGES or megabytes > MOST_MB:
        raise failures.feedback_full(
            f"{MOST_IMAGES:,} images" if len(kept) >= MOST_IMAGES else f"{MOST_MB:,} MB"
        )


def _stem(name: str) -> str:
    """Of a name from outside, what every file system takes."""
    stem = PurePath(name.replace("\\", "/")).stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("._-")[:_LONGEST] or "image"


def _suffix(data: bytes) -> str:
    """The ending that belongs to the content, whatever the name says."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        name = image.format or "PNG"
    return _SUFFIXES.get(name, name.lower())


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")
