"""The console command ``grad``."""

import importlib
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import grad
from grad.__main__ import COMMANDS, main, package_of
from grad.system.command_line import parse_options

ROOT = Path(__file__).parents[1]


def test_help_and_version(capsys):
    assert main(["--help"]) == main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text and words in text for name, words in COMMANDS.items())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == grad.__version__ + "\n"


@pytest.mark.parametrize(
    ("name", "words"), [("trian", "did you mean train?"), ("dance", "choose among check, train")]
)
def test_other_commands_are_refused(name, words, capsys):
    assert main([name]) == 2
    captured = capsys.readouterr()
    assert f"no command {name}" in captured.err and words in captured.err
    assert not captured.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_in_one_form(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: grad {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_unknown_options_in_one_sentence(name, capsys):
    assert main([name, "--no-such-option"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"info", "update"}))
def test_every_command_takes_the_rate_that_the_images_support(name):
    kind = getattr(importlib.import_module(f"grad.{name}.options"), f"{name.title()}Options")
    places = {"train": [], "predict": ["model", "image"]}.get(name, ["model"])
    options = parse_options(kind, name, "", [*places, "--false-alarm-rate", "auto"])
    assert options.false_alarm_rate == "auto"


def test_every_command_is_a_module():
    for name in COMMANDS:
        assert importlib.util.find_spec(package_of(name)) is not None


def test_the_script_is_declared():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'grad = "grad.__main__:main"' in text
    scripts = entry_points(group="console_scripts", name="grad")
    for script in scripts:  # where the package is installed
        assert script.value == "grad.__main__:main"


@pytest.mark.parametrize("place", ["argument", "class", "image", "working folder"])
def test_names_that_are_no_text_in_the_locale_are_said_to_be(tmp_path, place):
    parts = {"argument": "bïld/a", "class": "data/ä", "image": "data/a", "working folder": "ö/a"}
    good = tmp_path / parts[place] / "train/good"
    good.mkdir(parents=True)
    (good / ("ü.png" if place == "image" else "u.png")).touch()
    (good.parents[1] / "test").mkdir()
    folder = good.parents[2]
    cwd = folder if place == "working folder" else tmp_path
    given = "." if place == "working folder" else folder.name
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "grad", "check", given],
        cwd=cwd,
        env={**os.environ, **plain, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "is no text in ascii, this process's encoding of file names: set PYTHONUTF8=1" in said


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "grad", "check", "no/such/folder"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "--data no/such/folder does not exist: give a folder of images.\n"
