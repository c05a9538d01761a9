"""One search of a folder: what it lists, what it leaves out, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grad.data.images import image_suffixes
from grad.data.samples import ROI_FILE, Sample
from grad.system.errors import GradError
from grad.system.names import check_text


@dataclass
class Scan:
    """What one search of a folder has come across so far.

    Args:
        strict: raise what would be a note.
        problems: where errors are gathered; None: the first is raised.
    """

    strict: bool
    problems: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    other_files: list[Path] = field(default_factory=list)  # in image folders, but no images
    hidden_files: int = 0

    def wrong(self, error: GradError) -> None:
        """Raise what keeps a class from being used, or gather it with others."""
        if self.problems is None:
            raise error
        self.problems.append(str(error))

    def left_out(self, text: str) -> None:
        """Note that something is not used."""
        if self.strict:
            raise GradError(f"{text} (--strict makes this an error).")
        self.notes.append(f"{text}.")

    def leave_out(self, paths: Sequence[Path], why: str) -> None:
        """Note the visible ones among some files and folders as not used."""
        visible = [path for path in paths if is_visible(path)]
        if visible:
            more = f" and {len(visible) - 1} more are" if visible[1:] else " is"
            self.left_out(f"{visible[0]}{more} left out: {why}")

    def images(self, folder: Path) -> list[Path]:
        """The image files right inside a folder, by name; none where there is no folder."""
        found, folders = [], []
        for path in entries(folder):
            if path.name.startswith("."):
                self.hidden_files += path.is_file()
            elif path.is_dir():
                folders.append(path)
            elif path.suffix.lower() in image_suffixes():
                found.append(path)
            else:
                self.other_files.append(path)
        if folders:
            self.left_out(f"{folder} holds {count(len(folders), 'folder')}, which is not searched")
        return found

    def finish(self) -> tuple[str, ...]:
        """All notes, with the counts of files that are no images."""
        if self.other_files:
            files = count(len(self.other_files), "file")
            self.left_out(
                f"{files} without an image's ending left out, the first is {self.other_files[0]}"
            )
        if self.hidden_files:
            self.notes.append(f"{count(self.hidden_files, 'hidden file')} left out.")
        return tuple(self.notes)


Samples = list[Sample]


@dataclass
class ClassImages:
    """The images of one class, as a layout has them."""

    train: Samples = field(default_factory=list)
    test: Samples = field(default_factory=list)
    validation: Samples = field(default_factory=list)


Reader = Callable[[Scan], ClassImages]


def entries(folder: Path) -> list[Path]:
    """What a folder holds, by name, but regions of interest; nothing where there is no folder."""
    try:
        found = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise GradError(f"The folder {folder} can't be read: {error.strerror}.") from error
    for path in found:
        check_text(path)
    return [path for path in found if path.name != ROI_FILE]


def is_visible(path: Path) -> bool:
    """Whether a file or folder is meant to be seen."""
    return not path.name.startswith((".", "__MACOSX"))


def folders_in(folder: Path) -> list[Path]:
    """The visible folders right inside a folder, by name."""
    return [path for path in entries(folder) if path.is_dir() and is_visible(path)]


def holds_images(folder: Path) -> bool:
    """Whether an image file lies right inside a folder."""
    return any(is_image(path) for path in entries(folder))


def is_image(path: Path) -> bool:
    """Whether a file is a visible one with an image's ending."""
    return path.suffix.lower() in image_suffixes() and is_visible(path) and path.is_file()


def order(sample: Sample) -> tuple[str, str]:
    """What the test images of a class are sorted by."""
    return sample.defect, sample.path.as_posix()


def count(number: int, what: str, plural: str = "s") -> str:
    """A number and its noun, such as "1 file" or "2 files", by the ending of its plural."""
    return f"{number} {what}" if number == 1 else f"{number} {what}{plural}"
