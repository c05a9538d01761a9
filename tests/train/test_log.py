"""``--log``: what each backend holds after a run, and after one that was stopped and went on."""

import csv
import json

import pytest
from helpers.command import error_of
from helpers.layouts import mpdd
from rich.console import Console

from grad.system import distributed
from grad.system.errors import GradError
from grad.train import log as logs
from grad.train.__main__ import main
from grad.train.log import open_log


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mpdd(tmp_path / "Größe (1)")

    def call(*arguments):
        quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --batch-size 4"
        quick += " --image-size 64 --device cpu --precision float32 --cache cache --out run"
        return main([*quick.split(), "--data", "Größe (1)/bracket_black", *arguments])

    return call


def read_csv(folder):
    with (folder / "run/log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "name", "value"]
    return {name: series(rows[1:], name) for _, name, _ in rows[1:]}


def series(rows, wanted):
    return [(int(step), float(value)) for step, name, value in rows if name == wanted]


def read_tensorboard(folder):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    found = event_accumulator.EventAccumulator(str(folder / "run/tensorboard"))
    found.Reload()
    images = found.Tags()["images"]
    assert "examples/overview" in images and len(images) <= 12
    assert all(len(found.Images(name)) == 1 for name in images)
    names = found.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in names}


def read_mlflow(folder):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient()
    run = client.get_run((folder / "run/mlflow.txt").read_text(encoding="utf-8"))
    assert run.info.status == "FINISHED" and run.data.params["preset"] == "grad-tiny"
    pictures = [item.path for item in client.list_artifacts(run.info.run_id, "examples")]
    assert "examples/overview.png" in pictures
    histories = {k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics}
    return {name: [(m.step, m.value) for m in history] for name, history in histories.items()}


READERS = {"csv": read_csv, "tensorboard": read_tensorboard, "mlflow": read_mlflow}


@pytest.mark.parametrize("log", READERS)
def test_a_log_holds_every_epoch_once_also_after_going_on(train, tmp_path, log, capsys):
    if log != "csv":
        pytest.importorskip(log)
    assert train("--epochs", "2", "--log", log) == 0
    assert main(["--resume", "run", "--epochs", "3"]) == 0
    found = READERS[log](tmp_path)
    history = json.loads((tmp_path / "run/history.json").read_text(encoding="utf-8"))
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3]
    losses = [value for _, value in found["train/loss"]]
    assert losses == pytest.approx(history["loss"], rel=1e-6)
    rates = [value for _, value in found["train/grid_learning_rate"]]
    assert rates == pytest.approx([100 * rate for rate in history["learning_rate"]], rel=1e-6)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text(encoding="utf-8"))
    for key in ("image_auroc", "aupro_5"):
        for name in (f"metrics/{key}", f"metrics/bracket_black/{key}"):
            assert found[name][-1] == (3, pytest.approx(metrics["mean"][key]))
    assert "Logg" not in capsys.readouterr().out


def test_each_of_several_models_has_its_epochs(train, tmp_path):
    mpdd(tmp_path / "two")
    (tmp_path / "two/bracket_black").rename(tmp_path / "two/tubes")
    mpdd(tmp_path / "two")
    assert train("--data", "two", "--separate", "--epochs", "1", "--log", "csv") == 0
    found = read_csv(tmp_path)
    assert len(found["train/tubes/loss"]) == len(found["train/bracket_black/loss"]) == 1
    assert found["metrics/tubes/image_auroc"][0][0] == 1


@pytest.mark.parametrize("log", ["tensorboard", "mlflow"])
def test_a_missing_package_is_said_before_anything_is_done(
    train, tmp_path, log, capsys, monkeypatch
):
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    assert train("--log", log) == 2
    assert f'pip install "grad-anomaly[{log}]"' in error_of(capsys)
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_a_log_that_fails_ends_and_training_goes_on(train, tmp_path, capsys, monkeypatch):
    def gone(path):
        raise OSError("the server is gone")

    monkeypatch.setattr(logs, "replacing", gone)
    assert train("--epochs", "2", "--log", "csv") == 0
    said = capsys.readouterr().out
    assert said.count("Logging has ended, training goes on: the server is gone") == 1
    assert (tmp_path / "run/metrics.json").is_file()


def test_a_log_that_can_not_begin_is_one_sentence(train, tmp_path, capsys, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-scheme://x")
    assert train("--epochs", "1", "--log", "mlflow") == 2
    assert "--log mlflow can't begin (" in capsys.readouterr().err.splitlines()[-1]


def test_only_the_first_process_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    with open_log("csv", tmp_path, {}, Console(quiet=True)) as log:
        log.epochs({"loss": [1.0], "seconds": [1.0]}, lambda epoch: (0.1, 1.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (GradError, "FAILED"), (None, "FINISHED")]
)
def test_how_a_run_ended_is_told_to_mlflow(tmp_path, monkeypatch, error, status):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    try:
        with open_log("mlflow", tmp_path, {"seed": 1}, Console(quiet=True)) as log:
            log.epochs({"loss": [1.0], "seconds": [1.0]}, lambda epoch: (0.1, 1.0), "Größe (1)")
            if error is not None:
                raise error("x")
    except (KeyboardInterrupt, GradError):
        pass
    run = mlflow.MlflowClient().get_run((tmp_path / "mlflow.txt").read_text(encoding="utf-8"))
    assert run.info.status == status and run.data.metrics["train/Größe _1_/loss"] == 1.0
