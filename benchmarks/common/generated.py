"""Images to measure on: made, not photographed, but of a size and detail like photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grad.data.samples import Sample


def generate_images(
    folder: Path, count: int, *, size: int = 256, classes: Sequence[str] = ("made",)
) -> list[Sample]:
    """Write ``count`` good images in all, JPEG, as CLASS/train/good/N.jpg.

    Each is smooth colours with a little noise; the same for the same number.

    Args:
        folder: made where it is missing.
        count: of all classes together.
        size: side of the square images, in pixels.
        classes: names.
    """
    samples = []
    for number in range(count):
        name = classes[number * len(classes) // count]
        path = folder / name / "train" / "good" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(40, 216, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-8, 9, (size, size, 1), dtype=np.int16)
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        samples.append(Sample(path, name, "train"))
    return samples
