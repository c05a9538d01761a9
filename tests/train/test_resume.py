"""Training that stopped goes on and ends with the same bits as if it had never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.disk import needs_dev_full, replacing_on_a_full_disk
from helpers.features import make_features
from helpers.images import make_images
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from grad.detector.training import state as training_state
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.model.grad import GRAD
from grad.system.errors import GradError
from grad.system.files import claimed
from grad.system.run_folder import STATE
from grad.train import images as run_images
from grad.train.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


def make_model(**options):
    torch.manual_seed(0)
    return GRAD.from_preset("grad-tiny", 6, 3, 3, **options)


def train(
    folder, epochs, *, stop_after=None, seed=1, model=None, features=None, drops=(2, 4), **options
):
    """Train in a folder; ``stop_after`` epochs everything is lost but what lies there."""
    model = make_model() if model is None else model
    original, steps = model.loss_and_score, []

    def stopping(images):
        steps.append(1)
        if stop_after is not None and len(steps) > 3 * stop_after:
            raise MemoryError("stands for a process that is gone")
        return original(images)

    model.loss_and_score = stopping
    schedule = Schedule(epochs=epochs, batch_size=4, drops=drops)
    features = make_features(10) if features is None else features
    try:
        result = fit(model, features, schedule, seed=seed, folder=folder, **options)
    except MemoryError:
        return None, len(steps)
    return (model, result), len(steps)


def assert_same_files(first: Path, second: Path):
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, precision):
    (whole, result), steps = train(tmp_path / "whole", 6, precision=precision)
    assert steps == 18
    stopped, _ = train(tmp_path / "parts", 6, stop_after=1, precision=precision)
    assert stopped is None
    train(tmp_path / "parts", 6, stop_after=2, precision=precision)  # and once more
    (resumed, again), steps = train(tmp_path / "parts", 6, precision=precision)
    assert steps == 9  # three epochs were left
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert result.history.loss == again.history.loss
    assert result.history.learning_rate == again.history.learning_rate
    assert result.history.learning_rate == pytest.approx([1e-3] * 2 + [1e-4] * 2 + [1e-5] * 2)
    assert len(again.history.seconds) == 6
    assert_same_files(tmp_path / "whole" / STATE, tmp_path / "parts" / STATE)
    written = json.loads((tmp_path / "parts/history.json").read_text())
    assert written["loss"] == list(again.history.loss)
    assert set(written) == {"loss", "learning_rate", "seconds"}
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {STATE, "history.json"}


def test_more_epochs_go_on_from_a_finished_training(tmp_path):
    (whole, _), _ = train(tmp_path / "whole", 5)
    train(tmp_path / "parts", 3)
    (resumed, _), steps = train(tmp_path / "parts", 5)
    assert steps == 6
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    _, steps = train(tmp_path / "parts", 5)
    assert steps == 0


@pytest.mark.parametrize("other", ["seed", "data", "model"])
def test_the_state_of_another_training_is_refused(tmp_path, other):
    train(tmp_path, 1)
    options = {"seed": {"seed": 2}, "data": {"features": make_features(9)}, "model": {}}[other]
    if other != "model":
        with pytest.raises(GradError, match=f"another {other}"):
            train(tmp_path, 2, **options)
    else:
        with pytest.raises(GradError, match="another model"):
            fit(
                make_model(jitter="off"),
                make_features(10),
                Schedule(epochs=2),
                seed=1,
                folder=tmp_path,
            )


@pytest.mark.parametrize("damage", ["cut", "format", "missing", "shape", "history", "bit"])
def test_a_damaged_state_is_a_sentence(tmp_path, damage):
    train(tmp_path, 1)
    file = tmp_path / STATE
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "bit":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "format":
        save_file(load_file(file), file, {"format": "other"})
    elif damage == "history":
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        del metadata["digest"]
        save_file(load_file(file), file, metadata | {"history": '"yes"'})
    else:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        del metadata["digest"]  # or that alone would show it
        tensors = load_file(file)
        name = "optimizer.exp_avg.local.grid.values"
        if damage == "shape":  # one that would fit by broadcasting
            tensors[name] = tensors[name][..., :1].clone()
        else:
            del tensors[name]
        save_file(tensors, file, metadata)
    with pytest.raises(GradError, match=r"training\.safetensors"):
        train(tmp_path, 2)


@needs_dev_full
def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "replacing", replacing_on_a_full_disk)
    monkeypatch.setattr(training_state, "save_file", lambda _, path, __: path.write_bytes(b"x"))
    with pytest.raises(GradError, match="No space left"):
        train(tmp_path, 3)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_images(folder / "data", classes=("one", "two"), train=6, test=2, size=SIZE)
    quick = (
        "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 25 --batch-size 4 --drops 20"
    )
    return [
        *f"{quick} --image-size {SIZE} --device cpu --precision float32 --separate".split(),
        *("--cache", str(folder / "cache"), "--data", str(folder / "data")),
    ]


@pytest.fixture(scope="module")
def whole_run(options, tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*options, "--out", str(folder)]) == 0
    return folder


def epochs_of(file: Path) -> int:
    return len(json.loads(file.read_text())["loss"]) if file.exists() else 0


def test_kill_9_and_resume(whole_run, options, tmp_path, capsys):
    """Killed in the second model's training: the first is not trained again."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "grad.train", *options, "--out", str(run)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while epochs_of(run / "two/history.json") < 3:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    completed = epochs_of(run / "two/history.json")
    assert 3 <= completed < 25 and not (run / "metrics.json").exists()
    first = (run / "one" / STATE).stat().st_mtime_ns

    assert main(["--resume", str(run), "--epochs", "25"]) == 0
    text = capsys.readouterr().out
    assert any(f"{n} of 25 epochs are completed" in text for n in (completed - 1, completed))
    assert (run / "one" / STATE).stat().st_mtime_ns == first
    for name in ("one", "two"):
        for file in (STATE, "model.safetensors"):
            assert_same_files(run / name / file, whole_run / name / file)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (run, whole_run)]
    assert metrics[0] == metrics[1]


def test_a_complete_run_says_so_and_more_epochs_go_on(whole_run, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_images, "compute_features", None)  # nothing is computed
        assert main(["--resume", str(whole_run)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert main(["--resume", str(whole_run), "--epochs", "26"]) == 0
    assert epochs_of(whole_run / "two/history.json") == 26
    settings = json.loads((whole_run / "metrics.json").read_text())["settings"]
    assert settings["epochs"] == 26
    assert main(["--resume", str(whole_run)]) == 0
    assert "all 26 epochs" in capsys.readouterr().out
    for name in ("one", "two"):
        (whole_run / name / STATE).unlink()
    assert main(["--resume", str(whole_run), "--epochs", "27"]) == 2
    assert "nothing to go on from" in capsys.readouterr().err


@pytest.fixture
def small_run(tmp_path):
    """A run of an epoch, and how to start one like it."""
    make_images(tmp_path / "data", classes=("one",), train=6, test=2, size=SIZE)
    quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 1 --batch-size 4"
    options = f"{quick} --image-size {SIZE} --device cpu --precision float32".split()
    places = {"--data": "data", "--cache": "cache", "--out": "run"}
    options += [word for name, value in places.items() for word in (name, str(tmp_path / value))]
    assert main(options) == 0
    return tmp_path / "run", options


def test_a_refused_resume_loses_nothing(small_run, tmp_path, capsys):
    run, _ = small_run
    before = sorted(path.name for path in run.iterdir())
    (tmp_path / "data").rename(tmp_path / "moved")
    assert main(["--resume", str(run), "--epochs", "2"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before
    assert main(["--resume", str(run), "--epochs", "2", "--data", str(tmp_path / "moved")]) == 0
    assert json.loads((run / "metrics.json").read_text())["settings"]["epochs"] == 2


def test_a_folder_with_nothing_but_a_half_written_file_is_empty(small_run, tmp_path):
    _, options = small_run
    half = tmp_path / "killed/.config.yaml.123.tmp"
    half.parent.mkdir()
    half.touch()
    assert main([*options, "--out", str(half.parent)]) == 0
    assert not half.exists()


def test_other_data_are_refused(small_run, tmp_path, capsys):
    run, _ = small_run
    make_images(tmp_path / "other", classes=("one",), train=7, test=2, size=SIZE)
    assert main(["--resume", str(run), "--epochs", "2", "--data", str(tmp_path / "other")]) == 2
    assert "belongs to another data" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "{", '{"settings": 3}', "[" * 9999])
def test_damaged_metrics_are_made_again(small_run, content):
    run, _ = small_run
    whole = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text(content)
    assert main(["--resume", str(run)]) == 0
    assert (run / "metrics.json").read_text() == whole


def test_a_missing_report_is_made_again(small_run):
    run, _ = small_run
    (run / "report.html").unlink()
    assert main(["--resume", str(run)]) == 0
    assert (run / "report.html").is_file() and (run / "metrics.json").is_file()


def test_two_runs_do_not_write_to_one_folder(small_run, capsys):
    run, _ = small_run
    with claimed(run) as mine:
        assert mine
        assert main(["--resume", str(run), "--epochs", "2"]) == 2
    assert f"Another run writes to {run}" in capsys.readouterr().err
    assert epochs_of(run / "history.json") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "3"], ["--seed 3 (was 0)"]),
        (["--seed", "3", "--preset", "grad"], ["--seed 3", "--preset grad (was grad-tiny)"]),
        (["--no-separate"], ["--separate False (was True)"]),
        (["--epochs", "2"], ["--epochs 2", "fewer"]),
        (["--out", "new"], ["--out"]),
    ],
)
def test_contradicting_options_are_named(whole_run, arguments, words, capsys):
    assert main(["--resume", str(whole_run), *arguments]) == 2
    text = capsys.readouterr().err
    assert all(word in text for word in words) and text.count("\n") == 1, text


def test_what_is_no_run_is_a_sentence(tmp_path, capsys):
    assert main(["--resume", str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err
