"""What a data set is: samples, and the few things one does with a set of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from grad.system.errors import GradError

MaskRule = Literal["any", "half"]
"""Which pixels of a mask mark a defect: see :func:`grad.data.images.load_mask`."""

FULL_WHITE = 2**16 - 1
WhiteLevel: TypeAlias = int | Literal["auto"]
"""The value of 16-bit images that counts as white: see :mod:`grad.data.white_level`."""

Augmentation = Literal["light", "shift", "rotate90", "flip"]
"""In which ways good images stay good: see :mod:`grad.data.augment`."""

ROI_FILE = "roi.png"  # in the folder of a class; under this name there are no images
GOOD = "good"
_LONGEST_NAME = 200  # bytes; file systems take 255, and endings come on top
_GOOD_NAMES = frozenset({GOOD, "ok", "normal"})
_DEFECTIVE_NAMES = frozenset(
    {"ng", "ko", "nok", "bad", "defect", "defects", "defective", "abnormal", "anomaly", "anomalous"}
)


@dataclass(frozen=True)
class Roi:
    """A region of interest (:mod:`grad.data.roi`).

    Attributes:
        mask: base64 of a PNG, not black where one looks.
        painted: whether images are painted over outside of it before the network sees them.
    """

    mask: str
    painted: bool = True


@dataclass(frozen=True)
class Sample:
    """One image file and what is known about it.

    Attributes:
        path: the image.
        class_name: the class of objects it belongs to.
        split: training images are all good; test images are good or anomalous.
        anomalous: whether it shows a defect.
        defect: the kind of defect, ``"good"`` for good images.
        mask: the ground truth image, or a folder of several that count together; None for good
            images and where there is none.
        mask_rule: which of its pixels mark a defect.
        white_level: the 16-bit value that counts as white (:mod:`grad.data.white_level`).
        roi: what of the image is looked at; None: all.
        min_area: pixels of the smallest region of it that counts (:mod:`grad.score.regions`).
        group: images of a class that have it in common are left out together where thresholds are
            made, such as those of a roll or a day; None: it belongs to no other.
        part: images of a class that have it in common are views of one part, which is anomalous
            where one of them is; None: the image is all there is of its part.
        variant: which variant of the image this is (:mod:`grad.data.augment`); None: the image as
            it comes.
    """

    path: Path
    class_name: str
    split: Literal["train", "test"]
    anomalous: bool = False
    defect: str = GOOD
    mask: Path | None = None
    mask_rule: MaskRule = "any"
    white_level: int = FULL_WHITE
    roi: Roi | None = None
    min_area: int = 1
    group: str | None = None
    part: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class ClassSummary:
    """How many images a class has: training, good test, anomalous test, test masks, validation."""

    name: str
    train: int
    test_good: int
    test_anomalous: int
    masks: int
    validation: int


@dataclass(frozen=True)
class Dataset:
    """The images found in a folder.

    Attributes:
        root: the folder.
        layout: what it was recognised as: a name of :data:`grad.data.layouts.known.LAYOUTS`.
        train: good images, ordered by class and file name.
        test: good and anomalous images, ordered by class, kind of defect and file name.
        notes: one sentence for each thing that was odd: files left out, masks missing.
        validation: further good images for thresholds, which are not trained on.
    """

    root: Path
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    validation: tuple[Sample, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All of them, whatever for."""
        return self.train + self.validation + self.test

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted({sample.class_name for sample in self.samples}))

    def select(self, classes: Sequence[str]) -> Dataset:
        """The same set with some of its classes only.

        Raises:
            GradError: a name is not one of the set's classes, or there is no name.
        """
        wanted = set(check_classes(classes, self.classes, self.root))
        return replace(
            self,
            train=tuple(sample for sample in self.train if sample.class_name in wanted),
            test=tuple(sample for sample in self.test if sample.class_name in wanted),
            validation=tuple(s for s in self.validation if s.class_name in wanted),
        )

    def with_mask_rule(self, rule: MaskRule) -> Dataset:
        """The same set with another rule for all its masks."""
        return replace(self, test=tuple(replace(s, mask_rule=rule) for s in self.test))

    def summary(self) -> list[ClassSummary]:
        """The counts of each class, ordered by name."""
        rows = []
        for name in self.classes:
            test = [sample for sample in self.test if sample.class_name == name]
            anomalous = sum(sample.anomalous for sample in test)
            rows.append(
                ClassSummary(
                    name=name,
                    train=sum(sample.class_name == name for sample in self.train),
                    test_good=len(test) - anomalous,
                    test_anomalous=anomalous,
                    masks=sum(sample.mask is not None for sample in test),
                    validation=sum(sample.class_name == name for sample in self.validation),
                )
            )
        return rows


def group_of(sample: Sample) -> str:
    """What an image has in common with those that belong to it: its group, its part, or itself."""
    return sample.group or sample.part or sample.path.as_posix()


def is_good(folder: str) -> bool:
    """Whether a folder of this name holds good images: good, OK, normal, in any case."""
    return folder.lower() in _GOOD_NAMES


def is_defective(folder: str) -> bool:
    """Whether a folder of this name holds defects of all kinds: NG, bad, defect, in any case."""
    return folder.lower() in _DEFECTIVE_NAMES


def check_white_level(level: WhiteLevel) -> None:
    """Raise a GradError for ``--white-level`` that is none."""
    if level != "auto" and not 1 <= level <= FULL_WHITE:
        raise GradError(f"--white-level {level} must be from 1 to {FULL_WHITE}, or auto.")


def check_class_name(name: str, where: object) -> str:
    """The name, where it is one part of a path and can be shown: results go to folders of classes.

    Raises:
        GradError: it is not.
    """
    odd = name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\")
    if odd or len(name.encode()) > _LONGEST_NAME:
        raise GradError(
            f"{where}: {name[:_LONGEST_NAME]!r} can't be the name of a class, as results go to a "
            "folder of that name: leave out slashes, dots alone, and letters that can't be shown, "
            f"and take at most {_LONGEST_NAME} bytes."
        )
    return name


def check_classes(wanted: Sequence[str], known: Sequence[str], root: Path) -> list[str]:
    """The wanted class names, sorted and without repeats.

    Raises:
        GradError: a name is unknown (the known ones are listed), or there is no name.
    """
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        what = f"names {', '.join(unknown)}, which {root} does not hold" if unknown else "is empty"
        raise GradError(f"--classes {what}: choose among {', '.join(sorted(known))}.")
    return sorted(set(wanted))


def few_shot(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """Keep ``shots`` training images of each class, chosen by ``seed``; the test set stays.

    A class's choice depends on the seed and its own file names only. A larger number of shots
    keeps the images of a smaller one.

    Raises:
        GradError: ``shots`` is below 1 or above the number of images of a class.
    """
    if shots < 1:
        raise GradError(f"--few-shot {shots} is too small: give the number of images, 1 or more.")
    chosen: list[Sample] = []
    for name in dataset.classes:
        samples = [sample for sample in dataset.train if sample.class_name == name]
        if len(samples) < shots:
            raise GradError(
                f"--few-shot {shots} is too large: class {name} in {dataset.root} has "
                f"{len(samples)} training images."
            )
        random.Random(f"{seed}/{name}").shuffle(samples)
        chosen += sorted(samples[:shots], key=lambda sample: sample.path.as_posix())
    return replace(dataset, train=tuple(chosen))


def hold_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split training images into those to learn from and those to make thresholds from.

    A class's choice depends on the seed and its own file names only. A larger share keeps the
    images of a smaller one. Small classes keep all for training, see :func:`held_out_count`.
    Variants of an image go where it goes.

    Returns:
        indices to learn from and indices held out, both ascending.
    """
    held: set[int] = set()
    for name in {sample.class_name for sample in samples}:
        mine = [i for i, s in enumerate(samples) if s.class_name == name and s.variant is None]
        mine.sort(key=lambda index: samples[index].path.as_posix())
        random.Random(f"{seed}/{name}/calibration").shuffle(mine)
        held.update(mine[: held_out_count(len(mine), share)])
    images = {(samples[i].class_name, samples[i].path) for i in held}
    held.update(
        i
        for i, sample in enumerate(samples)
        if sample.variant is not None and (sample.class_name, sample.path) in images
    )
    rest = [index for index in range(len(samples)) if index not in held]
    return rest, sorted(held)


def held_out_count(images: int, share: float) -> int:
    """How many of a class's images to hold out: the share, rounded; none where that leaves too few.

    At least 2 must be held out and 4 left to learn from.
    """
    count = int(images * share + 0.5)
    return count if count >= 2 and images - count >= 4 else 0
