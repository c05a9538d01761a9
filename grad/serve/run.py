"""``run``: from model files to answers."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from grad.detector.checkpoint import model_file
from grad.detector.detector import Detector
from grad.serve.options import ServeOptions
from grad.system.errors import GradError
from grad.system.progress import print_line
from grad.system.webhook import Webhook

_PACKAGES = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")


def run(options: ServeOptions, console: Console) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        GradError: an option, a model, the port, or a package that is missing.
    """
    settings = options.settings()
    _check_packages()
    from grad.serve.app import create_app
    from grad.serve.feedback import FeedbackFolder
    from grad.serve.inspector import Inspector
    from grad.serve.model_file import ModelFile
    from grad.serve.server import announce, bind, serve
    from grad.serve.site import create_site
    from grad.serve.teaching import Teaching

    with ExitStack() as stack:
        # Before the models, as a port in use shows at once.
        listener = stack.enter_context(bind(settings))
        hook = None
        if options.webhook is not None:
            warn = Console(stderr=True)
            hook = Webhook(options.webhook, lambda text: print_line(text, "yellow", warn))
            stack.enter_context(hook)
        apps = {}
        for name, model in options.named_models().items():
            load = partial(_load, options, model, settings.batch_size)
            inspector = Inspector(load(), settings, hook)
            folder = None
            if options.feedback is not None:
                folder = FeedbackFolder(options.feedback.expanduser() / name)
            file = ModelFile(model_file(model), load)
            apps[name] = create_app(inspector, Teaching(inspector, folder, file))
        announce(settings, listener, console)
        serve(apps.get("") or create_site(apps, settings), listener, settings)


def _load(options: ServeOptions, model: Path, batch_size: int) -> Detector:
    detector = Detector.load(
        model,
        device=options.device,
        precision=options.precision,
        false_alarm_rate=options.false_alarm_rate,
    )
    detector.warm_up(batch_size)
    return detector


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GradError(
            f"grad serve needs {', '.join(missing)}: install it with "
            'pip install "grad-anomaly[serve]", or pip install ".[serve]" in the sources.'
        )
