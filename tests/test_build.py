"""The build: what it asks for, which CUDA compiler it takes, and which library is loaded."""

from __future__ import annotations

import importlib.machinery
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import grad.ops
from grad.info.__main__ import main as show_info
from grad.ops import library
from grad.ops.source_digest import digest
from grad.system.errors import GradError

ROOT = Path(__file__).resolve().parents[1]
LIBRARY_NAME = "_C" + importlib.machinery.EXTENSION_SUFFIXES[0]
compiled = pytest.mark.skipif(library.is_reference_forced(), reason="GRAD_REFERENCE=1")


# What the backend asks for.


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("setuptools")
    monkeypatch.syspath_prepend(str(ROOT / "build_backend"))
    for name in ("GRAD_CUDA", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    import grad_backend

    return grad_backend


@pytest.fixture
def environment(backend: ModuleType) -> ModuleType:
    import build_environment

    return build_environment


def install_torch(site: Path, version: str, cuda: str | None) -> None:
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "version.py").write_text(
        f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n"
    )
    information = site / f"torch-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: torch\nVersion: {version}\n")


NEWEST_TORCH = "torch>=2.10,==2.*"
COMPILER = "cuda-toolkit[nvcc,nvvm,crt,cudart,cccl]"


@pytest.mark.parametrize(
    ("version", "cuda", "choice", "expected"),
    [
        ("2.11.0", "13.0", "", ["ninja", f"{COMPILER}==13.0.*"]),
        ("2.11.0", "13.0", "0", ["ninja"]),
        ("2.13.0+cpu", None, "", ["ninja"]),
        ("2.10.0", "12.8", "", ["ninja"]),  # PyPI has no nvcc for CUDA 12
        ("2.9.1", "12.8", "", ["ninja", NEWEST_TORCH, f"{COMPILER}; platform_system == 'Linux'"]),
        ("2.9.1", "12.8", "0", ["ninja", NEWEST_TORCH]),
    ],
)
def test_requirements_follow_the_installed_torch(
    backend: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str,
    cuda: str | None,
    choice: str,
    expected: list[str],
) -> None:
    install_torch(tmp_path, version, cuda)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("GRAD_CUDA", choice)
    assert backend.get_requires_for_build_wheel() == expected
    assert backend.get_requires_for_build_editable() == expected


def test_torch_is_required_where_there_is_none(
    backend: ModuleType, environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(environment.site, "getsitepackages", lambda: [])
    monkeypatch.setattr(environment.site, "getusersitepackages", lambda: "")
    assert NEWEST_TORCH in backend.get_requires_for_build_wheel()


def test_a_wheel_belongs_to_its_torch(environment: ModuleType) -> None:
    assert environment.Torch("2.11.0+cu130", "13.0", Path()).requirement == "torch==2.11.*"
    assert environment.Torch("2.15.0a0+git1", "", Path()).requirement == "torch==2.15.*"


@pytest.mark.parametrize("value", ["yes", "2"])
def test_grad_cuda_must_be_0_or_1(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GRAD_CUDA", value)
    with pytest.raises(SystemExit, match=f"GRAD_CUDA is '{value}'"):
        environment.cuda_choice()


# Which CUDA compiler is taken.


def install_toolkit(home: Path, version: str = "13.2", error: str = "") -> Path:
    """A folder that looks like a CUDA toolkit; its nvcc compiles nothing, or reports the error."""
    (home / "bin").mkdir(parents=True)
    (home / "lib").mkdir()
    (home / "lib" / "libcudart.so.13").touch()
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && echo "Cuda compilation tools, release {version}, V1" && exit 0\n'
        + (f'echo "{error}"; exit 1\n' if error else "exit 0\n")
    )
    nvcc.chmod(0o755)
    return home


@pytest.fixture
def no_toolkit(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A machine without CUDA compilers: none on the path, none in the usual place."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    is_file = Path.is_file
    usual = "/usr/local/cuda/"
    monkeypatch.setattr(
        environment.Path, "is_file", lambda path: usual not in str(path) and is_file(path)
    )
    return environment


def test_cuda_home_comes_first_then_pypi_then_the_machine(
    no_toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = install_toolkit(tmp_path / "chosen")
    wheels = install_toolkit(tmp_path / "site" / "nvidia" / "cu13")
    machine = install_toolkit(tmp_path / "machine")
    monkeypatch.setattr(no_toolkit.shutil, "which", lambda name: str(machine / "bin" / "nvcc"))
    assert no_toolkit.find_toolkit("13.2")[0].home == machine
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert no_toolkit.find_toolkit("13.2")[0].home == wheels
    monkeypatch.setenv("CUDA_HOME", str(chosen))
    assert no_toolkit.find_toolkit("13.2")[0] == no_toolkit.Toolkit(chosen, "13.2")


def test_an_incomplete_toolkit_is_passed_over_with_its_reason(
    no_toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = install_toolkit(tmp_path / "broken", error="fatal error: cuda_fp16.h: No such file")
    monkeypatch.setenv("CUDA_HOME", str(broken))
    toolkit, reasons = no_toolkit.find_toolkit("13.2")
    assert toolkit is None
    assert reasons == [f"{broken}/bin/nvcc can't compile: fatal error: cuda_fp16.h: No such file"]

    install_toolkit(tmp_path / "site" / "nvidia" / "cu13")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert no_toolkit.find_toolkit("13.2")[0] is not None


def test_reasons_for_no_toolkit(
    no_toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert no_toolkit.find_toolkit("13.2") == (None, ["no CUDA 13 compiler was found"])

    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert no_toolkit.find_toolkit("13.2") == (None, [f"{tmp_path}/bin/nvcc does not run"])

    old = install_toolkit(tmp_path / "old", version="12.8")
    monkeypatch.setenv("CUDA_HOME", str(old))
    reason = f"{old} is CUDA 12.8, but torch was built with CUDA 13.2"
    assert no_toolkit.find_toolkit("13.2") == (None, [reason])

    bare = install_toolkit(tmp_path / "bare")
    (bare / "lib" / "libcudart.so.13").unlink()
    monkeypatch.setenv("CUDA_HOME", str(bare))
    assert no_toolkit.find_toolkit("13.2") == (None, [f"{bare} has no libcudart"])


# How it is compiled.


def test_the_front_end_runs_for_the_first_architecture_alone(environment: ModuleType) -> None:
    assert environment.one_front_end(["8.0", "9.0", "12.0"]) == (
        "-gencode=arch=compute_80,code=[compute_80,sm_80,sm_90,sm_120]"
    )


def test_kernels_are_the_same_for_every_architecture() -> None:
    """What asks for a newer one would be missing where the default architectures share one PTX."""
    for path in (ROOT / "csrc").rglob("*.*"):
        assert not re.search(r"__CUDA_ARCH__\s*[<>=!]", path.read_text()), path


def test_kernels_are_compiled_first(environment: ModuleType) -> None:
    sources = ["csrc/a/a.cpp", "csrc/a/a_cpu.cpp", "csrc/a/a_cuda.cu", "csrc/b.cpp"]
    ordered = environment.kernels_first(sources)
    assert ordered == ["csrc/a/a_cpu.cpp", "csrc/a/a_cuda.cu", "csrc/a/a.cpp", "csrc/b.cpp"]


def test_flags_of_each_system(environment: ModuleType, tmp_path: Path) -> None:
    linux = environment.host_flags("linux", tmp_path)
    assert "-fopenmp" in linux.compile and linux.link == ("-s",)
    mac = environment.host_flags("darwin", tmp_path)
    assert "-fopenmp" not in mac.compile and mac.link == ()  # Apple's clang has no omp.h
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "omp.h").touch()
    mac = environment.host_flags("darwin", tmp_path)
    assert mac.compile[-2:] == ("-Xclang", "-fopenmp")
    windows = environment.host_flags("win32", tmp_path)
    assert all(flag.startswith("/") for flag in windows.compile)


def test_macros_with_texts_survive_the_command_line(environment: ModuleType) -> None:
    assert environment.define("A", "9.0;+PTX", "linux") == '-DA="9.0;+PTX"'  # no shell sees it
    assert environment.define("A", "9.0;+PTX", "win32") == r"-DA=\"9.0;+PTX\""


def test_jobs_follow_cores_and_memory(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system tells only one of them, or none."""
    monkeypatch.setattr(os, "sysconf", lambda name: 2**15)  # pages, bytes in each: 1 GiB
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert environment.limit_of_jobs(2**28) == 4
    assert environment.limit_of_jobs(2**20) == 6
    assert environment.limit_of_jobs(2**40) == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert environment.limit_of_jobs(2**20) == 3
    monkeypatch.delattr(os, "sysconf")
    assert environment.limit_of_jobs(2**20) == 1


# Which library is loaded.


def install_library(folder: Path, torch_version: str, sources: str) -> Path:
    (folder / "grad").mkdir(parents=True)
    path = folder / "grad" / LIBRARY_NAME
    path.touch()
    record = {"torch": torch_version, "cuda": "", "architectures": "", "sources": sources}
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


@pytest.fixture
def clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A source tree without a library; the import path is it and a site-packages beside it."""
    folder = tmp_path / "clone"
    (folder / "csrc").mkdir(parents=True)
    (folder / "csrc" / "ops.cpp").write_text("// one\n")
    monkeypatch.setattr(library, "PACKAGE", folder / "grad")
    monkeypatch.setattr(library, "SOURCES", folder / "csrc")
    monkeypatch.setattr(sys, "path", [str(folder), str(tmp_path / "site")])
    return folder


def test_a_clone_finds_the_installed_library(clone: Path, tmp_path: Path) -> None:
    path = install_library(tmp_path / "site", torch.__version__, digest(clone / "csrc"))
    assert library.find().spec.origin == str(path)


def test_a_library_of_other_sources_is_refused(clone: Path, tmp_path: Path) -> None:
    install_library(tmp_path / "site", torch.__version__, digest(clone / "csrc"))
    (clone / "csrc" / "ops.cpp").write_text("// two\n")
    with pytest.raises(GradError, match="built from other sources"):
        library.find()


def test_a_stale_library_in_the_tree_is_used_with_a_warning(clone: Path) -> None:
    path = install_library(clone, torch.__version__, "of older sources")
    with pytest.warns(RuntimeWarning, match="have changed since"):
        assert library.find().spec.origin == str(path)


def test_a_library_for_another_torch_is_named_with_both_versions(
    clone: Path, tmp_path: Path
) -> None:
    install_library(tmp_path / "site", "2.3.1+cu121", digest(clone / "csrc"))
    expected = (
        f"built for torch 2.3.1+cu121 and do not load with torch {torch.__version__}: "
        "rebuild them with `pip install --no-cache-dir --force-reinstall --no-deps .`"
    )
    with pytest.raises(GradError, match=re.escape(expected)):
        library.find()


def test_a_library_that_fits_is_found_behind_one_that_does_not(clone: Path, tmp_path: Path) -> None:
    install_library(clone, "2.3.1+cu121", digest(clone / "csrc"))
    path = install_library(tmp_path / "site", torch.__version__, digest(clone / "csrc"))
    assert library.find().spec.origin == str(path)


def test_a_missing_library_says_how_to_build_it(clone: Path) -> None:
    with pytest.raises(GradError, match=r"are missing: run `pip install \.`"):
        library.find()


def test_a_library_that_does_not_load_says_how_to_rebuild_it(clone: Path) -> None:
    install_library(clone, torch.__version__, digest(clone / "csrc"))  # an empty file
    with pytest.raises(GradError, match=r"rebuild them with .* The loader said: "):
        library.load.__wrapped__()


@compiled
def test_commands_run_in_a_clone_with_the_installed_library(tmp_path: Path) -> None:
    """``pip install . && python -m grad.train`` in a clone imports the clone's Python files."""
    found = Path(library.find().spec.origin or "")
    clone, site = tmp_path / "clone", tmp_path / "site"
    ignored = shutil.ignore_patterns("_C.*", "data", "__pycache__")
    shutil.copytree(ROOT / "grad", clone / "grad", ignore=ignored)
    (site / "grad").mkdir(parents=True)
    for path in (found, found.with_suffix(".json")):
        shutil.copy(path, site / "grad")
    result = subprocess.run(
        [
            *(sys.executable, "-W", "error::RuntimeWarning", "-c"),
            "import grad, grad.ops.library as l; print(grad.__file__, l.load().__file__)",
        ],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [
        str(clone / "grad" / "__init__.py"),
        str(site / "grad" / LIBRARY_NAME),
    ]


@compiled
def test_the_library_is_what_its_record_says() -> None:
    module = library.load()
    record = json.loads(Path(str(module.__file__)).with_suffix(".json").read_text())
    information = module.build_info()
    assert information["torch"] == record["torch"] == str(torch.__version__)
    assert information["cuda"] == record["cuda"]
    assert information["architectures"] == record["architectures"]
    assert information["cpp_standard"] >= 201703


def test_digest_sees_names_and_contents_of_sources_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.cpp").write_text("1")
    digests = [digest(tmp_path)]
    (tmp_path / "a" / "one.o").write_text("object")
    assert digest(tmp_path) == digests[0]
    (tmp_path / "a" / "one.cpp").write_text("2")
    digests.append(digest(tmp_path))
    (tmp_path / "a" / "one.cpp").rename(tmp_path / "one.cpp")
    digests.append(digest(tmp_path))
    (tmp_path / "two.h").touch()
    digests.append(digest(tmp_path))
    assert len(set(digests)) == 4


# A library that was built for a GPU machine elsewhere.


@pytest.fixture
def gpu_library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_library

    return gpu_library


BUILT = {
    "python": "3.12",
    "machine": "x86_64",
    "torch": "2.11.0+cu130",
    "cuda": "13.0",
    "sources": "one",
}


@pytest.mark.parametrize(
    ("here", "fatal", "notes"),
    [
        ({}, [], []),
        ({"python": "3.11"}, ["python: built for 3.12, here is 3.11"], []),
        ({"torch": "2.14.1"}, ["torch: built for 2.11.0+cu130, here is 2.14.1"], []),
        ({"torch": "2.11.1"}, [], ["torch: built for 2.11.0+cu130, here is 2.11.1"]),
        ({"cuda": "13.2"}, [], ["cuda: built for 13.0, here is 13.2"]),
        ({"cuda": "None"}, ["cuda: built for 13.0, here is None"], []),
        ({"sources": "2"}, ["csrc: the library was built from other sources than those here"], []),
    ],
)
def test_differences_to_the_machine_a_library_was_built_for(
    gpu_library: ModuleType, here: dict[str, str], fatal: list[str], notes: list[str]
) -> None:
    assert gpu_library.differences(BUILT, BUILT | here) == (fatal, notes)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("9.0", (9, 0), True),
        ("8.0", (8, 6), True),
        ("9.0", (8, 0), False),
        ("8.0;9.0", (10, 0), False),
        ("8.0+PTX;9.0", (10, 0), True),
    ],
)
def test_which_gpus_run_a_library(
    gpu_library: ModuleType, architectures: str, capability: tuple[int, int], runs: bool
) -> None:
    assert (gpu_library.cannot_run(architectures, capability) is None) is runs


@pytest.mark.parametrize(
    ("script", "arguments", "reason"),
    [
        ("gpu_all.sh", [], "--stage must be check or measure"),
        ("gpu_all.sh", ["--stage", "check", "--device", "tpu"], "--device must be cuda or cpu"),
        ("gpu_library.sh", ["--python", "3.12"], "say for what"),
        ("gpu_library.sh", ["--python"], "--python needs a value"),
    ],
)
def test_the_scripts_for_a_gpu_machine_explain_their_options(
    script: str, arguments: list[str], reason: str
) -> None:
    result = subprocess.run(
        [str(ROOT / "benchmarks" / script), *arguments], stderr=subprocess.PIPE, text=True
    )
    assert result.returncode == 2
    assert reason in result.stderr


# The package and its sources.


def test_importing_grad_is_cheap() -> None:
    code = "import sys, grad; print({'torch', 'timm', 'numpy'} & set(sys.modules), grad.GradError)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert result.stdout.startswith("set() ")


def test_info_passes_and_names_every_operator(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_info([]) == 0
    output = capsys.readouterr().out
    for name in ("interpolate", "project", "lookup", "refine", "refined_map", "jitter_noise"):
        assert name in output
    assert torch.__version__ in output
    assert "FAILED" not in output


def test_info_fails_where_an_operator_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = grad.ops.interpolate
    monkeypatch.setattr(grad.ops, "interpolate", lambda *a, **k: 1.001 * right(*a, **k))
    assert show_info([]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_kernels_are_free_of_torch() -> None:
    kernels = [
        path
        for path in (ROOT / "csrc").rglob("*")
        if path.suffix in (".cu", ".cuh", ".inl") or path.name.endswith("_cpu.cpp")
    ]
    assert kernels
    for path in kernels:
        assert not re.search(r"#include\s*<(ATen|c10|torch)/", path.read_text()), path


def test_sources_need_no_cuda_library_beside_the_runtime() -> None:
    """ATen/cuda includes cuBLAS and others, which a CUDA compiler from PyPI comes without."""
    for path in (ROOT / "csrc").rglob("*.*"):
        assert not re.search(r"#include\s*<ATen/cuda/", path.read_text()), path


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in (
        "pip install . && python -m grad.train",
        'pip install ".[test]" && python -m pytest',
    ):
        assert command in readme
        assert f"'{command}'" in ci
