"""OpenVINO: a description (.xml) and weights (.bin), for Intel's processors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray
from torch.export import ExportedProgram

from grad.export.formats import onnx as onnx_format
from grad.export.formats.base import Runner, as_arrays

# Where a processor has bfloat16, OpenVINO computes in it unless it is told not to.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def write(
    program: ExportedProgram, path: Path, facts: dict[str, str], int8: Sequence[NDArray[Any]] = ()
) -> list[Path]:
    """Write a program by way of ONNX; ``facts`` go under ``grad`` into the file's ``rt_info``.

    Arguments as in :func:`grad.export.formats.onnx.write`, ``path`` ending in ``.xml``.
    """
    import openvino

    with TemporaryDirectory() as folder:
        onnx = Path(folder, "model.onnx")
        onnx_format.write(program, onnx, facts, int8=int8)
        model = openvino.Core().read_model(onnx)
        for name, fact in facts.items():
            model.set_rt_info(fact, ["grad", name])
        # Not openvino.save_model, which rounds weights to 16 bits unless it is told not to.
        openvino.save_model(model, path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def open_file(path: Path, threads: int = 0) -> Runner:
    """Run a file in OpenVINO on the CPU, in float32."""
    import openvino

    model = openvino.Core().compile_model(path, "CPU", EXACT | {"INFERENCE_NUM_THREADS": threads})

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        outputs = model(images)
        return as_arrays(outputs[index] for index in range(len(outputs)))

    return run
