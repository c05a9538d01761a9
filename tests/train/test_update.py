"""``grad update``: a trained model learns from further good images."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.command import error_of
from helpers.images import make_images
from helpers.tiny_model import make_run, picture
from PIL import Image

import grad
from grad.detector.checkpoint import load_checkpoint
from grad.system.files import claimed
from grad.system.run_folder import MODEL, PREVIOUS
from grad.train.__main__ import main as train
from grad.train.update.__main__ import main

# Brighter on one side, darker on the other.
LIGHT = np.linspace(-40, 40, 64)[:, None]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Classes a, b and c of coloured noise, c for later."""
    root = tmp_path_factory.mktemp("data")
    make_images(root, train=40, test=6, size=64)
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run on the classes a and b."""
    root = tmp_path_factory.mktemp("trained")
    options = "--preset grad-plus --epochs 2 --batch-size 8 --image-size 64 --device cpu"
    arguments = ["--backbone", "tf_efficientnet_lite0", *options.split(), "--classes", "a,b"]
    folders = ["--data", str(data), "--cache", str(root / "cache"), "--out", str(root / "run")]
    assert train([*arguments, *folders]) == 0
    return root / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def update(run, tmp_path):
    """Calls the command on the run."""
    return lambda *arguments: main([str(run), "--cache", str(tmp_path / "cache"), *arguments])


def relit(folder, out):
    """The images of a folder in another light."""
    out.mkdir()
    for path in sorted(folder.iterdir()):
        pixels = np.asarray(Image.open(path)).astype(float)
        Image.fromarray((pixels + LIGHT).clip(0, 255).astype(np.uint8)).save(out / path.name)
    return out


def alarms(run, folder, name):
    found = grad.Detector.load(run).stream(folder, class_name=name)
    return [result.is_anomalous for result in found]


def test_false_alarms_that_were_given_back_are_fewer_later(data, run, update, tmp_path, capsys):
    given = relit(data / "a/train/good", tmp_path / "given")
    new = relit(data / "a/test/good", tmp_path / "new")
    before = grad.Detector.load(run)
    picked = [
        str(path)
        for path, alarm in zip(sorted(given.iterdir()), alarms(run, given, "a"), strict=True)
        if alarm
    ]
    assert len(picked) > 10
    defects = alarms(run, data / "a/test/dark", "a")
    assert update("--good", *picked, "--class-name", "a") == 0
    said = capsys.readouterr().out
    count = len(picked)
    assert f"a: learned from {count} images, {count} false alarms among them" in said
    excess = [
        np.mean(
            [result.score / result.threshold for result in detector.stream(new, class_name="a")]
        )
        for detector in (before, grad.Detector.load(run))
    ]
    assert excess[1] < 0.9 * excess[0] and excess[0] > 1
    assert sum(alarms(run, data / "a/test/dark", "a")) >= sum(defects) - 1
    after = grad.Detector.load(run)
    assert after.calibration == before.calibration, "picked images do not count for the rate"
    for path in sorted((data / "b/test/good").iterdir()):
        scores = [d.predict(path, class_name="b").score for d in (before, after)]
        assert scores[0] == pytest.approx(scores[1]), "another class"


def test_good_images_count_for_the_threshold(data, run, update, capsys):
    before = load_checkpoint(run).calibration
    quiet = [p for p in sorted((data / "b/test/good").iterdir()) if not alarms(run, p, "b")[0]]
    assert len(quiet) >= 3
    assert update("--good", *map(str, quiet), "--class-name", "b") == 0
    after = load_checkpoint(run)
    known = before.good_scores["b"]
    assert after.calibration.good_scores["b"][: len(known)] == known
    assert len(after.calibration.good_scores["b"]) == len(known) + len(quiet)
    assert after.calibration.good_scores["a"] == before.good_scores["a"]
    assert after.model.statistics.images.tolist() == [40, 40 + len(quiet)]
    assert after.info.updates[0].images == tuple(path.name for path in quiet)
    assert "false alarm" not in capsys.readouterr().out


def test_a_class_that_comes_new_is_judged_as_those_that_were_there(data, run, update, capsys):
    assert (
        update(
            *("--good", str(data / "c/train/good"), "--class-name", "c"),
            *("--defect", str(data / "c/test/dark")),
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "c: threshold" in said and "a new class" in said and "c: 6 of 6 defects found" in said
    detector = grad.Detector.load(run)
    assert detector.classes == ("a", "b", "c")
    assert sum(alarms(run, data / "c/test/good", "c")) <= 2
    assert all(alarms(run, data / "c/test/dark", "c"))
    joint = load_checkpoint(run).model.statistics
    assert joint.images.tolist() == [40, 40, 40] and len(joint.centre) == 3


def test_a_missed_defect_is_named(data, run, update, capsys):
    good = data / "a/test/good/a0.png"
    assert (
        update(
            *(
                "--good",
                str(data / "a/test/good/a1.png"),
                "--class-name",
                "a",
                "--defect",
                str(good),
            )
        )
        == 0
    )
    assert f"missed: {good}, score" in capsys.readouterr().out


def test_out_leaves_the_model_as_it_was(data, run, update, tmp_path):
    before = (run / MODEL).read_bytes()
    good = ("--good", str(data / "c/train/good"), "--class-name", "c")
    assert update(*good, "--out", str(tmp_path / "new")) == 0
    assert (run / MODEL).read_bytes() == before and not (run / PREVIOUS).exists()
    assert grad.Detector.load(tmp_path / "new").classes == ("a", "b", "c")


def test_undo_goes_back_one(data, run, update, capsys):
    before = (run / MODEL).read_bytes()
    assert update("--good", str(data / "c/train/good"), "--class-name", "c") == 0
    once = (run / MODEL).read_bytes()
    assert update("--good", str(data / "c/test/good"), "--class-name", "c") == 0
    assert [u.class_name for u in load_checkpoint(run).info.updates] == ["c", "c"]
    assert update("--undo") == 0
    assert (run / MODEL).read_bytes() == once != before
    capsys.readouterr()
    assert update("--undo") == 2
    assert "only the last update can be undone" in error_of(capsys)
    assert (run / MODEL).read_bytes() == once


def test_nothing_is_learned_twice(data, run, update, tmp_path, capsys):
    folder = shutil.copytree(data / "c/train/good", tmp_path / "c")
    shutil.copy(folder / "c0.png", folder / "again.png")
    assert update("--good", str(folder), "--class-name", "c") == 0
    assert "learned from 40 images; 1 image left out, as known" in capsys.readouterr().out
    before = (run / MODEL).read_bytes()
    assert update("--good", str(folder), "--class-name", "c") == 2
    assert "learned from 41 images given before" in error_of(capsys)
    assert (run / MODEL).read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "Nothing to learn from"),
        (("--undo", "--good", "x.png"), "--undo stands alone"),
        (("--undo",), "was never updated"),
        (("--undo", "--out", "x"), "leave out --out"),
        (("--good", "GOOD"), "say with --class-name which the images are of, a, b or a new one"),
        (("--good", "GOOD", "--class-name", "../x"), "can't be the name of a class"),
        (("--good", "nowhere", "--class-name", "a"), "nowhere"),
        (("--good", "camera:0", "--class-name", "a"), "camera"),
        (("--good", "GOOD", "--class-name", "a", "--workers", "0"), "--workers 0 is too small"),
        (("--good", "GOOD", "--class-name", "a", "--group", "("), "is no regular expression"),
    ],
)
def test_what_is_wrong_is_said_and_the_model_stays(arguments, message, data, run, update, capsys):
    before = (run / MODEL).read_bytes()
    good = str(data / "a/test/good")
    assert update(*(good if a == "GOOD" else a for a in arguments)) == 2
    assert message in error_of(capsys)
    assert (run / MODEL).read_bytes() == before


def test_a_model_that_can_learn_nothing_says_so(tmp_path, capsys):
    good = str(picture(tmp_path / "good.png"))
    call = ["--good", good, "--class-name", "nut", "--cache", str(tmp_path / "cache")]
    assert main([str(make_run(tmp_path / "tiny")), *call]) == 2
    assert "has no statistics" in error_of(capsys)
    assert main([str(make_run(tmp_path / "plus", preset="grad-plus")), *call]) == 2
    assert "did not count its images" in error_of(capsys)


def test_two_updates_at_once_are_refused(data, run, update, capsys):
    with claimed(run / MODEL):
        assert update("--good", str(data / "a/test/good"), "--class-name", "a") == 2
    assert "is at work" in error_of(capsys)


def test_an_update_that_is_killed_leaves_the_model_whole(data, run, update, tmp_path):
    before = (run / MODEL).read_bytes()
    command = [
        *(sys.executable, "-m", "grad.train.update", str(run)),
        *("--good", str(data / "c/train/good"), "--class-name", "c"),
        *("--cache", str(tmp_path / "cache")),
    ]
    start = time.monotonic()
    assert subprocess.run(command, capture_output=True).returncode == 0
    seconds = time.monotonic() - start
    assert update("--undo") == 0
    for share in (0.5, 0.8, 0.95):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if load_checkpoint(run).info.updates:  # it was quicker
            assert update("--undo") == 0
        assert (run / MODEL).read_bytes() == before
