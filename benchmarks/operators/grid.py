"""Lookups and projection: our kernels against eager and compiled PyTorch.

    python benchmarks/bench_grid.py [--quick | --full] [--device cpu|cuda] [--json FILE]

README.md beside this file says how to read the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from operators import eager
from operators.cases import Case, Function, Shape, memory_format_of, rows_of, same
from operators.harness import Goal, Options, run

HEIGHT = WIDTH = 28
PAPER_CHANNELS = 216
LOCAL, GLOBAL = 8, 4  # resolutions of the paper's grids
JITTER_STD = 0.05

GOALS = (
    Goal("cpu", "project", eager=5),
    Goal("cpu", "global", eager=6),
    Goal("cuda", "project", eager=5, compiled=3, share=0.75),
    Goal("cuda", "global", eager=20, share=0.75),
)


@dataclass(frozen=True)
class Size:
    """What the cases of one size share.

    ``element`` is the size of a number in bytes, ``maps`` the bytes of a (B, C, H, W) tensor.
    """

    shape: Shape
    dtype: torch.dtype

    @property
    def element(self) -> int:
        return self.dtype.itemsize

    @property
    def maps(self) -> int:
        s = self.shape
        return s.batch * s.channels * s.height * s.width * self.element

    def grid_bytes(self, columns: int) -> int:
        s = self.shape
        return s.resolution**s.dims * columns * self.element


def interpolate_case(
    shape: Shape, dtype: torch.dtype, layout: str, *, paper: bool = True, compiled: bool = True
) -> Case:
    """The local lookup of given coordinates.

    Bytes forward: read coordinates and grid, write values. Backward: read their gradient,
    coordinates and grid, write the gradients of coordinates and grid.
    """
    from grad import ops

    size = Size(shape, dtype)
    grid = size.grid_bytes(shape.channels)
    coords = shape.batch * shape.height * shape.width * shape.dims * size.element

    def arguments(generator: torch.Generator) -> tuple[Tensor, ...]:
        fill = _random(generator, dtype, layout)
        coords = fill(shape.batch, shape.dims, shape.height, shape.width).mul_(0.6).tanh_()
        return coords, fill(*_grid_shape(shape, shape.channels))

    def ours(coords: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        return (ops.interpolate(coords, grid),)

    return Case(
        op="interpolate",
        shape=shape,
        dtype=dtype,
        layout=layout,
        arguments=arguments,
        wanted=(True, True),
        eager=_tuple(eager.local_lookup),
        ours=ours,
        to_ours=(rows_of, cells_of),
        output_to_ours=(rows_of,),
        forward_bytes=coords + grid + size.maps,
        backward_bytes=size.maps + 2 * coords + 2 * grid,
        paper=paper,
        compiled=compiled,
    )


def project_case(
    shape: Shape, dtype: torch.dtype, layout: str, *, paper: bool = True, compiled: bool = True
) -> Case:
    """The local head from its hidden layer on, with noise on all pixels.

    Bytes forward: read hidden and grid, write values. Backward: read hidden, the values' gradient
    and the grid, write the gradients of hidden and grid. The head's weights are too few to count.

    In the layout ``NCHW converted`` ours gets NCHW maps too, and converts them.
    """
    from grad import ops

    size = Size(shape, dtype)
    grid = size.grid_bytes(shape.channels)
    converted = layout == "NCHW converted"

    def ours(std: float, hidden: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        rows = rows_of(hidden) if converted else hidden
        values = ops.project(rows, *rest, jitter=_jitter(std))
        if converted:
            values = values.view(-1, shape.height, shape.width, shape.channels).permute(0, 3, 1, 2)
        return (values,)

    def theirs(std: float, *head: Tensor) -> tuple[Tensor, ...]:
        return (eager.local_head(*head, jitter_std=std),)

    return Case(
        op="project",
        shape=shape,
        dtype=dtype,
        layout=layout,
        arguments=lambda generator: _head(shape, _random(generator, dtype, layout)),
        wanted=(True,) * 4,
        eager=partial(theirs, JITTER_STD),
        ours=partial(ours, JITTER_STD),
        to_ours=(same if converted else rows_of, _matrix, same, cells_of),
        output_to_ours=(same if converted else rows_of,),
        forward_bytes=2 * size.maps + grid,
        backward_bytes=3 * size.maps + 2 * grid,
        paper=paper,
        compiled=compiled and not converted,
        exact=(partial(ours, 0.0), partial(theirs, 0.0)),
    )


def global_case(
    shape: Shape, dtype: torch.dtype, layout: str, *, paper: bool = True, compiled: bool = True
) -> Case:
    """The global lookup: one point an image, all pixels and channels of it.

    Bytes forward: read the grid, write values. Backward: read the values' gradient and the grid,
    write the grid's gradient. The coordinates are too few to count.
    """
    from grad import ops

    size = Size(shape, dtype)
    columns = shape.channels * shape.height * shape.width
    grid = size.grid_bytes(columns)

    def ours(coords: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        return (ops.interpolate(coords, grid),)

    def theirs(coords: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        return (eager.global_lookup(coords, grid, shape.channels, shape.height, shape.width),)

    def arguments(generator: torch.Generator) -> tuple[Tensor, ...]:
        return _whole(shape, _random(generator, dtype, layout))

    return Case(
        op="global",
        shape=shape,
        dtype=dtype,
        layout=layout,
        arguments=arguments,
        wanted=(True, True),
        eager=theirs,
        ours=ours,
        to_ours=(same, partial(whole_cells_of, channels=shape.channels)),
        output_to_ours=(_image_rows_of,),
        forward_bytes=grid + size.maps,
        backward_bytes=size.maps + 2 * grid,
        paper=paper,
        compiled=compiled,
    )


def lookup_case(
    shape: Shape, dtype: torch.dtype, layout: str, *, paper: bool = True, compiled: bool = True
) -> Case:
    """Both lookups side by side, as the model uses them: the local head, the global lookup, [both].

    Bytes: those of ``project`` and ``global`` together. The shape is that of the local grid.
    """
    whole_shape = Shape(shape.batch, shape.channels, shape.height, shape.width, 2, GLOBAL)
    local, whole = (
        project_case(shape, dtype, layout),
        global_case(whole_shape, dtype, layout),
    )

    def arguments(generator: torch.Generator) -> tuple[Tensor, ...]:
        fill = _random(generator, dtype, layout)
        return *_whole(whole_shape, fill), *_head(shape, fill)

    def ours(std: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        from grad import ops

        return (ops.lookup(*tensors, jitter=_jitter(std)),)

    def theirs(std: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (eager.lookup(*tensors, jitter_std=std),)

    return Case(
        op="lookup",
        shape=shape,
        dtype=dtype,
        layout=layout,
        arguments=arguments,
        wanted=(True,) * 6,
        eager=partial(theirs, JITTER_STD),
        ours=partial(ours, JITTER_STD),
        to_ours=whole.to_ours + local.to_ours,
        output_to_ours=(rows_of,),
        forward_bytes=local.forward_bytes + whole.forward_bytes,
        backward_bytes=local.backward_bytes + whole.backward_bytes,
        paper=paper,
        compiled=compiled,
        exact=(partial(ours, 0.0), partial(theirs, 0.0)),
    )


def cases(options: Options) -> Iterator[Case]:
    """The paper's sizes, then other dimensions and channels."""
    batches = options.batches
    dtypes = (torch.float32, torch.bfloat16)
    for batch, dtype in product(batches, dtypes):
        yield from _paper_cases(batch, dtype, brief=options.quick and dtype != torch.float32)
    if options.quick:
        for dims, resolution in ((3, 8), (4, 4)):
            shape = Shape(batches[0], 64, HEIGHT, WIDTH, dims, resolution)
            yield project_case(shape, torch.float32, "channels_last", paper=False, compiled=False)
        return
    extra = batches if options.full else batches[:1]
    for batch, dtype in product(extra, dtypes):
        yield from _other_cases(batch, dtype, full=options.full)


def _paper_cases(batch: int, dtype: torch.dtype, *, brief: bool) -> Iterator[Case]:
    local = Shape(batch, PAPER_CHANNELS, HEIGHT, WIDTH, 2, LOCAL)
    whole = Shape(batch, PAPER_CHANNELS, HEIGHT, WIDTH, 2, GLOBAL)
    layouts = ("channels_last",) if brief else ("channels_last", "NCHW")
    for layout in layouts:
        yield project_case(local, dtype, layout)
    if not brief:
        yield project_case(local, dtype, "NCHW converted")
    yield global_case(whole, dtype, "NCHW")
    for layout in layouts:
        yield lookup_case(local, dtype, layout)


def _other_cases(batch: int, dtype: torch.dtype, *, full: bool) -> Iterator[Case]:
    options = {"paper": False, "compiled": full}
    layouts = ("channels_last", "NCHW") if full else ("channels_last",)
    for (dims, resolution), channels in product(((2, 8), (3, 8), (4, 4), (4, 8)), (216, 64, 768)):
        shape = Shape(batch, channels, HEIGHT, WIDTH, dims, resolution)
        for layout in layouts:
            if (dims, channels) != (2, PAPER_CHANNELS):
                yield project_case(shape, dtype, layout, **options)
            if channels == PAPER_CHANNELS or full:
                yield interpolate_case(shape, dtype, layout, **options)
    for dims in (3, 4):
        shape = Shape(batch, PAPER_CHANNELS, HEIGHT, WIDTH, dims, GLOBAL)
        yield global_case(shape, dtype, "NCHW", **options)


def cells_of(grid: Tensor) -> Tensor:
    """(1, C, R_D, ..., R_1) -> (R_D, ..., R_1, C)."""
    return grid[0].movedim(0, -1)


def whole_cells_of(grid: Tensor, channels: int) -> Tensor:
    """(1, C*P, R_D, ..., R_1) -> (R_D, ..., R_1, P*C)."""
    return grid[0].unflatten(0, (channels, -1)).movedim((1, 0), (-2, -1)).flatten(-2)


def _image_rows_of(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W*C)."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _matrix(weight: Tensor) -> Tensor:
    """(D, Ch, 1, 1) -> (D, Ch)."""
    return weight.flatten(1)


def _tuple(function: Callable[..., Tensor]) -> Function:
    return lambda *arguments: (function(*arguments),)


def _jitter(std: float) -> object:
    """The noise that eager adds: on every pixel."""
    from grad.ops import Jitter

    return Jitter(probability=1.0, std=std, per="batch") if std > 0 else None


def _random(generator: torch.Generator, dtype: torch.dtype, layout: str) -> Callable[..., Tensor]:
    """Standard normal tensors; those of four axes in the given layout."""

    def fill(*shape: int) -> Tensor:
        tensor = torch.randn(shape, generator=generator, device=generator.device).to(dtype)
        return tensor.to(memory_format=memory_format_of(layout)) if len(shape) == 4 else tensor

    return fill


def _head(shape: Shape, fill: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """Hidden layer, weight, bias and local grid; the coordinates spread over the whole grid."""
    hidden = fill(shape.batch, shape.channels, shape.height, shape.width).tanh_()
    weight = fill(shape.dims, shape.channels, 1, 1) * (shape.channels**-0.5)
    return hidden, weight, fill(shape.dims) * 0.1, fill(*_grid_shape(shape, shape.channels))


def _whole(shape: Shape, fill: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """Coordinates of images, and the global grid; no maps, so the layout leaves them alone."""
    columns = shape.channels * shape.height * shape.width
    return fill(shape.batch, shape.dims).mul_(0.6).tanh_(), fill(*_grid_shape(shape, columns))


def _grid_shape(shape: Shape, columns: int) -> tuple[int, ...]:
    return (1, columns, *[shape.resolution] * shape.dims)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run("GRAD: lookups and projection", cases, GOALS, arguments)
