"""The build backend (PEP 517, PEP 660): setuptools, fitted to the torch that is already installed.

A compiled extension runs with the torch it was built with, but an isolated build would take the
newest. So where the environment has a torch, the build uses that very one, by putting its folder at
the end of the import path: pinning its version instead would download gigabytes a second time, and
fail for local, nightly and conda versions. Only where there is none is torch a build requirement.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from build_environment import (
    FIRST_CUDA_ON_PYPI,
    MINIMUM_TORCH,
    Toolkit,
    check_toolkit,
    cuda_choice,
    find_torch,
)
from setuptools import build_meta
from setuptools.build_meta import build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, Any] | None

# With "==" in it, pip settles torch first, and torch pins cuda-toolkit. Otherwise the order is
# random, and with the newest cuda-toolkit settled first only a torch without that pin fits.
NEWEST_TORCH = "torch>={}.{},=={}.*".format(*MINIMUM_TORCH, MINIMUM_TORCH[0])
# Without nvvm and crt the resolver mixes front end and assembler of different versions.
COMPILER = "cuda-toolkit[nvcc,nvvm,crt,cudart,cccl]"


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Ninja, and torch and a CUDA compiler where they are needed and missing."""
    torch = find_torch()
    requires = ["ninja"]
    if torch is None:
        requires.append(NEWEST_TORCH)
    if cuda_choice() is False:
        return requires
    if torch is None:
        requires.append(f"{COMPILER}; platform_system == 'Linux'")
    elif torch.cuda and int(torch.cuda.split(".")[0]) >= FIRST_CUDA_ON_PYPI:
        home = os.environ.get("CUDA_HOME")
        if not (home and isinstance(check_toolkit(Path(home), torch.cuda), Toolkit)):
            requires.append(f"{COMPILER}=={torch.cuda}.*")
    return requires


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """As for a wheel."""
    return get_requires_for_build_wheel(config_settings)


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Nothing: a source distribution compiles nothing."""
    return []


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """As setuptools does it; setup.py compiles nothing for it and imports no torch."""
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """As for a wheel."""
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel with the environment's torch."""
    _make_torch_importable()
    # setuptools packs whatever an earlier build left here, removed modules as well.
    for folder in Path("build").glob("lib*"):
        shutil.rmtree(folder)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the extension into the source tree with the environment's torch."""
    _make_torch_importable()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _make_torch_importable() -> None:
    torch = find_torch()
    if torch is not None and str(torch.folder) not in sys.path:
        sys.path.append(str(torch.folder))
