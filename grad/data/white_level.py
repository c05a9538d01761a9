"""The white level: the value of 16-bit images that counts as white.

Cameras of 10, 12 or 14 bits write files of 16, which are nearly black where 65535 is white.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from grad.data.images import brightest_value
from grad.data.samples import FULL_WHITE, Dataset, Sample, WhiteLevel
from grad.data.scan import count

_BITS = (10, 12, 14)  # of cameras


def white_level_of(brightest: int) -> int:
    """What the largest value of all training images tells: 1023, 4095, 16383, or else 65535.

    It tells a number of bits where it uses the highest of them.
    """
    for bits in _BITS:
        if 1 << bits - 1 <= brightest < 1 << bits:
            return (1 << bits) - 1
    return FULL_WHITE


def describe_white_level(brightest: int, level: int) -> str:
    """What is taken, and what it is taken from, in a sentence."""
    return (
        f"White of 16-bit images is {level}; the brightest value of the training images is "
        f"{brightest} (--white-level N takes another)."
    )


def with_white_level(
    dataset: Dataset,
    level: WhiteLevel,
    workers: int,
    validation: Sequence[Sample] = (),
) -> tuple[Dataset, tuple[Sample, ...]]:
    """The same images with a white level, which the set's notes tell where it is not 65535.

    Args:
        dataset: the images of a run.
        level: of 16-bit values; ``"auto"``: what the training images tell.
        workers: threads that decode images.
        validation: further images.

    Returns:
        The set and the further images.
    """
    notes = []
    if level == "auto":
        brightest = _brightest(dataset.train, workers)
        level = white_level_of(brightest)
        if level != FULL_WHITE:
            notes.append(describe_white_level(brightest, level))
    train, test, more = (
        tuple(replace(sample, white_level=level) for sample in samples)
        for samples in (dataset.train, dataset.test, validation)
    )
    if level != FULL_WHITE:
        with ThreadPoolExecutor(workers) as pool:
            paths = [sample.path for sample in train + test + more]
            values = zip(paths, pool.map(brightest_value, paths), strict=True)
            above = [path for path, value in values if value > level]
        if above:
            notes.append(
                f"{count(len(above), 'image')} with values above the white level {level}, which "
                f"count as white, the first is {above[0]}."
            )
    notes = [*dataset.notes, *notes]
    return replace(dataset, train=train, test=test, notes=tuple(notes)), more


def _brightest(samples: Sequence[Sample], workers: int) -> int:
    """The largest 16-bit value of all, or one that needs all bits; 0 without 16-bit images."""
    found = 0
    with ThreadPoolExecutor(workers) as pool:
        for value in pool.map(brightest_value, [sample.path for sample in samples]):
            found = max(found, value)
            if found >= 1 << _BITS[-1]:
                pool.shutdown(cancel_futures=True)
                break
    return found
