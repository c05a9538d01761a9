"""The fusion network of an ONNX file in 8 bits: most of a prediction's time, little of its error.

What the fusion network gives is the normal version of the features, which errs by much more than 8
bits do. The backbone stays in float32: its errors would be taken for what distinguishes an image
from its normal version (benchmarks/results/int8-cpu.md has both).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from grad.export.graph import INPUT

_FUSION = "model.fusion."  # what the names of the network's weights begin with


def quantise(path: Path, images: Sequence[NDArray[Any]]) -> None:
    """Let the fusion network of a file compute in 8 bits, activations unsigned, weights by channel.

    Args:
        path: an ONNX file, which is exchanged.
        images: batches of good images as the graph takes them; the ranges of activations are
            those that they need.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[NDArray[Any]] = iter(images)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._images, None)
            return None if batch is None else {INPUT: batch}

    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    with TemporaryDirectory() as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        nodes = [
            node.name
            for node in onnx.load(prepared).graph.node
            if node.op_type == "Conv" and node.input[1].startswith(_FUSION)
        ]
        assert nodes, "no convolution has weights of the fusion network"
        quantize_static(
            prepared,
            quantised,
            Reader(),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(quantised)
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)
