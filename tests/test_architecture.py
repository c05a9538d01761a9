"""The rule of the layout: things in the order of the data, commands that import things only.

docs/pages/architecture.md says why. Late imports count, and those for types alone.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import grad
from grad.__main__ import COMMANDS, package_of

PACKAGE = Path(grad.__file__).parent
# What each thing may import beside itself.
THINGS = {
    "system": (),
    "data": ("system",),
    "features": ("system", "data"),
    "ops": ("system",),
    "model": ("system", "ops"),
    "score": ("system", "data", "features", "ops", "model"),
    "detector": ("system", "data", "features", "ops", "model", "score"),
    "report": ("system", "data", "features", "ops", "model", "score"),
}
# Of the commands; updating lies with training.
ROOMS = {package_of(command).split(".")[1] for command in COMMANDS}
# The one module of the model that meets features; all others see tensors.
EXCEPTIONS = {"grad.model.measure": {"features"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inside]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "grad"}
    return found


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if "." in name}


def test_there_are_eight_things_and_seven_commands():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == {*THINGS, *ROOMS}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_upward_only(name):
    if "." not in name or name == "grad.__main__":
        return
    own = name.split(".")[1]
    allowed = set(THINGS) if own in ROOMS else {*THINGS[own], *EXCEPTIONS.get(name, ())}
    used = packages(imported(MODULES[name])) - {own}
    assert used <= allowed, f"{name} may not import {', '.join(sorted(used - allowed))}"


def test_there_is_no_circle():
    graph = {name: imported(path) - {name, "grad"} for name, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_neither_torch_nor_matplotlib(command):
    code = (
        "import sys\n"
        f"from {package_of(command)}.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*(name for name in ('torch', 'matplotlib') if name in sys.modules), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == "\n"
    assert "usage: grad" in run.stdout


OUTSIDE = sorted(
    path
    for folder in ("benchmarks", "docs", "examples", "tests")
    for path in (PACKAGE.parent / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_what_others_import_of_the_package_is_there(path):
    """Also where a function imports it late, and no test calls the function."""
    offered = {*MODULES, *(f"grad.{name}" for name in (*grad.__all__, "_C"))}
    assert not imported(path) - offered
