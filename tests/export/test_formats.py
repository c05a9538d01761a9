"""Written files in their runtimes: any batch, any size, and what they say about themselves."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.exporting import SIZE, make_backbone, make_graph, make_model, noise
from helpers.features import add_branches

from grad.export.formats import onnx as onnx_format
from grad.export.formats.base import FORMATS
from grad.export.graph import columns, facts, trace
from grad.system.errors import GradError

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

SHAPES = ((1, 64, 64), (3, 50, 120), (2, 130, 1))


@pytest.fixture(scope="module")
def backbone():
    return make_backbone()


@pytest.fixture(scope="module")
def loaded(backbone):
    return make_model(backbone)


def write(loaded, folder, name, format_options=None, **options):
    """A file of a format, the graph it was made of, and how to run it."""
    row = FORMATS[name]
    module = row.load()
    graph = make_graph(loaded, **options)
    about = facts(loaded.info, columns(loaded.calibration, None), graph.resize)
    path = folder / f"model{row.suffix}"
    files = module.write(trace(graph), path, about, **(format_options or {}))
    return SimpleNamespace(graph=graph, files=files, path=files[0], open=module.open_file)


@pytest.fixture(scope="module")
def file_of(loaded, tmp_path_factory):
    """A file of the format of a name, written once."""
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    return functools.cache(lambda name: write(loaded, tmp_path_factory.mktemp(name), name))


@pytest.fixture(params=FORMATS)
def file(request, file_of):
    return file_of(request.param)


@pytest.fixture
def onnx_file(file_of):
    return file_of("onnx")


@pytest.fixture
def openvino_file(file_of):
    return file_of("openvino")


@pytest.fixture
def torch_file(file_of):
    return file_of("torch")


def assert_runs_like_its_graph(file, shapes=SHAPES):
    run = file.open(file.path, 1)
    for shape in shapes:
        images = noise(*shape)
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in file.graph(torch.from_numpy(images))]
        outputs = run(images)
        for actual, wanted in zip(outputs, expected, strict=True):
            assert actual.shape == wanted.shape and actual.dtype == wanted.dtype
            if actual.dtype == bool:
                assert (actual == wanted).all()
            else:
                np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5 * wanted.max())


def test_any_batch_and_size(file):
    assert_runs_like_its_graph(file)


def test_large_grids_in_onnx_runtime(backbone, tmp_path):
    """Whose lookup is no product, but picks the corners of each point."""
    options = {"parts": "local", "local_dims": 4, "local_resolution": 5, "refine": "cosine"}
    assert_runs_like_its_graph(write(make_model(backbone, **options), tmp_path, "onnx"))


@pytest.mark.parametrize("name", ["onnx", "openvino", "torch"])
def test_statistics_and_context(backbone, tmp_path, name):
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra `export` is not installed")
    assert_runs_like_its_graph(
        write(make_model(backbone, statistics=True, context=10), tmp_path, name)
    )


@pytest.mark.parametrize("name", ["onnx", "openvino", "torch"])
def test_networks_of_classes_that_were_learned_later(backbone, tmp_path, name):
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra `export` is not installed")
    loaded = make_model(backbone)
    images = torch.from_numpy(noise(3, SIZE, SIZE)).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        add_branches(loaded.model, backbone(images))
    shapes = ((3, SIZE, SIZE), (1, 50, 120))
    assert_runs_like_its_graph(write(loaded, tmp_path, name), shapes)


def test_onnx_without_resize_in_another_opset(backbone, tmp_path):
    options = {"parts": "global", "global_dims": 3, "global_resolution": 3}
    file = write(make_model(backbone, **options), tmp_path, "onnx", {"opset": 20}, resize="none")
    model = onnx.load(file.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = file.graph(images)
    outputs = file.open(file.path, 1)(images.numpy())
    np.testing.assert_allclose(outputs[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 17, 99])
def test_opsets_that_torch_does_not_write(loaded, tmp_path, opset):
    with pytest.raises(GradError, match=f"--opset {opset} can't be written: give 18 to 2"):
        onnx_format.write(None, tmp_path / "model.onnx", {}, opset)


def test_onnx_has_standard_operators_that_tensorrt_reads(onnx_file):
    """As its table of operators for 10.15 has them: no antialiasing, no GridSample beyond 4-D."""
    model = onnx.load(onnx_file.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert not model.functions
    kinds = {node.op_type for node in model.graph.node}
    assert kinds.isdisjoint({"BatchNormalization", "If", "Loop", "NonZero", "GridSample"})
    for node in model.graph.node:
        names = {attribute.name: attribute.i for attribute in node.attribute}
        assert not (node.op_type == "Resize" and names.get("antialias"))
    readers = [n.op_type for n in model.graph.node if "images" in n.input]
    assert set(readers) <= {"Cast", "Shape"}  # what TensorRT can do with 8-bit images


def test_onnx_names_its_axes(onnx_file):
    graph = onnx.load(onnx_file.path).graph
    sizes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert sizes == {
        "images": ["batch", "height", "width", 3],
        "anomaly_map": ["batch", SIZE, SIZE],
        "score": ["batch"],
        "value": ["batch", 3],
        "is_anomalous": ["batch", 3],
    }


def test_files_say_what_they_are(onnx_file, openvino_file, torch_file, loaded):
    import openvino

    expected = facts(loaded.info, columns(loaded.calibration, None), "graph")
    model = onnx.load(onnx_file.path)
    assert {entry.key: entry.value for entry in model.metadata_props} == expected
    model = openvino.Core().read_model(openvino_file.path)
    assert {name: model.get_rt_info(["grad", name]).astype(str) for name in expected} == expected
    extra = {"grad.json": ""}
    torch.export.load(str(torch_file.path), extra_files=extra)
    assert json.loads(extra["grad.json"]) == expected


def test_files_do_not_name_folders_of_this_machine(file):
    """Exporters note where each operation stands in the source."""
    for path in file.files:
        assert b".py" not in path.read_bytes()


def test_torch_keeps_the_compiled_operators(torch_file):
    program = torch.export.load(str(torch_file.path))
    called = {str(node.target) for node in program.graph.nodes}
    assert {"grad_anomaly.lookup.default", "grad_anomaly.refine.default"} <= called
