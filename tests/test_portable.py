"""What GRAD needs of the system is also on macOS and Windows, as far as that shows on Linux.

Neither was run here: modules and functions that they lack are taken away, and a run is made.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.layouts import mpdd

import grad

PACKAGE = Path(grad.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted([*PACKAGE.rglob("*.py"), ROOT / "setup.py", *ROOT.glob("build_backend/*.py")])
MODULES = [path for path in MODULES if path.is_file()]

# Modules of Python that are not there on Windows, and functions that are not there on one of both.
LACKING = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
FUNCTIONS = {
    "fork",
    "geteuid",
    "getuid",
    "killpg",
    "mkfifo",
    "posix_fadvise",
    "posix_fallocate",
    "preadv",
    "pwritev",
    "sched_getaffinity",
    "sched_setaffinity",
    "sendfile",
    "setsid",
    "sysconf",
    "wait4",
}
GUARDED = {"preadv", "sched_getaffinity", "sysconf"}  # there is another way where it is not there


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_needs_nothing_that_others_lack(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {str(node.module).split(".")[0]}
            assert not names & LACKING, f"line {node.lineno}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = node.attr if node.value.id == "os" else ""
            assert used not in FUNCTIONS - GUARDED, f"line {node.lineno}: os.{used}"
            lacking = node.value.id == "signal" and node.attr in ("SIGKILL", "SIGHUP", "SIGALRM")
            assert not lacking, f"line {node.lineno}: signal.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(("/proc", "/dev/", "/tmp")), f"line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_name_their_encoding(path):
    """The default is another one on Windows."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {keyword.arg for keyword in node.keywords}
        if name in ("read_text", "write_text"):
            assert "encoding" in given, f"line {node.lineno}: {name}"
        if name == "open" and isinstance(node.func, ast.Name):
            modes = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
            assert "encoding" in given or "b" in "".join(modes), f"line {node.lineno}: open"


# Takes away what has another way; imports every module; trains, predicts.
PROGRAM = """
import ctypes, importlib, os, pkgutil

for name in {functions}:
    delattr(os, name)
real = ctypes.CDLL
def library(name, *args, **kwargs):
    if name is None:
        raise TypeError("as on Windows")
    return real(name, *args, **kwargs)
ctypes.CDLL = library

import grad
for module in pkgutil.walk_packages(grad.__path__, "grad."):
    if not module.name.endswith(("__main__", "_C")):
        importlib.import_module(module.name)
from grad.__main__ import main
quick = "--backbone tf_efficientnet_lite0 --preset grad-plus --epochs 1 --batch-size 4"
quick += " --image-size 64 --device cpu --precision float32 --cache cache --out run --data data"
for command in (["check", "data"], ["train", *quick.split()], ["predict", "run", "data"],
                ["evaluate", "run", "--save", "--threshold", "f1"]):
    assert main(command) in (0, 1), command
"""


def test_a_run_without_what_others_lack(tmp_path):
    mpdd(tmp_path / "data")
    program = PROGRAM.format(functions=sorted(GUARDED - {"sysconf"}))
    run = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / "run/report.html").is_file()
    ours = [
        line for line in run.stderr.splitlines() if "EncodingWarning" in line and "/grad/" in line
    ]
    assert not ours
