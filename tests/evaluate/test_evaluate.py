"""grad evaluate: other images, and other thresholds from what a run has stored."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import error_of
from helpers.images import make_images
from PIL import Image, ImageFilter

from grad.data.layouts import find_dataset
from grad.detector import checkpoint
from grad.detector.checkpoint import load_calibration, load_checkpoint
from grad.evaluate import run as assessment
from grad.evaluate.__main__ import main
from grad.features.compute import compute_features
from grad.score.dataset import scored
from grad.score.records import read_records
from grad.train.__main__ import main as train

SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "parts"
    make_images(root, classes=("one", "two"), train=8, test=4, size=SIZE)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def trained(data, cache, tmp_path_factory):
    """A run with images held out for thresholds."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 2 --batch-size 4"
    arguments = [
        *f"{quick} --image-size {SIZE} --device cpu --precision float32".split(),
        *("--cache", cache, "--data", str(data), "--calibration-share", "0.4", "--out", str(out)),
    ]
    assert train(arguments) == 0
    return out


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run to change, and an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def test_training_keeps_images_for_thresholds(trained):
    metrics = metrics_of(trained)
    assert metrics["settings"]["images"]["one"]["train"] == 5
    assert metrics["settings"]["images"]["one"]["calibration"] == 3
    section = metrics["thresholds"]
    assert (section["method"], section["asked_rate"]) == ("good", "auto")
    for name in ("one", "two"):
        row = section["classes"][name]
        assert (row["images"], row["source"]) == (3, "held out")
        assert "fitted to 3 good images held out" in row["note"]
        assert sum(row["counts"].values()) == {"one": 8, "two": 9}[name]
    calibration = load_checkpoint(trained).calibration
    assert calibration.classes["one"].image == section["classes"]["one"]["image"]
    assert section["unknown"]["image"] == calibration.unknown.image


def test_records_are_what_the_model_says(trained, data):
    loaded = load_checkpoint(trained)
    records = read_records(trained / "records.jsonl")
    assert len(records) == 17
    assert {record.class_name for record in records} == {"one", "two"}
    assert all(record.map_maximum >= record.score > 0 for record in records)
    assert sum(record.anomalous for record in records) == 8
    assert loaded.calibration.good_scores["one"] != loaded.calibration.good_scores["two"]


def test_other_thresholds_without_the_network(run, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise AssertionError("ran a network or read an image")

    for name in ("load_checkpoint", "features_for", "find_dataset"):
        monkeypatch.setattr(assessment, name, refuse)
    before, files = metrics_of(run), contents(run)
    assert main([str(run), "--false-alarm-rate", "0.3"]) == 0
    assert "30.00%" in capsys.readouterr().out
    assert contents(run) == files, "a look changes nothing"
    assert main([str(run), "--false-alarm-rate", "0.3", "--save"]) == 0
    after = metrics_of(run)
    assert after["thresholds"]["asked_rate"] == 0.3
    lower, higher = (m["thresholds"]["classes"]["one"]["image"] for m in (after, before))
    assert lower < higher
    assert {k: v for k, v in after.items() if k != "thresholds"} == {
        k: v for k, v in before.items() if k != "thresholds"
    }
    changed = {name for name, content in contents(run).items() if files[name] != content}
    assert changed == {"model.safetensors", "metrics.json", "report.html"}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def shown_threshold(run):
    """The threshold of class one: in the model, in metrics.json, in the report."""
    _, calibration = load_calibration(run / "model.safetensors")
    report = re.search(r'id="data">(.*?)</script>', (run / "report.html").read_text())[1]
    return (
        calibration.classes["one"].image,
        metrics_of(run)["thresholds"]["classes"]["one"]["image"],
        json.loads(report)["classes"][0]["threshold"]["image"],
    )


@pytest.mark.parametrize("names", [0, 1, 2, 3])
def test_saved_thresholds_that_fail_to_be_written_leave_all_as_it_was(run, names, monkeypatch):
    """Before the files take their names nothing has changed."""
    files, written = contents(run), []
    touch = Path.touch

    def full(path, *arguments, **options):
        written.append(path)
        if len(written) > names:
            raise OSError(28, "No space left on device")
        touch(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", full)
    assert main([str(run), "--false-alarm-rate", "0.3", "--save"]) == 2
    assert len(written) == names + 1 and contents(run) == files


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_while_files_take_their_names_is_made_up_for(run, renamed):
    """What was killed after it had written everything is completed by the next command."""
    code = f"""
import os, sys
from grad.evaluate.__main__ import main
replace, done = os.replace, []
def killed(source, target):
    if len(done) > {renamed}:
        os._exit(9)
    replace(source, target)
    if not str(target).endswith(".key"):
        done.append(target)
os.replace = killed
main([sys.argv[1], "--false-alarm-rate", "0.3", "--save"])
"""
    before = shown_threshold(run)
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True)
    assert done.returncode == 9, done.stderr
    assert len(set(before)) == 1
    assert main([str(run)]) == 0
    after = shown_threshold(run)
    assert len(set(after)) == 1 and after[0] < before[0]
    assert not [path for path in run.iterdir() if path.suffix == ".tmp"]
    assert load_calibration(run / "model.safetensors")[1].false_alarm_rate == 0.3


def test_saved_thresholds_are_the_models(run):
    assert main([str(run), "--threshold", "f1", "--save"]) == 0
    info, calibration = load_calibration(run / "model.safetensors")
    assert calibration.method == "f1" and info.classes == ("one", "two")
    assert main([str(run / "model.safetensors"), "--threshold", "good", "--save"]) == 0
    _, calibration = load_calibration(run / "model.safetensors")
    assert (calibration.method, calibration.false_alarm_rate) == ("good", "auto")
    assert main([str(run), "--threshold", "12.5", "--save"]) == 0
    assert metrics_of(run)["thresholds"]["classes"]["two"]["image"] == 12.5


def test_evaluation_of_the_same_images_gives_the_same(run, data, cache):
    arguments = [str(run), "--data", str(data), "--cache", cache, "--device", "cpu"]
    assert main([*arguments, "--out", "again"]) == 0
    again = run.parent / "again"
    first, second = metrics_of(run), metrics_of(again)
    for key in ("classes", "mean", "thresholds"):
        assert second[key] == first[key]
    assert (again / "records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()
    assert main([str(again), "--false-alarm-rate", "0.3", "--save"]) == 0, "its model is found"
    assert metrics_of(again)["thresholds"]["asked_rate"] == 0.3
    assert main([*arguments, "--classes", "one"]) == 0
    chosen = metrics_of(run.parent / "runs" / "parts-evaluation")
    assert set(chosen["classes"]) == {"one"}


def test_soft_edges_of_masks_count_by_rule(run, data, cache, tmp_path):
    shutil.copytree(data, tmp_path / "soft")
    masks = sorted(tmp_path.glob("soft/*/ground_truth/*/*"))
    for path in masks:
        with Image.open(path) as image:
            drawn = np.asarray(image.convert("L")) > 0
        wide = Image.fromarray(drawn).convert("L").filter(ImageFilter.MaxFilter(9))
        Image.fromarray(np.where(drawn, 255, np.asarray(wide) // 8).astype(np.uint8)).save(path)
    arguments = [str(run), "--data", str(tmp_path / "soft"), "--cache", cache, "--device", "cpu"]
    assert masks and main([*arguments, "--out", "any"]) == 0
    assert main([*arguments, "--out", "half", "--mask-rule", "half"]) == 0
    sharp, by_any, by_half = map(metrics_of, (run, tmp_path / "any", tmp_path / "half"))
    assert by_half["classes"] == sharp["classes"] != by_any["classes"]
    assert "half" in by_half["settings"]["mask_rule"] != by_any["settings"]["mask_rule"]


def test_a_class_that_was_not_trained_on(run, cache, tmp_path, capsys):
    make_images(tmp_path / "new", classes=("three",), test=4, size=SIZE)
    arguments = ["--data", "new", "--out", "out", "--cache", cache, "--device", "cpu"]
    assert main([str(run), *arguments]) == 0
    row = metrics_of(tmp_path / "out")["thresholds"]["classes"]["three"]
    assert row["source"] is None
    assert row["image"] == load_checkpoint(run).calibration.unknown.image
    assert "Not trained on" in capsys.readouterr().out


def test_a_model_without_thresholds(run, data, cache, capsys):
    without_calibration(run / "model.safetensors")
    assert main([str(run), "--false-alarm-rate", "0.1"]) == 2
    assert "has no thresholds" in error_of(capsys)
    arguments = [str(run), "--data", str(data), "--cache", cache, "--device", "cpu", "--save"]
    assert main([*arguments, "--out", "out"]) == 0
    calibration = load_checkpoint(run).calibration
    assert set(calibration.sources.values()) == {"training"}
    assert calibration.classes["one"].images == 8


def without_calibration(path):
    metadata, tensors = checkpoint._read(path)
    checkpoint._write(path, tensors, metadata | {"calibration": "null"})


def test_separate_models(data, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 1 --batch-size 4"
    arguments = [
        *f"{quick} --image-size {SIZE} --device cpu --precision float32 --separate".split(),
        *("--cache", cache, "--data", str(data), "--calibration-share", "0.4", "--out", "run"),
    ]
    assert train(arguments) == 0
    first = metrics_of(tmp_path / "run")
    assert first["thresholds"]["unknown"] is None
    assert main(["run", "--false-alarm-rate", "0.3", "--save"]) == 0
    second = metrics_of(tmp_path / "run")["thresholds"]["classes"]
    for name in ("one", "two"):
        assert second[name]["image"] < first["thresholds"]["classes"][name]["image"]
        _, calibration = load_calibration(tmp_path / "run" / name / "model.safetensors")
        assert calibration.false_alarm_rate == 0.3 and set(calibration.classes) == {name}
    options = ["--data", str(data), "--cache", cache, "--device", "cpu", "--out", "out"]
    assert main(["run", *options]) == 0
    assert metrics_of(tmp_path / "out")["classes"] == first["classes"]


def test_further_images_make_the_thresholds(data, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "more", classes=("one", "two"), train=5, size=SIZE)
    quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 1 --batch-size 4"
    arguments = [
        *f"{quick} --image-size {SIZE} --device cpu --precision float32".split(),
        *("--cache", cache, "--data", str(data), "--validation", "more", "--out", "run"),
    ]
    assert train([*arguments, "--threshold", "f1", "--false-alarm-rate", "0.2"]) == 0
    metrics = metrics_of(tmp_path / "run")
    assert metrics["settings"]["images"]["one"]["train"] == 8
    assert metrics["settings"]["images"]["one"]["calibration"] == 5
    assert metrics["thresholds"]["method"] == "f1"
    calibration = load_checkpoint(tmp_path / "run").calibration
    assert set(calibration.sources.values()) == {"validation"}
    assert calibration.false_alarm_rate == 0.2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nowhere", "does not exist"]),
        (["run", "--data", "nowhere"], ["--data nowhere", "does not exist"]),
        (["run", "--false-alarm-rate", "0"], ["--false-alarm-rate 0"]),
        (["run", "--false-alarm-rate", "0.1", "--threshold", "f1"], ["give one of them"]),
        (["run", "--threshold", "high"], ["--threshold", "high"]),
        (["run", "--threshold", "-1"], ["--threshold", "above 0"]),
        (["run", "--classes", "one"], ["--classes needs --data"]),
        (["run", "--mask-rule", "half"], ["--mask-rule needs --data"]),
        (["run", "--mask-rule", "most"], ["--mask-rule"]),
        (["run", "--out", "x"], ["--out needs --data"]),
        (["run", "--data", "data", "--workers", "0"], ["--workers"]),
        (["run", "--data", "data", "--classes", "nine"], ["nine", "one, two"]),
        (["run", "--data", "data", "--device", "quantum"], ["--device"]),
        (["run", "--data", "good"], ["has no test images"]),
        (["empty"], ["empty"]),
        (["data"], ["data"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, run, data, capsys):
    (run.parent / "data").symlink_to(data)
    (run.parent / "good").symlink_to(data / "one/train/good")
    (run.parent / "empty").mkdir()
    before = metrics_of(run)
    assert main(arguments) == 2
    text = error_of(capsys)
    assert all(word in text for word in words), text
    assert metrics_of(run) == before
    assert not (run.parent / "runs").exists() or not list((run.parent / "runs").iterdir())


@pytest.mark.parametrize("damage", ["half", "pickle", "version", "folder", "records", "metrics"])
@pytest.mark.parametrize("images", [False, True])
def test_damaged_runs(damage, images, run, data, capsys):
    model = run / "model.safetensors"
    words = {
        "half": "damaged",
        "pickle": "is a pickle",
        "version": "has format grad-model/9",
        "folder": "no model",
        "records": "line 1 is no record",
        "metrics": "metrics.json can't be read",
    }
    if damage == "half":
        model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    elif damage == "pickle":
        torch.save({"x": torch.zeros(1)}, model)
    elif damage == "version":
        content = model.read_bytes()
        model.write_bytes(content.replace(b"grad-model/2", b"grad-model/9", 1))
    elif damage == "folder":
        model.unlink()
    elif damage == "records":
        (run / "records.jsonl").write_text("{}\n")
    elif damage == "metrics":
        (run / "metrics.json").write_text("{")
    if images and damage in ("records", "metrics"):
        pytest.skip("not read where images are given")
    assert main([str(run), *(["--data", str(data), "--device", "cpu"] if images else [])]) == 2
    assert words[damage] in error_of(capsys)


@pytest.mark.parametrize("change", ["number", "metric", "settings"])
def test_metrics_of_another_kind_change_nothing(change, run, capsys):
    text = (run / "metrics.json").read_text()
    summary = json.loads(text)
    if change == "number":
        summary["mean"]["image_auroc"] = float("inf")
    elif change == "metric":
        for row in (*summary["classes"].values(), summary["mean"]):
            del row["image_ap"]
    else:
        del summary["settings"]
    (run / "metrics.json").write_text(json.dumps(summary).replace("Infinity", "1e999"))
    files = [run / name for name in ("metrics.json", "report.html", "model.safetensors")]
    before = [path.read_bytes() for path in files]
    assert main([str(run), "--threshold", "f1", "--save"]) == 2
    assert "metrics.json" in error_of(capsys)
    assert [path.read_bytes() for path in files] == before
    assert not list(run.rglob(".*.tmp"))


def test_a_folder_without_permission(run, data, cache, monkeypatch, capsys):
    """As root sees none, the refusal comes from a stand-in."""
    make = Path.mkdir

    def refuse(path, *arguments, **options):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    arguments = ["--data", str(data), "--cache", cache, "--device", "cpu", "--out", "locked"]
    assert main([str(run), *arguments]) == 2
    assert "--out locked can't be made (Permission denied)" in error_of(capsys)


def test_scores_do_not_depend_on_the_batch(trained, data, cache):
    """The records of an evaluation are those of its images one by one."""
    loaded = load_checkpoint(trained)
    dataset = find_dataset(data)
    features = compute_features(dataset.test, loaded.backbone, SIZE, cache=cache)
    records = {record.path: record for record in read_records(trained / "records.jsonl")}
    for index in range(len(features)):
        ((samples, scores, maps),) = scored(loaded.model, features.subset([index]), SIZE)
        record = records[str(samples[0].path.absolute())]
        assert float(scores[0]) == pytest.approx(record.score, rel=1e-5)
        assert float(maps.max()) == pytest.approx(record.map_maximum, rel=1e-5)
