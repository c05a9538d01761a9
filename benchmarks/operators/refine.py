"""Refinement, its loss and score: our kernel against eager and compiled PyTorch.

    python benchmarks/bench_refine.py [--quick | --full] [--device cpu|cuda] [--json FILE]

README.md beside this file says how to read the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from operators import eager
from operators.cases import Case, Shape, memory_format_of, rows_of, same
from operators.harness import Goal, Options, run

HEIGHT = WIDTH = 28
PAPER_CHANNELS = 216
SCORE_BYTES = 4  # float32, of a pixel

GOALS = (
    Goal("cpu", "refine", eager=8),
    Goal("cuda", "refine", eager=4, compiled=1.5, share=0.8),
)


def refine_case(
    shape: Shape, dtype: torch.dtype, layout: str, *, paper: bool = True, compiled: bool = True
) -> Case:
    """Loss and score; backward from the loss to the prediction, as in training.

    Bytes forward: read features and prediction, write the score. Backward: read both, write the
    prediction's gradient.

    In the layout ``NCHW converted`` ours gets NCHW maps too, and converts them.
    """
    from grad import ops

    pixels = shape.batch * shape.height * shape.width
    maps = pixels * shape.channels * dtype.itemsize
    converted = layout == "NCHW converted"

    def arguments(generator: torch.Generator) -> tuple[Tensor, ...]:
        def fill(channels: int) -> Tensor:
            sizes = (shape.batch, channels, shape.height, shape.width)
            values = torch.randn(sizes, generator=generator, device=generator.device)
            return values.to(dtype=dtype, memory_format=memory_format_of(layout))

        # Errors of different size from pixel to pixel, on both sides of the threshold of 10.
        features = 2 * fill(shape.channels)
        return features, features + fill(shape.channels) * (3 + fill(1))

    def ours(features: Tensor, prediction: Tensor) -> tuple[Tensor, ...]:
        if converted:
            features, prediction = rows_of(features), rows_of(prediction)
        return ops.refine(features, prediction)

    to_ours = same if converted else rows_of
    return Case(
        op="refine",
        shape=shape,
        dtype=dtype,
        layout=layout,
        arguments=arguments,
        wanted=(False, True),
        eager=eager.refine,
        ours=ours,
        to_ours=(to_ours, to_ours),
        output_to_ours=(same, torch.flatten),
        forward_bytes=2 * maps + pixels * SCORE_BYTES,
        backward_bytes=3 * maps,
        paper=paper,
        compiled=compiled and not converted,
    )


def cases(options: Options) -> Iterator[Case]:
    """The paper's sizes, then other numbers of channels."""
    batches = options.batches
    dtypes = (torch.float32, torch.bfloat16)
    layouts = ("channels_last", "NCHW", "NCHW converted")
    for batch, dtype, layout in product(batches, dtypes, layouts):
        yield refine_case(Shape(batch, PAPER_CHANNELS, HEIGHT, WIDTH), dtype, layout)
    extra = batches if options.full else batches[:1]
    for batch, dtype, channels in product(extra, dtypes, (64, 768)):
        shape = Shape(batch, channels, HEIGHT, WIDTH)
        for layout in layouts[: 2 if options.full else 1]:
            yield refine_case(shape, dtype, layout, paper=False, compiled=options.full)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run("GRAD: refinement", cases, GOALS, arguments)
