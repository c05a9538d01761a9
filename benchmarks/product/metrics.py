"""What pixel metrics cost: time an image, memory and error bound, on generated maps of one class.

``python benchmarks/bench_metrics.py --images 100000`` takes about two minutes; ``--exact`` keeps
every score.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator, Sequence

import torch
from common.facts import machine_facts
from torch import Tensor

from grad.score.metrics.classes import ClassMetrics

BATCH = 50


def batches(images: int, size: int) -> Iterator[tuple[Tensor, list[Tensor | None], list[bool]]]:
    """Smooth positive maps, one in ten of a defect with two regions, with masks and labels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(BATCH, 1, 28, 28, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")[:, 0]
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[size // 4 : size // 2, size // 3 : size // 2] = True
    mask[-size // 8 :, : size // 16] = True
    labels = [index % 10 == 0 for index in range(BATCH)]
    defects = torch.tensor(labels)[:, None, None] & mask
    for number in range(images // BATCH):
        scale = 1 + 0.3 * torch.rand(BATCH, 1, 1, generator=generator)
        maps = (smooth.roll(number, 1) * scale).exp() + 0.4 * defects * scale
        yield maps, [mask if label else None for label in labels], labels


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--exact", action="store_true", help="keep every score")
    options = parser.parse_args(arguments)
    before = _peak_megabytes()
    metrics = ClassMetrics("made", **({"exact_pixels": None} if options.exact else {}))
    seconds = 0.0
    for maps, masks, labels in batches(options.images, options.size):
        start = time.perf_counter()
        metrics.update(maps, masks, maps.amax(dim=(1, 2)), labels)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    report = metrics.compute()
    last = time.perf_counter() - start
    print(", ".join(f"{k} {v}" for k, v in machine_facts(torch.device("cpu")).items()))
    print(
        f"{options.images:,} maps of {options.size} x {options.size}: {seconds:.1f} s "
        f"({1e6 * seconds / options.images:.0f} us an image), metrics at the end {last:.2f} s; "
        f"peak memory {_peak_megabytes():,.0f} MB, of which {before:,.0f} MB before the first map"
    )
    for key, bound in report.error_bounds.items():
        print(f"{key:12} {report.values[key]:.6f} +- {bound:.1e}")
    return 0


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
