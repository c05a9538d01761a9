"""``training.safetensors``: what training needs to go on as if it had never stopped.

Tensors: the model's, the optimiser's moments, the states of the random generators. The metadata is
JSON: the history, and what the state belongs to. Reading it never runs code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from grad.detector.checkpoint import DIGEST, digest, tensors_under
from grad.system import distributed
from grad.system.errors import GradError, first_line
from grad.system.files import replacing
from grad.system.run_folder import HISTORY, STATE

FORMAT = "grad-training/1"


@dataclass(frozen=True)
class History:
    """What the completed epochs were like, a number each.

    Attributes:
        loss: mean over the images.
        learning_rate: of the networks.
        seconds: wall clock time of the steps.
    """

    loss: tuple[float, ...] = ()
    learning_rate: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()

    @classmethod
    def read(cls, text: str) -> History:
        """From JSON.

        Raises:
            ValueError, TypeError, AttributeError: it is none.
        """
        history = cls(**{name: tuple(map(float, row)) for name, row in json.loads(text).items()})
        if not len(history.loss) == len(history.learning_rate) == len(history.seconds):
            raise ValueError("its history is not as long in all parts")
        return history

    @property
    def epochs(self) -> int:
        """How many epochs are completed."""
        return len(self.loss)

    def followed_by(self, loss: float, learning_rate: float, seconds: float) -> History:
        """The same with one more epoch."""
        return History(
            (*self.loss, loss),
            (*self.learning_rate, learning_rate),
            (*self.seconds, seconds),
        )


class TrainingState:
    """The state of a running training, and the folder that keeps it.

    A context: what is being written is finished when it is left.

    Args:
        folder: of ``training.safetensors`` and ``history.json``; None: nothing is kept.
        model: as it is trained, on its device.
        optimizer: of the model's parameters.
        order: generator of the order of images.
        belongs_to: what must be the same for training to go on: seed, images, model.
    """

    def __init__(
        self,
        folder: Path | None,
        model: nn.Module,
        optimizer: Optimizer,
        order: torch.Generator,
        belongs_to: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._model, self._optimizer, self._order = model, optimizer, order
        self._belongs_to = json.loads(json.dumps(dict(belongs_to)))
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def restore(self) -> History:
        """Go on from the file, where there is one: everything becomes as it was then.

        Raises:
            GradError: it is damaged, of another format, or belongs to another training.
        """
        found = None if self._folder is None else distributed.from_main(self._content)
        if found is None:
            return History()
        content, metadata = found
        path = self._path()
        try:
            tensors = load(content)
            self._check(metadata, tensors)
            history = History.read(metadata["history"])
            self._put(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise GradError(
                f"{path} does not fit this training ({first_line(error)}): train in another folder."
            ) from error
        return history

    def save(self, history: History) -> None:
        """Keep the state as it is now; files are written while training goes on.

        Raises:
            GradError: these files or the ones before can't be written.
        """
        if self._folder is None or not distributed.is_main():
            return
        tensors = self._tensors()
        self.finish()
        self._writing = self._writer.submit(self._write, tensors, history)

    def finish(self) -> None:
        """Wait until what was to be kept is on disk.

        Raises:
            GradError: it can't be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> TrainingState:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.finish()
        finally:
            self._writer.shutdown()

    def _path(self) -> Path:
        assert self._folder is not None
        return self._folder / STATE

    def _write(self, tensors: dict[str, Tensor], history: History) -> None:
        metadata = {
            "format": FORMAT,
            "belongs_to": json.dumps(self._belongs_to),
            "history": json.dumps(asdict(history)),
        }
        metadata |= {DIGEST: digest(metadata, tensors)}
        # First, as an epoch that is known here alone is trained and written again.
        with replacing(self._path().with_name(HISTORY)) as temporary:
            temporary.write_text(json.dumps(asdict(history), indent=2) + "\n", encoding="utf-8")
        with replacing(self._path()) as temporary:
            try:
                save_file(tensors, temporary, metadata)
            except SafetensorError as error:  # its way to report a full disk
                raise OSError(str(error)) from error

    def _content(self) -> tuple[bytes, dict[str, str]] | None:
        """The file's bytes and its metadata; None where there is no file."""
        path = self._path()
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            return path.read_bytes(), metadata
        except (SafetensorError, OSError) as error:
            raise GradError(
                f"{path} is damaged ({error}): remove it, and training begins anew."
            ) from error

    def _check(self, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')}, not {FORMAT}")
        if DIGEST in metadata and metadata[DIGEST] != digest(metadata, tensors):  # older have none
            raise ValueError("its content is not what was written")
        found = json.loads(metadata["belongs_to"])
        other = [name for name, value in self._belongs_to.items() if found.get(name) != value]
        if other:
            raise ValueError(f"it belongs to another {' and another '.join(other)}")

    def _tensors(self) -> dict[str, Tensor]:
        """Copies of everything, on the CPU."""
        found = {f"model.{name}": value for name, value in self._model.state_dict().items()}
        for name, parameter in self._model.named_parameters():
            for key, value in self._optimizer.state[parameter].items():
                found[f"optimizer.{key}.{name}"] = value
        for name, value in _random_states(self._device(), self._order).items():
            found[f"random.{name}"] = value
        return {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in found.items()
        }

    def _put(self, tensors: dict[str, Tensor]) -> None:
        self._model.load_state_dict(tensors_under("model.", tensors))
        for name, parameter in self._model.named_parameters():
            state = self._optimizer.state[parameter] = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors[f"optimizer.{key}.{name}"]
                if value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"its {key} of {name} has shape {tuple(value.shape)}")
                like = parameter if value.dim() else value.to(parameter.device)
                state[key] = torch.empty_like(like, dtype=value.dtype).copy_(value)
        _set_random_states(self._device(), self._order, tensors_under("random.", tensors))

    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


def _random_states(device: torch.device, order: torch.Generator) -> dict[str, Tensor]:
    states = {"order": order.get_state(), "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(
    device: torch.device, order: torch.Generator, states: Mapping[str, Tensor]
) -> None:
    order.set_state(states["order"])
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
