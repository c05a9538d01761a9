"""The console command ``grad``: ``grad train ...`` is ``python -m grad.train ...``, and so on.

``python -m grad`` is the same where no script is installed.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from grad.system.version import __version__

# Each is a package, whose __main__ has a function main(arguments) -> exit code.
COMMANDS = {
    "check": "say what a folder of images holds and what is wrong with it",
    "train": "train on good images, evaluate, write a model and a report",
    "update": "let a model learn from further good images, or false alarms",
    "evaluate": "judge a model on test images, or choose other thresholds",
    "predict": "find defects in images, folders, videos and camera pictures",
    "export": "write a model as ONNX, OpenVINO or a program of torch",
    "serve": "offer an inspection page and a REST end point",
    "info": "say what this GRAD was built for and whether it computes right",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, 2 where there is no such command."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if name in COMMANDS:
        code: int = importlib.import_module(f"{package_of(name)}.__main__").main(rest)
        return code
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose among {', '.join(COMMANDS)}."
    print(f"grad has no command {name}; {hint}", file=sys.stderr)
    return 2


def package_of(command: str) -> str:
    """Where a command lies: in a package of its own; updating with training."""
    return "grad.train.update" if command == "update" else f"grad.{command}"


def _usage() -> str:
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: grad COMMAND [OPTIONS]",
            "",
            "Anomaly detection in images from good examples only.",
            "",
            *lines,
            "",
            "grad COMMAND --help lists a command's options.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
