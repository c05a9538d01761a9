# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from grad.system.command_line import argument, class_list, flag, option, parse_options, run_command
from grad.system.errors import GradError


@dataclass(frozen=True)
class Options:
    model: Path = argument("The model.")
    paths: list[str] = argument("What to look at.", count="+")
    tile_size: int | None = option(None, "Pixels.")
    mode: Literal["fast", "good"] = option("good", "How.")
    limit: Literal["auto"] | float | None = option(None, "Where.")
    strict: bool = option(False, "Stop.")


def parse(*arguments, **options):
    return parse_options(Options, "predict", "Look at images.", arguments, **options)


def test_arguments_and_options():
    given = parse("m", "a", "b", "--tile-size", "64", "--strict", "--limit", "0.5")
    assert given == Options(Path("m"), ["a", "b"], 64, "good", 0.5, True)
    assert parse("m", "a") == Options(Path("m"), ["a"])
    assert parse("m", "a", "--limit", "auto", "--no-strict").limit == "auto"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["model"]),
        (["m"], ["paths"]),
        (["m", "a", "--tile-size", "x"], ["--tile-size", "int", "x"]),
        (["m", "a", "--mode", "slow"], ["--mode", "fast", "slow"]),
        (["m", "a", "--limit", "x"], ["--limit", "auto", "x"]),
        (["m", "a", "--unknown", "1"], ["--unknown"]),
        (["m", "a", "--config", "c.yaml"], ["--config"]),
    ],
)
def test_errors_are_one_sentence_that_names_the_option(arguments, words):
    with pytest.raises(GradError) as raised:
        parse(*arguments)
    text = str(raised.value)
    assert "\n" not in text and text.endswith("--help lists all options.")
    assert all(word in text for word in words), text


def test_options_from_a_file(tmp_path):
    (tmp_path / "c.yaml").write_text("tile_size: 3\nmode: fast\n")
    config = str(tmp_path / "c.yaml")
    given = parse("--config", config, "m", "a", "--mode", "good", config_file=True)
    assert (given.tile_size, given.mode) == (3, "good")


def test_help_names_everything(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: grad predict" in text and "Look at images." in text
    assert all(word in text for word in ("model", "paths", "--tile-size", "--strict", "Stop."))


def test_exit_codes(capsys):
    def wrong():
        raise GradError("this is wrong.")

    def stopped():
        raise KeyboardInterrupt

    assert run_command(lambda: None) == 0
    assert run_command(lambda: 1) == 1
    assert run_command(wrong) == 2
    assert run_command(stopped) == 130
    assert capsys.readouterr().err == "this is wrong.\nInterrupted.\n"
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_pillow_warns_nobody():
    def work():
        scope = {"__name__": "PIL.TiffImagePlugin"}
        exec("import warnings; warnings.warn('Corrupt EXIF data.')", scope)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert run_command(work) == 0
    assert not seen


def test_names():
    assert flag("batch_size") == "--batch-size"
    assert class_list(None) is None
    assert class_list("a, b,") == ("a", "b")
    with pytest.raises(GradError, match="--classes"):
        class_list(" ,")
