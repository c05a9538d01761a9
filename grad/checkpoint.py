"""``model.safetensors``: weights, and in its metadata everything that predicting needs.

Tensors and JSON only: reading a checkpoint never runs code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from grad import __version__
from grad.errors import GradError
from grad.files import replacing
from grad.model import GRAD

FORMAT = "grad-model/1"


@dataclass(frozen=True)
class ModelInfo:
    """What predicting needs beside the model itself.

    Attributes:
        backbone: its name, as :func:`grad.backbone.load_backbone` takes it.
        backbone_fingerprint: the weights that the model was trained on; others don't fit.
        image_size: side of the square that images are resized to, in pixels.
        mean, std: the backbone's normalisation of the three colour channels.
        classes: what the model was trained on.
        epochs: completed epochs.
        grad_version: the version that trained it.
    """

    backbone: str
    backbone_fingerprint: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    epochs: int
    grad_version: str = __version__


def save_checkpoint(path: Path, model: GRAD, info: ModelInfo) -> None:
    """Write a model; the file is whole or not there.

    Raises:
        GradError: the file can't be written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "model": json.dumps(asdict(model.settings)),
        "info": json.dumps(asdict(info)),
    }
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # its way to report a full disk
            raise OSError(str(error)) from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[GRAD, ModelInfo]:
    """Read a model, ready to predict (evaluation mode), and what belongs to it.

    Raises:
        GradError: no such file; no GRAD checkpoint; a damaged one; one of another format.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise GradError(f"The model {path} does not exist: give the model.safetensors of a run.")
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata)
            model, info = _from_metadata(metadata)
            # assign=False: values go into the channels_last memory that from_preset has chosen.
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise GradError(
            f"The model {path} is damaged or no safetensors file ({error}): copy or train it again."
        ) from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise GradError(
            f"The model {path} has a header that does not fit its weights ({reason}): "
            "copy or train it again."
        ) from error
    return model.eval().to(device), info


def _from_metadata(metadata: dict[str, str]) -> tuple[GRAD, ModelInfo]:
    fields: dict[str, Any] = json.loads(metadata["info"])
    for name in ("mean", "std", "classes"):
        fields[name] = tuple(fields[name])
    return GRAD.from_preset(**json.loads(metadata["model"])), ModelInfo(**fields)


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    found = metadata.get("format")
    if found is None:
        raise GradError(
            f"{path} is a safetensors file, but no GRAD model: give the model.safetensors of a run."
        )
    if found != FORMAT:
        raise GradError(
            f"The model {path} has format {found}, this GRAD {__version__} reads {FORMAT}: "
            "use the version of GRAD that wrote it, or train again."
        )


def _refuse_pickle(path: Path) -> None:
    """A PyTorch file is a pickle, plain (first byte 0x80) or in a zip archive."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or (start[:1] == b"\x80" and start[1:] < b"\x06"):
        raise GradError(
            f"{path} is a pickle or an archive, which can run code when it is read: GRAD reads "
            "only the model.safetensors of its own runs."
        )
