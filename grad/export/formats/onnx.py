"""ONNX: one file of standard operators, for ONNX Runtime, TensorRT and other runtimes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from grad.export.formats.base import Runner, as_arrays
from grad.export.formats.int8 import quantise
from grad.export.graph import AXES, INPUT, OUTPUTS
from grad.export.standard_operators import with_standard_operators
from grad.system.errors import GradError

DEFAULT_OPSET = 18  # the lowest that torch writes, so the one that most runtimes read


def write(
    program: ExportedProgram,
    path: Path,
    facts: dict[str, str],
    opset: int = DEFAULT_OPSET,
    int8: Sequence[NDArray[Any]] = (),
) -> list[Path]:
    """Write a program; ``facts`` become the file's ``metadata_props``.

    Args:
        program: from :func:`grad.export.graph.trace`.
        path: of the file, with any suffix.
        facts: from :func:`grad.export.graph.facts`.
        opset: version of ONNX's operators.
        int8: batches of good images, with which the fusion network goes to 8 bits; none: it stays.

    Raises:
        GradError: there is no such opset, or it is older than what torch writes.
    """
    import onnx

    highest = onnx.defs.onnx_opset_version()
    if not DEFAULT_OPSET <= opset <= highest:
        raise GradError(f"--opset {opset} can't be written: give {DEFAULT_OPSET} to {highest}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        converted = torch.onnx.export(
            with_standard_operators(program),
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=(AXES,),
            verbose=False,
        )
    assert converted is not None
    for node in converted.model.graph:
        node.metadata_props.clear()  # names the folders of this machine
    converted.model.metadata_props.update(facts)
    converted.save(path, external_data=False)
    if int8:
        quantise(path, int8)
    return [path]


def open_file(path: Path, threads: int = 0) -> Runner:
    """Run a file in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        return as_arrays(session.run(list(OUTPUTS), {INPUT: images}))

    return run
