"""examples/onnxruntime_cpp: compiled, and run on images beside the detector.

The headers of ONNX Runtime are in its releases and in some distributions, but not in its Python
package; ONNXRUNTIME names the folder of a release. The library is taken from there, or from the
Python package.
"""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.exporting import SIZE, make_backbone, make_graph, make_model, write_images
from PIL import Image

from grad.detector.detector import Detector
from grad.export.formats import onnx as onnx_format
from grad.export.graph import columns, facts, trace

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnxruntime_cpp"
HEADER = "onnxruntime_cxx_api.h"
RELEASE = Path(os.environ.get("ONNXRUNTIME", "/usr"))

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


def headers() -> Path:
    for folder in ("include", "include/onnxruntime", "include/onnxruntime/core/session"):
        if (RELEASE / folder / HEADER).is_file():
            return RELEASE / folder
    pytest.skip(f"there is no {HEADER} in {RELEASE}; ONNXRUNTIME=DIR names another folder")


def library(links: Path) -> Path:
    """A folder with libonnxruntime.so and libonnxruntime.so.1."""
    if (RELEASE / "lib" / "libonnxruntime.so").exists():
        return RELEASE / "lib"
    package = importlib.util.find_spec("onnxruntime")
    found = sorted(Path(package.origin).parent.glob("capi/libonnxruntime.so.*")) if package else []
    if not found:
        pytest.skip("there is no libonnxruntime.so")
    links.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (links / name).symlink_to(found[0])
    return links


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not EXAMPLE.is_dir():
        pytest.skip("the examples are not beside the tests")
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("cpp")
    include, lib = headers(), library(folder / "lib")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", str(include)]
    link = [f"-L{lib}", "-lonnxruntime", f"-Wl,-rpath,{lib}"]
    source, binary = str(EXAMPLE / "main.cpp"), str(folder / "inspect")
    subprocess.run([compiler, *flags, source, *link, "-o", binary], check=True)
    return binary


def run(program, *arguments):
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_scores_are_the_detectors(program, tmp_path):
    loaded = make_model(make_backbone())
    chosen = columns(loaded.calibration, None)
    program_of_graph, about = trace(make_graph(loaded)), facts(loaded.info, chosen, "graph")
    file = tmp_path / "model.onnx"
    onnx_format.write(program_of_graph, file, about)
    pictures = sorted(write_images(tmp_path, ((90, 70), (SIZE, SIZE), (300, 41))).glob("*.png"))
    for picture in pictures:
        Image.open(picture).save(picture.with_suffix(".ppm"))

    finished = run(program, file, *(picture.with_suffix(".ppm") for picture in pictures))
    assert finished.returncode == 0, finished.stderr
    detector = Detector.of(loaded, device="cpu", precision="float32")
    names = json.loads(about["columns"])
    for line, picture in zip(finished.stdout.splitlines(), pictures, strict=True):
        path, score, *verdicts = line.split(" ")
        assert path == str(picture.with_suffix(".ppm"))
        for number, name in enumerate(names):
            result = detector.predict(
                picture, class_name=name if name in loaded.info.classes else None
            )
            assert float(score) == pytest.approx(result.score, rel=1e-4)
            assert float(verdicts[2 * number]) == pytest.approx(result.value, abs=1e-4)
            assert (verdicts[2 * number + 1] == "anomalous") == result.is_anomalous


def test_wrong_input_is_one_sentence(program, tmp_path):
    picture = tmp_path / "part.ppm"
    picture.write_bytes(b"P6 4 4 255\n123")
    for arguments in ((), (tmp_path / "no.onnx", picture)):
        finished = run(program, *arguments)
        assert finished.returncode == 2
        assert finished.stderr.count("\n") == 1
