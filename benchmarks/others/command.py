"""Ours and other people's methods on the same images, with the same metrics, side by side.

    pip install ".[peers]"
    python benchmarks/bench_peers.py --data DIR [--weights FILE] [--seconds N] [--out DIR]

Each peer runs unified (one model for all classes) and separate (one a class), in a process of its
own, from images on: nothing is computed before. What is done is kept in ``OUT/peers``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import shlex
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accuracy.render import grid
from accuracy.rows import Method
from accuracy.store import Store, data_digest
from common.facts import machine_facts
from rich.console import Console

from grad.data.layouts import find_dataset
from grad.data.samples import Dataset
from grad.features.backbone import load_backbone
from grad.model.presets import PRESETS, Preset
from grad.score.metrics.classes import METRICS
from grad.system.command_line import run_command
from grad.system.devices import find_device
from grad.system.errors import GradError
from grad.system.files import replacing
from grad.train.options import TrainOptions
from others import from_anomalib
from others.base import Peer, PeerOptions, PeerUnavailable, measure
from others.ours import OnFeatures, input_side

# Method, and preset where it is not the command line's.
OURS: dict[str, tuple[Method, Preset | None]] = {
    "GRAD": ("grad", None),
    "grad-plus": ("grad", "grad-plus"),
    "UniAD": ("uniad", None),
    "memory bank": ("memory bank", None),
}
NAMES = (*OURS, *from_anomalib.PEERS)
SETTINGS = ("unified", "separate")
HEADINGS = {
    "image_auroc": "image AUROC",
    "image_ap": "AP",
    "image_f1max": "F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "AP",
    "pixel_f1max": "F1max",
    "aupro_30": "AUPRO 30 %",
    "aupro_5": "AUPRO 5 %",
}


_SCRIPT = Path(__file__).resolve().parents[1] / "bench_peers.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return run_command(lambda: _compare(given), "Interrupted: the same command goes on from here.")


def _compare(given: Sequence[str]) -> None:
    parsed = _parser().parse_args(given)
    console = Console(highlight=False)
    dataset = find_dataset(parsed.data, TrainOptions(classes=parsed.classes).class_names())
    options = _options(parsed)
    names = _chosen("--peers", parsed.peers, NAMES)
    settings = _chosen("--settings", parsed.settings, SETTINGS)
    if parsed.child is not None:
        _child(parsed.child, names[0], settings[0], dataset, options)
        return
    wanted = [(name, setting) for name in names for setting in settings]
    records = _records(wanted, dataset, options, parsed.out, given, console)
    page = _page(records, _facts(given, dataset, options))
    with replacing(parsed.out / "peers.md") as temporary:
        temporary.write_text(page)
    with replacing(parsed.out / "peers.json") as temporary:
        temporary.write_text(json.dumps(records, indent=1) + "\n")
    console.print(page, markup=False, soft_wrap=True)


def _records(
    wanted: Sequence[tuple[str, str]],
    dataset: Dataset,
    options: PeerOptions,
    out: Path,
    given: Sequence[str],
    console: Console,
) -> list[dict[str, Any]]:
    """A record for each peer and setting, read or made in a process of its own."""
    store = Store(out / "peers")
    digest = data_digest(dataset)
    fingerprint = load_backbone(options.backbone, options.weights).fingerprint
    records = []
    for name, setting in wanted:
        settings = _settings(name, setting, options, digest, fingerprint)
        record = store.get(settings)
        if record is None:
            record = {"settings": settings, **_in_child(given, name, setting, store, settings)}
            if "error" not in record:
                store.put(record)
        records.append(record)
        console.print(f"{name}, {setting}: {_outcome(record)}", markup=False)
    return records


def _in_child(
    given: Sequence[str], name: str, setting: str, store: Store, settings: dict[str, Any]
) -> dict[str, Any]:
    """Run one peer in a fresh process, so that its memory is its own and it may fail."""
    answer = store.path(settings).with_suffix(".answer")
    answer.parent.mkdir(parents=True, exist_ok=True)
    rest = ("--child", str(answer), "--peers", name, "--settings", setting)
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), *given, *rest],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(answer.read_text())
    except (OSError, ValueError):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else "no message"
        found = {"error": f"failed with exit code {done.returncode}: {reason}"}
    finally:
        with contextlib.suppress(OSError):
            answer.unlink()
    return found


def _child(answer: Path, name: str, setting: str, dataset: Dataset, options: PeerOptions) -> None:
    """One peer in one setting; its record goes to the file that the parent reads."""

    def make() -> Peer:
        if name in OURS:
            method, preset = OURS[name]
            return OnFeatures(method, options, preset)
        return from_anomalib.PEERS[name](options)

    classes = dataset.classes
    models = [(own,) for own in classes] if setting == "separate" else [classes]
    record: dict[str, Any]
    try:
        record = measure(make, dataset.train, dataset.test, models, options)
        record["facts"] = machine_facts(find_device(options.device))
    except PeerUnavailable as error:
        record = {"error": str(error)}
    except Exception as error:  # whatever a peer may raise belongs in the table
        traceback.print_exc()
        record = {"error": f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"}
    with replacing(answer) as temporary:
        temporary.write_text(json.dumps(record))


def _chosen(flag: str, text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise GradError(f"{flag} names {', '.join(unknown)}: choose among {', '.join(known)}.")
    return names


def _settings(
    name: str, setting: str, options: PeerOptions, digest: str, fingerprint: str
) -> dict[str, Any]:
    """What a record depends on: options that the peer does not look at are left out."""
    used = {"image_size", "device", "seed"}
    if name in ("GRAD", "grad-plus", "UniAD"):
        used |= {"epochs", "batch_size"} | ({"preset"} if name == "GRAD" else set())
    elif name == "PatchCore":
        used |= {"coreset"}
    elif name not in ("memory bank", "PaDiM"):
        used |= {"seconds"}
    used |= {"textures"} if name == "DRAEM" else set()
    used |= {"vit", "vit_weights"} if name == "Dinomaly" else set()
    values = {key: str(value) for key, value in vars(options).items() if key in used}
    if name in OURS and OURS[name][0] == "grad":
        # What a preset stands for may change from one version to the next.
        preset = OURS[name][1] or options.preset
        values["network"] = str((PRESETS[preset].blocks, PRESETS[preset].width))
        values["context"] = str(PRESETS[preset].context)
        values["image_size"] = str(input_side(preset, options.image_size))
    return {"peer": name, "setting": setting, "data": digest, "backbone": fingerprint, **values}


def _outcome(record: dict[str, Any]) -> str:
    if "error" in record:
        return str(record["error"])
    mean = record["summary"]["mean"]
    return f"image AUROC {_percent(mean['image_auroc'])}, {record['train_seconds']:.0f} s to train"


def _page(records: Sequence[dict[str, Any]], facts: dict[str, str]) -> str:
    head = ["peer", "", *HEADINGS.values()]
    head += ["training, s", "images/s", "model, MB", "peak memory, MB", "note"]
    lines = [head]
    for record in records:
        line = [record["settings"]["peer"], record["settings"]["setting"]]
        if "error" in record:
            lines.append([*line, *["-"] * (len(head) - 3), record["error"]])
            continue
        mean = record["summary"]["mean"]
        line += [_percent(mean[key]) for key in METRICS]
        line += [f"{record['train_seconds']:,.0f}", f"{record['images_per_s']:.1f}"]
        line += [f"{record['megabytes']:,.1f}", f"{record['peak_megabytes']:,.0f}", record["note"]]
        lines.append(line)
    shown = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"# Peers on the same images\n\n{grid(lines, text_columns=2)}\n\n{_NOTES}\n\n{shown}\n"


_NOTES = """\
Metrics are means over the classes, in per cent. Unified: one model for all classes; separate: one a
class, whose training seconds and megabytes are summed. Training starts from images, so it includes
features. Images/s: from decoded images to anomaly maps and scores, in batches of 16, backbone
included. Peak memory is that of the whole process, Python and torch included.

PatchCore, PaDiM and Reverse Distillation see the maps of the same frozen backbone as ours (their
papers' WideResNet-50 is another); Reverse Distillation has the bottleneck and decoder of a
ResNet-18, and the backbone's maps are put into that network's numbers of channels by a fixed
isometry, which leaves cosines as they are. PaDiM keeps 100 channels at random. DRAEM takes no
backbone; without `--textures` its synthetic defects are noise, not photographs of textures."""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _facts(given: Sequence[str], dataset: Dataset, options: PeerOptions) -> dict[str, str]:
    device = find_device(options.device)
    machine = machine_facts(device)
    return {
        "command": f"`python benchmarks/bench_peers.py {shlex.join(given)}`",
        "data": f"{len(dataset.classes)} classes ({', '.join(dataset.classes)}), "
        f"{len(dataset.train)} training and {len(dataset.test)} test images of "
        f"{options.image_size} pixels",
        "GRAD": f"preset {options.preset}",
        "machine": f"{platform.machine()}, {machine['device_name']}, torch {machine['torch']}",
    }


def _options(parsed: argparse.Namespace) -> PeerOptions:
    names = {field.name for field in dataclasses.fields(PeerOptions)}
    given = {k: v for k, v in vars(parsed).items() if k in names and v is not None}
    device = find_device(given.get("device", "auto"))
    return PeerOptions(**{"backbone": None, "weights": None, **given, "device": str(device)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/bench_peers.py", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--classes", help="as in python -m grad.train")
    parser.add_argument(
        "--peers", default=",".join(NAMES), help=f"NAME,NAME of {', '.join(NAMES)}; none: all"
    )
    parser.add_argument("--settings", default=",".join(SETTINGS), help="unified,separate")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder of results")
    parser.add_argument("--backbone", help="timm model of all that take one")
    parser.add_argument("--weights", type=Path, help="file with the backbone's weights")
    parser.add_argument("--preset", help="of GRAD; none: grad-s")
    parser.add_argument("--epochs", type=int, help="of GRAD and UniAD; none: 100")
    parser.add_argument("--batch-size", type=int, help="of GRAD and UniAD; none: 64")
    parser.add_argument(
        "--image-size",
        type=int,
        help="side of all images, but for grad-plus, which has its own; none: 224",
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--coreset", type=float, help="share that PatchCore keeps; none: 0.1")
    parser.add_argument(
        "--seconds", type=float, help="training time of a peer's network; none: its own epochs"
    )
    parser.add_argument("--textures", type=Path, help="folder of textures for DRAEM's defects")
    parser.add_argument("--vit", help="timm's name of Dinomaly's ViT")
    parser.add_argument("--vit-weights", type=Path, help="file with its weights (safetensors)")
    parser.add_argument("--device")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser
