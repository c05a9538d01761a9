"""Whether a library that was built elsewhere fits this machine; used by the scripts gpu_*.sh.

    python benchmarks/gpu_library.py write     after building: say what it was built for
    python benchmarks/gpu_library.py check     before using it: say where this machine differs
    python benchmarks/gpu_library.py missing   the wheels of packages that this Python lacks

Exit code 2 where the library can't work here, with one line for each reason.
"""

from __future__ import annotations

import argparse
import json
import platform
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".gpu"


def present() -> dict[str, str]:
    """Python, torch and CUDA that run this, and the sources that lie here."""
    import torch

    # By its path: importing grad.ops would load the library whose fit is asked for.
    digest = runpy.run_path(str(ROOT / "grad" / "ops" / "source_digest.py"))["digest"]
    return {
        "python": "{}.{}".format(*sys.version_info),
        "machine": platform.machine(),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "sources": digest(ROOT / "csrc"),
    }


def differences(built: dict[str, str], here: dict[str, str]) -> tuple[list[str], list[str]]:
    """What keeps a library from working here, and what is only worth knowing."""
    fatal, notes = [], []
    for name in ("python", "machine", "torch", "cuda"):
        ours, theirs = built[name], here[name]
        if ours == theirs:
            continue
        parts = 1 if name == "cuda" else 2  # of the version, that must agree
        agree = name != "machine" and ours.split(".")[:parts] == theirs.split(".")[:parts]
        (notes if agree else fatal).append(f"{name}: built for {ours}, here is {theirs}")
    if built["sources"] != here["sources"]:
        fatal.append("csrc: the library was built from other sources than those here")
    return fatal, notes


def cannot_run(architectures: str, capability: tuple[int, int]) -> str | None:
    """Why a GPU can't run code for these architectures, such as "8.0+PTX;9.0"."""
    for entry in architectures.split(";"):
        major, minor = map(int, entry.removesuffix("+PTX").split("."))
        same = major == capability[0] and minor <= capability[1]
        if same or (entry.endswith("+PTX") and (major, minor) <= capability):
            return None
    return "architecture: built for {}, here is {}.{}".format(architectures, *capability)


def write(asked_cuda: str, most_mib: float) -> int:
    """Complete the record beside the library; refuse what is not asked for, or is too large."""
    records = list(FOLDER.glob("lib/grad/_C.*.json"))
    if len(records) != 1:
        print(f"There is no library in {FOLDER}.", file=sys.stderr)
        return 2
    record = json.loads(records[0].read_text())
    built = present() | {"architectures": record["architectures"], "nvcc": record["cuda"]}
    if asked_cuda and not built["cuda"].startswith(asked_cuda):
        print(f"This torch is for CUDA {built['cuda']}, not {asked_cuda}.", file=sys.stderr)
        return 2
    (FOLDER / "built.json").write_text(json.dumps(built, indent=2) + "\n")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tree = sum(path.stat().st_size for name in names.split("\0") if (path := ROOT / name).is_file())
    carried = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    total = (tree + carried) / 2**20
    print("\n".join(f"{name}: {value}" for name, value in built.items()))
    print(f"{FOLDER.name} {carried / 2**20:.1f} MiB, with the source tree {total:.1f} MiB")
    if total > most_mib:
        print(f"That is more than {most_mib:g} MiB.", file=sys.stderr)
        return 2
    return 0


def check(device: str) -> int:
    """Print where this machine differs from the one that the library is for."""
    import torch

    if not (FOLDER / "built.json").is_file():
        print(f"There is no {FOLDER / 'built.json'}: run benchmarks/gpu_library.sh first.")
        return 2
    built = json.loads((FOLDER / "built.json").read_text())
    fatal, notes = differences(built, present())
    if device == "cuda" and torch.cuda.is_available():
        reason = cannot_run(built["architectures"], torch.cuda.get_device_capability())
        fatal += [reason] if reason else []
    for line in notes:
        print(f"the library differs, but fits: {line}")
    for line in fatal:
        print(f"the library does not fit: {line}")
    return 2 if fatal else 0


def missing() -> int:
    """Print the carried wheels whose packages are not installed here."""
    for wheel in sorted((FOLDER / "wheels").glob("*.whl")):
        try:
            metadata.version(wheel.name.split("-")[0])
        except metadata.PackageNotFoundError:
            print(wheel)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """One of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("write", "check", "missing"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--asked-cuda", default="", metavar="X.Y")
    parser.add_argument("--most-mib", type=float, default=64.0)
    given = parser.parse_args(arguments)
    if given.what == "write":
        return write(given.asked_cuda, given.most_mib)
    return check(given.device) if given.what == "check" else missing()


if __name__ == "__main__":
    sys.exit(main())
