"""Command lines from dataclasses: a field is an option, with its default and its line of help."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import os
import re
import shutil
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

from grad.system.allocator import suit_large_tensors
from grad.system.errors import GradError, raise_once
from grad.system.names import check_text, printable, wrapped

_Options = TypeVar("_Options")


def option(default: Any, text: str, *, count: str | None = None) -> Any:
    """A field that is an option ``--name``.

    Args:
        default: where it is not given.
        text: its line of help.
        count: None for one value; ``"+"`` for a list of texts, all behind the one option.
    """
    return dataclasses.field(default=default, metadata={"help": text, "count": count})


def argument(text: str, *, count: str | None = None) -> Any:
    """A field that is given by its place, in the order of the fields.

    Args:
        text: its line of help.
        count: None for exactly one; ``"+"`` or ``"*"`` for a list, ``"?"`` for one or none, as
            argparse's ``nargs``.
    """
    return dataclasses.field(metadata={"help": text, "place": True, "count": count})


def parse_options(
    kind: type[_Options],
    command: str,
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    config_file: bool = False,
) -> _Options:
    """Options from the command line.

    Args:
        kind: a dataclass whose fields are made by :func:`option` and :func:`argument`.
        command: the name behind ``grad`` on the command line.
        description: a sentence for ``--help``.
        arguments: None for those of the process.
        config_file: whether ``--config FILE`` reads options from YAML; what comes later wins.

    Raises:
        GradError: an unknown option, a wrong value, a file that can't be read.
        SystemExit: ``--help`` was asked for.
    """
    parser = _parser(kind, command, description, config_file)
    return raise_once(lambda: kind(**_parse(parser, kind, arguments)))


def given_options(
    kind: type[Any], arguments: Sequence[str] | None = None, *, config_file: bool = False
) -> dict[str, Any]:
    """The values of those options alone that were given; arguments as of :func:`parse_options`."""
    return _parse(_parser(kind, "", "", config_file), kind, arguments, defaults=False)


def flag(name: str) -> str:
    """The option of a field: ``batch_size`` is ``--batch-size``."""
    return "--" + key(name).replace("_", "-")


def check_lowest(options: Any, **lowest: int) -> None:
    """Raise a GradError for an option that was given and is below the lowest value it may have."""
    for name, limit in lowest.items():
        value = getattr(options, name)
        if value is not None and value < limit:
            raise GradError(f"{flag(name)} {value} is too small: give {limit} or more.")


def key(name: str) -> str:
    """A field in a file of options: ``global_`` has its last underscore for Python alone."""
    return name.rstrip("_")


def class_list(classes: str | None) -> tuple[str, ...] | None:
    """``--classes NAME,NAME`` as names; None where it was not given.

    Raises:
        GradError: there is no name in it.
    """
    if classes is None:
        return None
    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    if not names:
        raise GradError("--classes names no class: give NAME,NAME.")
    return names


def run_command(work: Callable[[], int | None], interrupted: str = "Interrupted.") -> int:
    """Run a command; 0 or what it returns, 2 for a user's error, 130 for Ctrl-C, which is said.

    Letters that the output's encoding lacks are written as escapes. An output that nobody reads any
    more, as with ``| head``, ends the command quietly; one that is full is an error.
    """
    suit_large_tensors()
    _prepare_streams()
    # Of large images, and of details in files that it can read in spite of them.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except GradError as error:
        if str(error):  # another process has said it
            text = printable(error)
            if sys.stderr.isatty():
                text = wrapped(text, shutil.get_terminal_size().columns)
            print(text, file=sys.stderr)
        return 2
    except BrokenPipeError:
        _silence(sys.stdout)
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _silence(sys.stdout)
        print("Standard output can't be written (no space left).", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as it runs)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence(stream: Any) -> None:
    """Let what is still buffered go nowhere, so that Python's end does not fail on it."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser(kind: type[Any], command: str, description: str, config_file: bool) -> ArgumentParser:
    parser = ArgumentParser(prog=f"grad {command}", description=description, exit_on_error=False)
    if config_file:
        parser.add_argument(
            "--config", action="config", help="YAML file with options, named as below."
        )
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        _add(parser, field, types[field.name])
    return parser


def _parse(
    parser: ArgumentParser,
    kind: type[Any],
    arguments: Sequence[str] | None,
    *,
    defaults: bool = True,
) -> dict[str, Any]:
    for file in _config_files(sys.argv[1:] if arguments is None else arguments):
        _refuse_aliases(file)
    try:
        values = parser.parse_args(arguments, defaults=defaults)
    except (ArgumentError, TypeError, ValueError, OSError) as error:
        for text in sys.argv[1:] if arguments is None else arguments:
            check_text(text)
        raise GradError(_one_sentence(str(error))) from None
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: values[key(name)] for name in names if key(name) in values}


def _add(parser: ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    text = field.metadata["help"]
    if field.metadata.get("place"):
        count = field.metadata["count"]
        options = {} if count is None else {"nargs": count}
        item = kind if count is None else typing.get_args(kind)[0]
        parser.add_argument(field.name, type=item, help=text, **options)
    elif field.metadata["count"] is not None:
        count = field.metadata["count"]
        parser.add_argument(
            flag(field.name), default=field.default, help=text, type=str, nargs=count
        )
    elif kind is bool:
        switch = ActionYesNo(yes_prefix="", no_prefix="no-")
        parser.add_argument(flag(field.name), default=field.default, help=text, action=switch)
    else:
        parser.add_argument(flag(field.name), default=field.default, help=text, type=kind)


def _config_files(arguments: Sequence[str]) -> list[str]:
    """What ``--config`` names."""
    found = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    return found + [b for a, b in itertools.pairwise(arguments) if a == "--config"]


def _refuse_aliases(file: str) -> None:
    """A few aliases of YAML can stand for gigabytes; options need none."""
    import yaml

    try:
        with Path(file).expanduser().open(encoding="utf-8") as text:
            aliased = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return  # the parser says what is wrong
    if aliased:
        raise GradError(f"--config {file} has aliases (*NAME): write the values out.")


_PLAIN = (  # the parser's words, and ours
    (r'^Parser key "(\w+)":?', r"\1:"),
    (r"^argument (--\S+?):", r"\1:"),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"Does not validate .*? Subtypes: \[(.*), NoneType\] .* value: ", r"expected \1, got "),
    (r"Expected an? (.*)\. Got value:", r"expected \1, got"),
    (r"typing\.Literal(\[.*?\])", r"one of \1"),
)


def _one_sentence(message: str) -> str:
    """The parser's message on one line, in the words of this package."""
    text = " ".join(message.split())
    for pattern, plain in _PLAIN:
        text = re.sub(pattern, plain, text)
    name = re.match(r"[a-z_]+(?=: (?:expected|File) )", text)
    if name:
        text = flag(name[0]) + text[name.end() :]
    return f"{text[:500].rstrip('.')}; --help lists all options."
