"""The options of ``grad serve``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grad.score.rates import RATE_HELP, Rate
from grad.serve.settings import MOST_PIXELS, ServeSettings
from grad.system.command_line import argument, option
from grad.system.errors import GradError
from grad.system.webhook import SECRET_VARIABLE, check_webhook

TOKEN_VARIABLE = "GRAD_TOKEN"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAKEN = ("favicon.ico", "health", "models", "page")  # paths of the page that lists models
_DEFAULT = ServeSettings()


@dataclass(frozen=True)
class ServeOptions:
    """The options of ``python -m grad.serve``."""

    models: list[str] = argument(
        "Model file, or the folder of a run; of several NAME=MODEL each, at /NAME/.", count="+"
    )
    host: str = option(_DEFAULT.host, "Address to listen at; 0.0.0.0 for the whole network.")
    port: int = option(_DEFAULT.port, "TCP port; 0: one that is free.")
    token: str | None = option(
        None,
        "Word that requests must bring; none: open to all who reach the port. GRAD_TOKEN in the "
        "environment does the same, and the list of processes does not show it.",
    )
    max_upload_mb: float = option(_DEFAULT.max_upload_mb, "Largest request, in megabytes.")
    max_pixels: int = option(
        _DEFAULT.max_pixels, f"Largest image, in pixels; at most {MOST_PIXELS:,}."
    )
    queue: int = option(
        _DEFAULT.queue, "Images accepted and not yet answered; above, requests get status 503."
    )
    batch_size: int = option(_DEFAULT.batch_size, "Images scored at once.")
    max_wait_ms: float = option(
        _DEFAULT.max_wait_ms,
        "How long a batch that is not full waits for images that are being decoded.",
    )
    ssl_certfile: Path | None = option(None, "Certificate (PEM), for https; none: plain HTTP.")
    ssl_keyfile: Path | None = option(
        None, "Key of the certificate (PEM); none: it is in the same file."
    )
    feedback: Path | None = option(
        None,
        "Folder for images that people say on the page were good or a defect, for grad update; at "
        "most 2,000 images and 2,000 MB a model; none: nothing is kept.",
    )
    webhook: str | None = option(
        None,
        "Address (http or https) that each answer is posted to as well, signed with the secret in "
        f"the environment variable {SECRET_VARIABLE}, if any.",
    )
    access_log: bool = option(False, "Write a line for each request to standard error.")
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Of the networks; auto: float32, as thresholds are made; bfloat16 is quicker."
    )
    false_alarm_rate: Rate | None = option(None, f"{RATE_HELP}; none: as the model has it.")

    def __post_init__(self) -> None:
        self.named_models()
        if self.webhook is not None:
            check_webhook(self.webhook)

    def named_models(self) -> dict[str, Path]:
        """The models by name; a single one without a name has the name ``""``.

        Raises:
            GradError: a name is missing, given twice, or none that a path can have.
        """
        found: dict[str, Path] = {}
        for text in self.models:
            name, equals, path = text.partition("=")
            if not equals or "/" in name:  # a path may have a = too
                name, path = "", text
            if len(self.models) > 1 and not name:
                raise GradError(f"Of several models each needs a name: give NAME={text}.")
            if name and (not _NAME.fullmatch(name) or name in _TAKEN):
                raise GradError(
                    f"{name!r} can't be the name of a model: take letters, digits, . _ and -, "
                    f"beginning with a letter or digit, and none of {', '.join(_TAKEN)}."
                )
            if name in found:
                raise GradError(f"Two models are called {name}: give each a name of its own.")
            found[name] = Path(path)
        return found

    def settings(self) -> ServeSettings:
        """The server's part.

        Raises:
            GradError: if a value is out of range.
        """
        names = {field.name for field in dataclasses.fields(ServeSettings)}
        values = {name: value for name, value in vars(self).items() if name in names}
        if self.token is None:
            values["token"] = os.environ.get(TOKEN_VARIABLE)
        return ServeSettings(**values)
