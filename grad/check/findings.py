"""What is wrong or odd in a data set, in sentences that say how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grad.data.copies import find_near_copies
from grad.data.samples import FULL_WHITE, Dataset, Sample
from grad.data.scan import count
from grad.data.survey import DEEP, Survey

FEW_IMAGES = 10  # good training images of a class, below which results are rough
SHRINKING = 4.0  # image sides for each side of the network's input, from which small defects vanish
TILES = 6.0  # the same, from which tiles are better than larger inputs
SHAPES = 1.1  # ratio of the widest to the narrowest shape of a class's images
DARK = 1 / 8  # brightest value of deep images, as a share of white
STRETCHING = 2.0  # ratio of the sides of an image from which the square distorts it much


@dataclass(frozen=True)
class Findings:
    """Sentences about a data set.

    Attributes:
        errors: what keeps it from being trained.
        warnings: what makes results worse or less certain than they look.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def examine(
    dataset: Dataset, survey: Survey, image_size: int, white_level: int = FULL_WHITE
) -> Findings:
    """Look for what is wrong with the images of a data set.

    Args:
        dataset: what was found in a folder.
        survey: of its images.
        image_size: side of the square that images are resized to, in pixels.
        white_level: the 16-bit value that counts as white.
    """
    errors = [str(error) for error in survey.unreadable_masks.values()]
    warnings: list[str] = []
    for name in dataset.classes:
        train = [sample for sample in dataset.train if sample.class_name == name]
        test = [sample for sample in dataset.test if sample.class_name == name]
        errors += _unusable(name, train, survey)
        warnings += [
            *_unreadable(name, [s for s in dataset.samples if s.class_name == name], survey),
            *_few(name, train, survey),
            *_lacking(name, test),
            *_sizes(name, train + test, survey, image_size),
            *_kinds(name, train, test, survey),
            *_dark(name, train + test, survey, white_level),
            *_empty_masks(name, test, survey),
            *_soft_masks(name, test, survey),
            *_near_copies(name, train, test, survey),
        ]
    return Findings(tuple(errors), (*warnings, *_copies(dataset, survey)))


def _unusable(name: str, train: Sequence[Sample], survey: Survey) -> Iterator[str]:
    readable = sum(sample.path in survey.images for sample in train)
    if train and readable < 2:
        yield (
            f"{name}: {_of(readable, len(train))} training images can be read, and two are needed: "
            "replace the broken ones."
        )


def _unreadable(name: str, samples: Sequence[Sample], survey: Survey) -> Iterator[str]:
    broken = [s.path for s in samples if s.path in survey.unreadable]
    if broken:
        reason = survey.unreadable[broken[0]].reason
        yield (
            f"{name}: {_of(len(broken), len(samples))} images can't be read and would be left out, "
            f"the first is {broken[0]} ({reason}): replace or remove them."
        )


def _few(name: str, train: Sequence[Sample], survey: Survey) -> Iterator[str]:
    readable = sum(sample.path in survey.images for sample in train)
    if 2 <= readable < FEW_IMAGES:
        yield (
            f"{name}: only {readable} good training images; what is normal is known roughly then: "
            "add more."
        )


def _lacking(name: str, test: Sequence[Sample]) -> Iterator[str]:
    anomalous = {sample.anomalous for sample in test}
    if anomalous == {True}:
        yield f"{name}: no good test images, so false alarms can't be counted: add test/good."
    elif anomalous == {False}:
        yield f"{name}: no defective test images, so nothing can be found: add test/DEFECT."


def _sizes(name: str, samples: Sequence[Sample], survey: Survey, image_size: int) -> Iterator[str]:
    sizes = {s.path: survey.images[s.path].size for s in samples if s.path in survey.images}
    tiny = _where(sizes, lambda size: min(size) < image_size / SHRINKING)
    huge = _where(sizes, lambda size: max(size) >= image_size * SHRINKING)
    long = _where(sizes, lambda size: max(size) >= STRETCHING * min(size))
    if tiny:
        yield (
            f"{name}: {_first(tiny, sizes)} is enlarged to {image_size} x {image_size} and shows "
            "no more than before: choose a smaller --image-size, or take larger images."
        )
    if huge:
        lost = max(sizes[huge[0]]) / image_size
        yield (
            f"{name}: {_first(huge, sizes)} is shrunk to {image_size} x {image_size}, where "
            f"defects narrower than about {lost:.0f} pixels vanish: {_remedy(lost, image_size)}."
        )
    shapes = sorted(sizes, key=lambda path: sizes[path][1] / sizes[path][0])
    if shapes and _ratio(sizes[shapes[-1]]) > SHAPES * _ratio(sizes[shapes[0]]):
        yield (
            f"{name}: images have several shapes, from {_pixels(sizes[shapes[0]])} "
            f"({shapes[0]}) to {_pixels(sizes[shapes[-1]])} ({shapes[-1]}); each is squeezed into "
            "the same square, so one thing looks different in them: crop all to one shape."
        )
    if long:
        yield (
            f"{name}: {_first(long, sizes)} is squeezed into a square: crop images to the part "
            "that matters, where that is possible."
        )


def _kinds(
    name: str, train: Sequence[Sample], test: Sequence[Sample], survey: Survey
) -> Iterator[str]:
    trained, tested = (
        {survey.images[s.path].kind for s in samples if s.path in survey.images}
        for samples in (train, test)
    )
    new = sorted(tested - trained)
    if trained and new:
        yield (
            f"{name}: test images are {' and '.join(new)}, training images "
            f"{' and '.join(sorted(trained))}: what differs may look like a defect, so take both "
            "in the same way."
        )


def _empty_masks(name: str, test: Sequence[Sample], survey: Survey) -> Iterator[str]:
    empty = [sample.mask for sample in test if sample.mask in survey.empty_masks]
    if empty:
        yield (
            f"{name}: {count(len(empty), 'mask')} without a single pixel, the first is {empty[0]}:"
            " draw the defect, or remove the mask."
        )


def _soft_masks(name: str, test: Sequence[Sample], survey: Survey) -> Iterator[str]:
    soft = [sample.mask for sample in test if sample.mask in survey.soft_masks]
    if soft:
        yield (
            f"{name}: {count(len(soft), 'mask')} with many values between black and white, as "
            f"JPEG and smoothing make them, the first is {soft[0]}: every value above zero counts "
            "as defect, also the grey around it: train and evaluate with --mask-rule half."
        )


def _dark(name: str, samples: Sequence[Sample], survey: Survey, white_level: int) -> Iterator[str]:
    """Nearly black, as of fewer bits than the white level has; or brighter than that."""
    found = {s.path: survey.images[s.path] for s in samples if s.path in survey.images}
    remedies = {
        DEEP: "give --white-level N, what their camera's white is",
        "floating point": "multiply their values so that white is 1",
    }
    usual = "expose them longer; of colours with 16 bits the upper 8 are read: scale them up"
    for kind in sorted({fact.kind for fact in found.values()}):
        white, remedy = white_level if kind == DEEP else 1, remedies.get(kind, usual)
        values = {path: fact.brightest for path, fact in found.items() if fact.kind == kind}
        share = max(values.values()) / white
        if share <= DARK:
            yield (
                f"{name}: the brightest value of all {kind} images is {share:.1%} of white, which "
                f"is {white}: the network sees them nearly black; {remedy}."
            )
        above = [path for path, value in values.items() if round(value) > white]
        if above:
            yield (
                f"{name}: {count(len(above), 'image')} with values above the white level {white}, "
                f"which count as white, the first is {above[0]}: give --white-level N."
            )


def _copies(dataset: Dataset, survey: Survey) -> Iterator[str]:
    """Equal pictures where there should be different ones."""
    trained = _by_content(dataset.train, survey)
    good = _by_content([s for s in dataset.test if not s.anomalous], survey)
    bad = _by_content([s for s in dataset.test if s.anomalous], survey)
    shared = [digest for digest in trained if digest in good or digest in bad]
    if shared:
        first = shared[0]
        yield (
            f"{count(len(shared), 'picture')} of the test set {_are(len(shared))} trained on too, "
            f"the first is {(good.get(first) or bad[first])[0]} = {trained[first][0]}: metrics "
            "would be too good, so keep each picture in one of both."
        )
    both = [digest for digest in good if digest in bad]
    if both:
        yield (
            f"{count(len(both), 'test picture')} {_are(len(both))} good and defective at once, "
            f"the first is {good[both[0]][0]} = {bad[both[0]][0]}: remove the wrong one."
        )
    twice = [paths for paths in trained.values() if len(paths) > 1]
    if twice:
        yield (
            f"{count(len(twice), 'training picture')} {_are(len(twice))} there repeatedly, the "
            f"first is {twice[0][0]} = {twice[0][1]}: one kept for thresholds is then trained on "
            "too, so remove the copies."
        )


def _near_copies(
    name: str, train: Sequence[Sample], test: Sequence[Sample], survey: Survey
) -> Iterator[str]:
    """Pictures that are the same but for format, size or brightness."""
    known, further = _by_content(train, survey), _by_content(test, survey)
    trained = [paths[0] for paths in known.values()]
    tested = [paths[0] for digest, paths in further.items() if digest not in known]
    trained_looks, tested_looks = ([survey.images[p].look for p in ps] for ps in (trained, tested))
    twice = find_near_copies(trained_looks)
    if twice:
        copy, original = twice[0]
        yield (
            f"{name}: near copies among the training images: {len(twice)}, the first is "
            f"{trained[copy]} of {trained[original]}, perhaps one shot that was saved twice: it "
            "counts twice then, so keep one of each."
        )
    shared = find_near_copies(trained_looks, tested_looks)
    if shared:
        copy, original = shared[0]
        yield (
            f"{name}: near copies of training images among the test images: {len(shared)}, the "
            f"first is {tested[copy]} of {trained[original]}: metrics would be too good, so keep "
            "each shot in one of both."
        )


def _by_content(samples: Sequence[Sample], survey: Survey) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for sample in samples:
        facts = survey.images.get(sample.path)
        if facts is not None:
            found.setdefault(facts.digest, []).append(sample.path)
    return found


def _remedy(lost: float, image_size: int) -> str:
    """What keeps small defects: larger inputs up to a point, tiles beyond."""
    if lost < TILES:
        return "choose a larger --image-size"
    return f"look at it in tiles, --tile {2 * image_size} for example"


def _ratio(size: tuple[int, int]) -> float:
    return size[1] / size[0]


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _where(
    sizes: dict[Path, tuple[int, int]], holds: Callable[[tuple[int, int]], bool]
) -> list[Path]:
    return [path for path, size in sizes.items() if holds(size)]


def _first(paths: Sequence[Path], sizes: dict[Path, tuple[int, int]]) -> str:
    """The first of some images, with its size and how many there are."""
    height, width = sizes[paths[0]]
    more = f" (and {len(paths) - 1} more)" if paths[1:] else ""
    return f"{paths[0]}{more}, {width} x {height} pixels,"


def _of(some: int, every: int) -> str:
    return f"{some or 'none'} of {every}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
