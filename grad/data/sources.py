"""Where images come from: files, folders, patterns, lists, videos, cameras, and what is in memory.

Every source becomes a stream of :class:`Item`, found as they are asked for, so that a million files
or an endless camera need no memory. Videos and cameras are read by OpenCV, an optional dependency.
"""

from __future__ import annotations

import glob
import importlib.util
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageOps import exif_transpose
from torch import Tensor

from grad.data.images import image_suffixes, load_picture
from grad.data.picture import Picture
from grad.data.samples import FULL_WHITE, ROI_FILE
from grad.system.errors import GradError, first_line

One: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor"
"""A path of an image or a folder, an image in memory, or a batch of them."""

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

_CAMERA = re.compile(r"camera:(\d+)")
_STREAM = re.compile(r"(rtsp|rtsps|rtmp|http|https|udp|tcp)://")


@dataclass(frozen=True)
class Item:
    """An image that is still to be decoded.

    Attributes:
        name: what people know it by: its path, or its place in a video, batch or list.
        key: a relative path, for files that are made of it.
        content: a file, or what was in memory.
        white_level: the 16-bit value that counts as white (:mod:`grad.data.white_level`).
    """

    name: str
    key: str
    content: Path | Image.Image | NDArray[Any]
    white_level: int = FULL_WHITE

    def picture(self) -> Picture:
        """Decode it.

        Raises:
            GradError: it can't be used; says why.
        """
        if isinstance(self.content, Path):
            return load_picture(self.content, self.white_level)
        try:
            if isinstance(self.content, Image.Image):
                image = self.content if 0 in self.content.size else exif_transpose(self.content)
                return Picture.from_image(image, self.white_level)
            return Picture.from_array(self.content, self.white_level)
        except Exception as error:  # Pillow's decoders each have their own
            raise GradError(f"{self.name} can't be used: {error}.") from error


def items_of(source: One | Item | Iterable[Any], name: str = "image") -> Iterator[Item]:
    """What :meth:`grad.Detector.predict` takes as items: one of anything, or any nesting of lists.

    Raises:
        GradError: a folder without images; a type or a shape that is no image.
    """
    if isinstance(source, Item):
        yield source
    elif isinstance(source, (str, os.PathLike)):
        yield from _files(Path(source).expanduser())
    elif isinstance(source, Image.Image):
        yield Item(name, name, source)
    elif isinstance(source, (np.ndarray, Tensor)):
        array = source if isinstance(source, np.ndarray) else _channels_last(source, name)
        if array.ndim == 4:
            for index, one in enumerate(array):
                yield Item(f"{name} {index}", f"{name}-{index}", one)
        else:
            yield Item(name, name, array)
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, dict)):
        for index, one in enumerate(source):
            yield from items_of(one, f"{name} {index}")
    else:
        raise GradError(
            f"{name} is a {type(source).__name__}: give a path, a Pillow image, a numpy array, a "
            "tensor, or a list of those."
        )


def find_items(paths: Iterable[str], lines: Iterable[str] = ()) -> Iterator[Item]:
    """Items of what a command line names.

    Args:
        paths: image files, folders (searched to the bottom), glob patterns, video files,
            ``camera:0``, addresses of network cameras, and ``-`` for the paths in ``lines``.
        lines: a path in each.

    Raises:
        GradError: nothing is found under a path; OpenCV is missing; a camera ends. A file of the
            list that is not there raises only when it is decoded.
    """
    paths = list(paths)
    root = _common_folder(path for path in paths if path != "-")
    for path in paths:
        if path == "-":
            for line in lines:
                if line.strip():
                    yield from _listed(Path(line.strip("\r\n")).expanduser())
        else:
            yield from _find(path, root)


def count_items(paths: Iterable[str]) -> int | None:
    """How many items there will be; None where only going through them tells."""
    count = 0
    for path in paths:
        if path == "-" or is_live(path) or _is_video(Path(path)):
            return None
        count += sum(1 for _ in _find(path, None))
    return count


def is_live(path: str) -> bool:
    """Whether a path means a camera, whose pictures come when they come."""
    return bool(_CAMERA.fullmatch(path) or _STREAM.match(path))


def _listed(path: Path) -> Iterator[Item]:
    """What a line of a list means; a file that is not there is one that can't be read."""
    if _is_video(path):
        yield from _frames(str(path), _key(path, None), live=False)
    else:
        yield from _files(path)


def _find(path: str, root: Path | None) -> Iterator[Item]:
    """Items of one path; keys are relative to ``root``."""
    place = Path(path).expanduser()
    if is_live(path):
        camera = _CAMERA.fullmatch(path)
        yield from _frames(int(camera[1]) if camera else path, path, live=True)
    elif _is_video(place):
        yield from _frames(str(place), _key(place, root), live=False)
    elif os.path.exists(place):
        yield from _files(place, root)
    elif not glob.has_magic(path):
        raise GradError(f"There is no file or folder {path}: check the path.")
    else:
        found = False
        for match in sorted(glob.iglob(str(place), recursive=True)):
            if _has_image_name(match) and not Path(match).is_dir():
                found = True
                yield Item(match, _key(Path(match), root), Path(match))
        if not found:
            raise GradError(f"The pattern {path} fits no image: check it, and quote it.")


def _files(path: Path, root: Path | None = None) -> Iterator[Item]:
    """A file, or all images in a folder and below it, by name."""
    if not os.path.isdir(path):  # also of a name that can't be one
        yield Item(str(path), _key(path, root), path)
        return
    found = False
    for file in walk_images(path):
        found = True
        yield Item(str(file), _key(file, path if root is None else root), file)
    if not found:
        raise GradError(f"The folder {path} holds no images: give another folder, or image files.")


def walk_images(
    folder: Path, leave_out: Iterable[Path] = (), above: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Image files in a folder and below it, through links too, but never in a circle.

    Regions of interest (``roi.png``) are none.

    Args:
        folder: where to look.
        leave_out: folders in it that are not looked into.
        above: the real paths of folders that lead to this one.

    Raises:
        GradError: a folder can't be read.
    """
    above = (*above, os.path.realpath(folder), *map(os.path.realpath, leave_out))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise GradError(f"The folder {folder} can't be read ({error.strerror}).") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if os.path.realpath(entry.path) not in above:
                yield from walk_images(Path(entry.path), (), above)
        elif _has_image_name(entry.name):
            yield Path(entry.path)


def _has_image_name(path: str) -> bool:
    """Whether a path ends as an image's; a region of interest is none, wherever it is found."""
    return Path(path).suffix.lower() in image_suffixes() and Path(path).name != ROI_FILE


def _channels_last(tensor: Tensor, name: str) -> NDArray[Any]:
    """(h, w), (C, h, w) or (B, C, h, w), C 1, 3 or 4, as an array whose last axis is C."""
    try:
        shape = tuple(tensor.shape)
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
        array: NDArray[Any] = tensor.numpy(force=True)
    except (TypeError, RuntimeError) as error:  # sparse, quantised, nested, meta
        reason = first_line(error)
        raise GradError(
            f"{name} is a tensor whose values can't be read ({reason}): give a dense one."
        ) from error
    if len(shape) not in (2, 3, 4) or (len(shape) > 2 and shape[-3] not in (1, 3, 4)):
        raise GradError(f"{name} is a tensor of shape {shape}: give (3, h, w) or (B, 3, h, w).")
    return array if len(shape) == 2 else np.moveaxis(array, -3, -1)


def _frames(source: int | str, name: str, *, live: bool) -> Iterator[Item]:
    """The pictures of a camera or a video, as RGB arrays."""
    with _capture(source, name, live=live) as capture:
        for number in itertools.count():
            whole, frame = capture.read()
            if not whole or frame is None:
                break
            rgb = np.ascontiguousarray(frame[:, :, ::-1])
            key = re.sub(r"[^\w./-]+", "-", name).strip("/")
            yield Item(f"{name} frame {number}", f"{key}/{number:06}", rgb)
    if live:
        raise GradError(
            f"{name} gives no more pictures after {number}: check its cable or its address; what "
            "was predicted until then is kept."
        )
    if number == 0:
        raise GradError(f"The video {source} holds no picture that OpenCV can decode.")


@contextmanager
def _capture(source: int | str, name: str, *, live: bool) -> Iterator[Any]:
    if importlib.util.find_spec("cv2") is None:
        raise GradError(
            f"{name} needs OpenCV, which is not installed: pip install 'grad-anomaly[video]'."
        )
    import cv2

    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # its warnings come beside the sentences below
    if isinstance(source, str) and not live and not Path(source).is_file():
        raise GradError(f"There is no file {source}.")
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            what = "camera" if live else "video"
            raise GradError(f"The {what} {name} can't be opened: check that it is there and works.")
        if live:
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not a queue of old ones
        yield capture
    finally:
        capture.release()


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def _common_folder(paths: Iterable[str]) -> Path | None:
    """The deepest folder that holds everything that is named."""
    folders = []
    for path in paths:
        if is_live(path):
            continue
        place = Path(os.path.abspath(Path(path).expanduser()))
        while not place.is_dir() and place != place.parent:
            place = place.parent
        folders.append(place)
    return Path(os.path.commonpath(folders)) if folders else None


def _key(path: Path, root: Path | None) -> str:
    """The path below ``root``; the whole path without what leads out of a folder where it isn't."""
    whole = Path(os.path.abspath(path))
    if root is not None and whole.is_relative_to(os.path.abspath(root)):
        return whole.relative_to(os.path.abspath(root)).as_posix()
    return whole.as_posix().lstrip("/")
