"""Which good images are for testing, where the data don't say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grad.data.samples import Sample, group_of
from grad.data.scan import ClassImages, Samples, Scan, order

_EVERY = 5  # good image, or group of such, is for testing


def split_good(
    name: str, good: Sequence[Sample], defects: Samples, known: ClassImages, scan: Scan
) -> ClassImages:
    """Divide the images of a class among training and test.

    Every fifth good image is for testing, and every defect. Images of one group, or views of one
    part, are not divided. Without any defect there is nothing to test: all are for training.

    Args:
        name: the class.
        good: its good images, in order.
        defects: its defective ones.
        known: images whose use is known; these are put beside them.
        scan: gets a note of what was done.

    Returns:
        All images of the class.
    """
    if good and (defects or known.test):
        groups = list(dict.fromkeys(map(group_of, good)))
        chosen = set(groups[_EVERY - 1 :: _EVERY])
        tested = [sample for sample in good if group_of(sample) in chosen]
        fifth = "image" if len(groups) == len(good) else "group of images"
        scan.notes.append(
            f"{name}: nothing says which good images are for testing: every fifth {fifth} is, "
            f"{len(tested)} of {len(good)}."
        )
    else:
        tested = []
    taken = set(tested)
    train = [replace(sample, split="train") for sample in good if sample not in taken]
    test = [replace(sample, split="test") for sample in tested] + defects
    return ClassImages(
        sorted([*known.train, *train], key=order),
        sorted([*known.test, *test], key=order),
        sorted(known.validation, key=order),
    )
