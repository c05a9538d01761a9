"""Damaged files of each kind that GRAD reads: a right result or one sentence, and nothing else.

    PYTHONPATH=.:tests python tests/helpers/damage.py [--files 300] [--kinds png,model]

A file is cut, emptied, overwritten, doubled, exchanged for another, or has bits flipped or huge
numbers in its header. It is read by what reads such files, in a child that ends after 20 seconds
and may take 4 GB.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import grad.evaluate.__main__
from grad.data.images import load_mask
from grad.data.layouts import find_dataset
from grad.data.samples import Sample
from grad.detector.detector import Detector
from grad.detector.training.loop import make_optimizer
from grad.detector.training.schedule import Schedule
from grad.detector.training.state import History, TrainingState
from grad.features.backbone import load_backbone
from grad.features.compute import compute_features
from grad.model.grad import GRAD
from grad.system.errors import GradError
from grad.system.run_folder import METRICS, MODEL, RECORDS, REPORT, STATE
from grad.train.__main__ import main as train
from grad.train.options import parse
from helpers.features import make_features
from helpers.images import FakeBackbone, make_images
from helpers.tiny_model import BACKBONE, make_run, pixels

SECONDS, BYTES = 20, 4 << 30
RIGHT, SENTENCE = "right", "one sentence"

Read = Callable[[Path], object]
"""From a folder to something that is equal whenever it is right; raises GradError."""


@dataclass(frozen=True)
class Kind:
    """A folder with a file to damage, and how it is read.

    Attributes:
        files: in the folder; one of them is damaged.
        read: what reads them.
        exact: whether the file vouches for itself, so that what is read must be what was written.
    """

    files: tuple[str, ...]
    read: Read
    exact: bool = False


def damaged(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The content of a file after something has happened to it."""
    size = len(data)
    start = rng.randrange(size)
    end = min(size, start + rng.choice([1, 4, 100, 10_000]))
    match rng.randrange(9):
        case 0:
            return data[:start]
        case 1:
            flipped = bytearray(data)
            for _ in range(rng.choice([1, 1, 2, 8])):
                flipped[rng.randrange(size)] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case 2:
            return data[:start] + bytes(end - start) + data[end:]
        case 3:
            return data[:start] + rng.randbytes(end - start) + data[end:]
        case 4:
            return rng.choice([b"", data + data, data[start:] + data[:start], data[end:]])
        case 5:
            return rng.choice(others)
        case 6:  # a header with huge numbers
            at = rng.randrange(min(size, 64))
            huge = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8])
            return data[:at] + huge + data[at + len(huge) :]
        case 7:  # text with other values
            digits = [i for i, byte in enumerate(data[:100_000]) if 48 <= byte < 58]
            at = rng.choice(digits) if digits else start
            odd = [
                b"9" * 400,
                b"1e999",
                b"NaN",
                b"null",
                b'"x"',
                b"-1",
                b"[" * 9999,
                b"{}",
                b"\x00",
            ]
            return data[:at] + rng.choice(odd) + data[at + 1 :]
        case _:
            return data[:start] + data[end:]


def kinds(folder: Path) -> dict[str, tuple[Path, Kind]]:
    """All kinds, each with a folder that was made for it."""
    found: dict[str, tuple[Path, Kind]] = {}

    def place(name: str) -> Path:
        path = folder / name
        path.mkdir()
        return path

    run = make_run(place("run"))
    detector = Detector.load(run, device="cpu")
    picture = Image.fromarray(pixels(3, (60, 80)))
    deep = Image.fromarray(pixels(3, (60, 80), 65535, np.uint16)[:, :, 0])
    saved = {
        "png": (picture, "a.png", {}),
        "png16": (deep, "a.png", {}),
        "jpeg": (picture, "a.jpg", {}),
        "progressive": (picture, "a.jpg", {"progressive": True}),
        "bmp": (picture, "a.bmp", {}),
        "tiff": (picture, "a.tif", {"compression": "tiff_lzw"}),
        "webp": (picture, "a.webp", {}),
        "gif": (picture, "a.gif", {}),
    }
    for name, (image, file, options) in saved.items():
        image.save(place(name) / file, **options)

        def read_image(folder: Path, file: str = file) -> None:
            assert np.isfinite(detector.predict(folder / file).score)

        found[name] = folder / name, Kind((file,), read_image)

    mask = Image.fromarray((pixels(4)[:, :, 0] > 128).astype(np.uint8) * 255)
    mask.save(place("mask") / "a.png")
    found["mask"] = (
        folder / "mask",
        Kind(("a.png",), lambda at: load_mask(at / "a.png").any() and 0),
    )

    def read_model(at: Path) -> float:
        score: float = Detector.load(at / MODEL, device="cpu").predict(picture).score
        return score

    found["model"] = run, Kind((MODEL,), read_model, exact=True)

    state = place("state")
    _training(state)[0].save(History((1.0,), (0.1,), (2.0,)))
    _training(state)[0].finish()
    found["state"] = state, Kind((STATE,), _read_state, exact=True)

    cache = place("cache")
    _compute(cache)
    names = tuple(path.name for path in sorted((cache / "features").iterdir()))
    names = tuple(f"features/{n}" for n in names if not n.startswith("."))
    found["cache"] = cache, Kind(names, _compute, exact=True)

    whole = place("results")
    make_images(whole / "data", classes=("one",), train=6, test=3, size=32)
    quick = "--preset grad-tiny --epochs 1 --batch-size 4 --image-size 32 --device cpu --workers 1"
    places = {"data": whole / "data", "cache": whole / "cache", "out": whole / "run"}
    more = [word for key, value in places.items() for word in (f"--{key}", str(value))]
    assert train([*quick.split(), "--backbone", "tf_efficientnet_lite0", *more]) == 0
    shutil.rmtree(whole / "cache")
    shutil.rmtree(whole / "data")
    for name, file in (("records", RECORDS), ("metrics", METRICS), ("report", REPORT)):
        found[name] = whole, Kind((f"run/{file}",), _rejudge)
    found["config"] = (
        whole,
        Kind(
            ("run/config.yaml",),
            lambda at: parse(["--config", str(at / "run/config.yaml")]) and None,
        ),
    )

    found["visa"] = (
        _make_visa(place("visa")),
        Kind(("split_csv/1cls.csv",), lambda at: find_dataset(at) and None),
    )
    weights = place("weights")
    shutil.copy(run / "weights.safetensors", weights / "a.safetensors")
    torch.save(timm.create_model(BACKBONE).state_dict(), weights / "a.pth")
    for name in ("a.safetensors", "a.pth"):

        def read_weights(at: Path, name: str = name) -> None:
            load_backbone(BACKBONE, at / name)

        found[f"weights {name[1:]}"] = weights, Kind((name,), read_weights)
    return found


def _make_visa(folder: Path) -> Path:
    rows = ["object,split,label,image,mask"]
    for number, split in enumerate(("train", "train", "test", "test")):
        label = "anomaly" if number == 3 else "normal"
        image, mask = f"nut/Data/Images/{number}.png", "nut/Data/Masks/3.png"
        rows.append(f"nut,{split},{label},{image},{mask if label == 'anomaly' else ''}")
        for path in (image, mask):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(number)).save(folder / path)
    (folder / "split_csv").mkdir()
    (folder / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return folder


def _training(folder: Path) -> tuple[TrainingState, GRAD]:
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-tiny", 6, 3, 3)
    optimizer = make_optimizer(model, Schedule(epochs=2))
    model.loss_and_score(make_features(2).batch([0, 1]).float())[0].backward()
    optimizer.step()
    return TrainingState(folder, model, optimizer, torch.Generator().manual_seed(0), {}), model


def _read_state(folder: Path) -> object:
    state, model = _training(folder)
    history = state.restore()
    if not history.epochs:  # without the file training begins anew
        raise GradError("None.")
    return history, {name: value.tolist() for name, value in model.state_dict().items()}


def _compute(folder: Path) -> object:
    images = folder / "images"
    if not images.exists():
        images.mkdir()
        for number in range(4):
            Image.fromarray(pixels(number)).save(images / f"{number}.png")
    for path in images.iterdir():  # as files that have settled, whatever copied them
        os.utime(path, (0, 0))
    samples = [Sample(path, "a", "train") for path in sorted(images.iterdir())]
    features = compute_features(samples, FakeBackbone(), 32, cache=folder / "features")
    return features.batch(range(4)).tolist()


def _rejudge(folder: Path) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(output):
        code = grad.evaluate.__main__.main([str(folder / "run"), "--threshold", "f1"])
    if code != 0:
        assert code == 2 and output.getvalue().count("\n") == 1, output.getvalue()
        raise GradError(output.getvalue().strip())


def outcome(kind: Kind, folder: Path, right: object) -> str:
    """What reading does, in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = _outcome(kind, folder, right)
            os.write(writer, found.encode(errors="replace")[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    timer = threading.Timer(SECONDS, os.kill, (child, signal.SIGKILL))
    timer.start()
    with os.fdopen(reader, errors="replace") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    return text or f"ended by signal {os.waitstatus_to_exitcode(status)}"


def _outcome(kind: Kind, folder: Path, right: object) -> str:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    try:
        found = kind.read(folder)
    except GradError as error:
        text = str(error)
        return SENTENCE if text and "\n" not in text and len(text) < 2000 else f"says {text!r}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = [f for f in traceback.extract_tb(error.__traceback__) if "/grad/" in f.filename]
        where = where[-1] if where else last
        return f"{type(error).__name__}: {str(error)[:200]} at {where.filename}:{where.lineno}"
    return RIGHT if not kind.exact or found == right else "another result without a word"


def try_kind(name: str, place: Path, kind: Kind, files: int) -> tuple[Counter[str], dict[int, str]]:
    """How many files were read rightly or refused, and what else came of the others by number."""
    counts: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    right = kind.read(place)
    others = [path.read_bytes() for path in sorted(place.parent.glob("*/*")) if path.is_file()]
    for number in range(files):
        rng = random.Random(f"{name} {number}")
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            work = Path(scratch) / "work"
            shutil.copytree(place, work, copy_function=shutil.copy2)
            file = work / rng.choice(kind.files)
            file.write_bytes(damaged(file.read_bytes(), others, rng))
            found = outcome(kind, work, right)
        counts[found if found in (RIGHT, SENTENCE) else "wrong"] += 1
        if found not in (RIGHT, SENTENCE):
            wrong[number] = found
    return counts, wrong


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=300, help="of each kind")
    parser.add_argument("--kinds", help="NAME,NAME; none: all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            everything = kinds(Path(folder))
        for name in given.kinds.split(",") if given.kinds else everything:
            counts, wrong = try_kind(name, *everything[name], given.files)
            shown = ", ".join(f"{counts[what]} {what}" for what in (RIGHT, SENTENCE, "wrong"))
            print(f"{name}: {given.files} files, {shown}", flush=True)
            for number, what in wrong.items():
                failed = True
                print(f"  {number}: {what}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command())
