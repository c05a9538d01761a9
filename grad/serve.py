"""Serve a model: an inspection page and a REST end point.

- ``python -m grad.serve runs/demo-grad-tiny``: at http://127.0.0.1:8000/, for this machine alone.
- ``GRAD_TOKEN=WORD python -m grad.serve MODEL --host 0.0.0.0``: for the network, with a token.
- ``curl --data-binary @part.png http://127.0.0.1:8000/predict``: the verdict as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from grad.errors import GradError
from grad.serving.settings import MOST_PIXELS, ServeSettings

_PACKAGES = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""
    try:
        _serve(_parser().parse_args(arguments))
    except GradError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while the model is loaded; later it is the usual end
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def _serve(options: argparse.Namespace) -> None:
    settings = ServeSettings(
        host=options.host,
        port=options.port,
        token=options.token if options.token is not None else os.environ.get("GRAD_TOKEN"),
        max_upload_mb=options.max_upload_mb,
        max_pixels=options.max_pixels,
        queue=options.queue,
        batch_size=options.batch_size,
        max_wait_ms=options.max_wait_ms,
    )
    _check_packages()
    from grad.detector import Detector
    from grad.serving.app import create_app
    from grad.serving.run import announce, bind, serve

    console = Console()
    with bind(settings) as listener:  # before the model, as a port in use shows at once
        detector = Detector.load(
            options.model,
            device=options.device,
            precision=options.precision,
            false_alarm_rate=options.false_alarm_rate,
        )
        detector.warm_up(settings.batch_size)
        app = create_app(detector, settings, _title(options.model))
        announce(settings, listener, console)
        serve(app, listener)


def _check_packages() -> None:
    """Raise a GradError where a package of the extra "serve" is missing."""
    import importlib.util

    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GradError(
            f"grad.serve needs {', '.join(missing)}: install it with "
            'pip install "grad-anomaly[serve]" (in a copy of the sources: pip install ".[serve]").'
        )


def _title(model: Path) -> str:
    """The run's name rather than model.safetensors."""
    path = model.expanduser().resolve()
    return path.parent.name if path.suffix else path.name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GradError(f"{message}; --help lists all options.")


def _parser() -> argparse.ArgumentParser:
    defaults = ServeSettings()
    parser = _Parser(
        prog="python -m grad.serve",
        description="Serve a model: an inspection page and a REST end point.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="model.safetensors, or the folder of a run")
    add("--host", default=defaults.host, help="address to listen at; 0.0.0.0 for the network")
    add("--port", type=int, default=defaults.port, help="TCP port; 0: one that is free")
    add(
        "--token",
        default=None,
        help="word that requests must bring; GRAD_TOKEN in the environment does the same, unseen",
    )
    add(
        "--max-upload-mb",
        type=float,
        default=defaults.max_upload_mb,
        help="largest request, in megabytes",
    )
    add(
        "--max-pixels",
        type=int,
        default=defaults.max_pixels,
        help=f"largest image, in pixels, at most {MOST_PIXELS}",
    )
    add(
        "--queue",
        type=int,
        default=defaults.queue,
        help="images accepted and not yet answered; beyond, requests get 503",
    )
    add("--batch-size", type=int, default=defaults.batch_size, help="images scored at once")
    add(
        "--max-wait-ms",
        type=float,
        default=defaults.max_wait_ms,
        help="how long a batch that is not full waits for images that are being decoded",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    add(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the networks",
    )
    add(
        "--false-alarm-rate",
        type=float,
        default=None,
        help="thresholds for another share of good images called anomalous than the model's own",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
