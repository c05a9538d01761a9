"""``run``: from a model file to answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rich.console import Console

from grad.detector.detector import Detector
from grad.serve.options import ServeOptions
from grad.system.errors import GradError

_PACKAGES = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")


def run(options: ServeOptions, console: Console) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        GradError: an option, the model, the port, or a package that is missing.
    """
    settings = options.settings()
    _check_packages()
    from grad.serve.app import create_app
    from grad.serve.server import announce, bind, serve

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
        serve(app, listener, settings)


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GradError(
            f"grad serve needs {', '.join(missing)}: install it with "
            'pip install "grad-anomaly[serve]", or pip install ".[serve]" in the sources.'
        )


def _title(model: Path) -> str:
    """The run's name rather than model.safetensors."""
    path = model.expanduser().resolve()
    return path.parent.name if path.suffix else path.name
