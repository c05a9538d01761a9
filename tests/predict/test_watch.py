"""A hot folder: every image judged once, whatever happens meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers.command import error_of
from helpers.tiny_model import make_run, picture
from helpers.webhook import receiver

from grad.detector.detector import Detector
from grad.predict import hot_folder
from grad.predict.__main__ import main
from grad.predict.hot_folder import HotFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def watch(run, tmp_path, monkeypatch):
    """The command on the folder ``in``, until so many images are judged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hot_folder, "_LOOK", 0.02)
    monkeypatch.setattr(hot_folder, "_SETTLED", 0.1)
    monkeypatch.setattr(hot_folder, "_PATIENCE", 0.3)
    (tmp_path / "in").mkdir()

    def call(limit, *arguments):
        given = ["--device", "cpu", "--precision", "float32", "--limit", str(limit)]
        return main([*given, str(run), "--watch", "in", *map(str, arguments)])

    return call


def result(path):
    return json.loads(path.read_text())


def names(folder):
    """Of all that is not hidden, below a folder."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.rpartition("/")[2].startswith("."))


def signature(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def test_a_result_lies_beside_each_image(watch, run, tmp_path, capsys):
    for seed, name in enumerate(("a.png", "below/b.png", "ü ö.png")):
        picture(tmp_path / "in" / name, seed=seed)
    (tmp_path / "in/notes.txt").write_text("no image")
    (tmp_path / "in/.half.png").write_text("not yet")
    assert watch(3) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3 and "3 images" in captured.err
    for name in ("a.png", "below/b.png", "ü ö.png"):
        found = result(tmp_path / "in" / f"{name}.json")
        expected = Detector.load(run, device="cpu").predict(tmp_path / "in" / name).to_dict()
        for key in ("score", "value", "map_maximum"):
            assert found[key] == pytest.approx(expected[key], rel=1e-4)
        assert found["is_anomalous"] is expected["is_anomalous"]
        assert found["model_version"] == expected["model_version"]
        assert found["file"]["bytes"] == (tmp_path / "in" / name).stat().st_size


def test_after_a_restart_only_new_and_changed_images_are_judged(watch, tmp_path, capsys):
    for seed in range(3):
        picture(tmp_path / f"in/{seed}.png", seed=seed)
    assert watch(3) == 0
    before = signature(tmp_path / "in")
    picture(tmp_path / "in/1.png", seed=9)
    picture(tmp_path / "in/3.png", seed=3)
    assert watch(2) == 0
    after = signature(tmp_path / "in")
    assert {name for name in after if after[name] != before.get(name)} == {
        "1.png.json",
        "3.png.json",
    }


@pytest.mark.parametrize("out", [False, True])
def test_images_are_moved_to_their_verdict(watch, tmp_path, out):
    """Inside the folder itself, which is not judged again; a name that is taken is no loss."""
    options = ["--move-to", "in/done", *(["--out", "results"] if out else []), "--threshold", "1e6"]
    image = picture(tmp_path / "in/a.png")
    (tmp_path / "in/bad.png").write_bytes(image.read_bytes()[:100])
    assert watch(2, *options) == 0
    home = tmp_path / "in/done"
    results = tmp_path / "results" if out else home
    moved = ["good/a.png", "unreadable/bad.png"]
    if out:
        assert names(home) == moved and names(results) == ["a.png.json", "bad.png.json"]
    else:
        assert names(home) == sorted([*moved, *(f"{name}.json" for name in moved)])
    assert not list((tmp_path / "in").glob("*.png"))
    picture(tmp_path / "in/a.png", seed=5)
    assert watch(1, *options) == 0
    assert len(list((home / "good").glob("a*.png"))) == 2
    kept = [result(path) for path in results.rglob("a*.json")]
    assert len({row["score"] for row in kept}) == 2
    picture(tmp_path / "in/c.png", seed=6)
    assert watch(1, *options[:-1], "1e-6") == 0
    assert (home / "anomalous/c.png").is_file()


def test_one_that_was_judged_but_not_moved_is_moved_and_not_judged_again(watch, tmp_path, capsys):
    picture(tmp_path / "in/a.png")
    assert watch(1, "--move-to", "done", "--threshold", "1e6") == 0
    written = signature(tmp_path / "done/good")
    os.replace(tmp_path / "done/good/a.png", tmp_path / "in/a.png")  # as if killed before
    picture(tmp_path / "in/b.png", seed=1)
    assert watch(1, "--move-to", "done", "--threshold", "1e-6") == 0
    assert (tmp_path / "done/good/a.png").is_file() and not (tmp_path / "in/a.png").exists()
    assert signature(tmp_path / "done/good") == written


def test_a_file_that_is_being_written_is_not_read_half(watch, run, tmp_path):
    """In pieces, with pauses longer than it must have settled; then its verdict is the whole's."""
    data = picture(tmp_path / "whole.png", seed=3, size=(200, 300)).read_bytes()

    def write():
        with (tmp_path / "in/slow.png").open("wb", buffering=0) as file:
            for i in range(0, len(data), len(data) // 4 + 1):
                file.write(data[i : i + len(data) // 4 + 1])
                time.sleep(0.2)

    writer = threading.Thread(target=write)
    writer.start()
    assert watch(1) == 0
    writer.join()
    found = result(tmp_path / "in/slow.png.json")
    assert "error" not in found
    expected = Detector.load(run, device="cpu").predict(tmp_path / "whole.png")
    assert found["score"] == pytest.approx(expected.score, rel=1e-4)


def test_unreadable_files_have_a_result_that_says_so(watch, tmp_path, capsys):
    (tmp_path / "in/text.png").write_text("no image")
    (tmp_path / "in/empty.png").touch()
    assert watch(2, "--class-name", "nut") == 0
    error = capsys.readouterr().err.replace("\n", " ")
    assert error.count("can't be read") == 3, "each once, and in the summary"
    found = result(tmp_path / "in/empty.png.json")
    assert found["error"].endswith(".") and found["class_name"] == "nut" and found["time"]


def test_strict_stops_at_a_file_that_cannot_be_read(watch, tmp_path, capsys):
    (tmp_path / "in/empty.png").touch()
    assert watch(1, "--strict") == 2
    assert "can't be read" in capsys.readouterr().err


def test_pictures_are_there_before_the_result_that_names_them(watch, tmp_path):
    picture(tmp_path / "in/sub/a.png")
    assert watch(1, "--out", "out", "--overlays", "--maps", "npy", "--masks") == 0
    found = result(tmp_path / "out/sub/a.png.json")
    assert found["overlay"] == "overlays/sub/a.png"
    assert (tmp_path / "out" / found["overlay"]).is_file()
    assert np.load(tmp_path / "out" / found["map"]).ndim == 2
    assert names(tmp_path / "in") == ["sub/a.png"], "nothing beside the images"


def test_a_file_of_somebody_else_is_not_overwritten(watch, tmp_path, capsys):
    picture(tmp_path / "in/a.png")
    (tmp_path / "in/a.png.json").write_text('{"mine": 1}')
    assert watch(1) == 2
    assert "is there and no result of GRAD's" in capsys.readouterr().err
    assert (tmp_path / "in/a.png.json").read_text() == '{"mine": 1}'


def test_a_folder_that_is_away_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(hot_folder, "_LOOK", 0.01)
    monkeypatch.setattr(hot_folder, "_SETTLED", 0.05)
    said, stop = [], threading.Event()
    picture(tmp_path / "in/a.png")
    found = HotFolder(tmp_path / "in", None, None, said.append).arrivals(stop)
    assert next(found).name == "a.png"
    shutil.move(tmp_path / "in", tmp_path / "away")
    back = threading.Timer(0.3, lambda: shutil.move(tmp_path / "away", tmp_path / "in"))
    back.start()
    assert next(found).name == "a.png", "which was not finished"
    assert len(said) == 1 and "can't be read" in said[0]
    stop.set()
    assert next(found, None) is None


def test_after_long_work_the_next_look_comes_at_once(tmp_path, monkeypatch):
    """What took long was judging, not looking."""
    waits = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return super().wait(0.05)

    monkeypatch.setattr(hot_folder, "_LOOK", 0.1)
    monkeypatch.setattr(hot_folder, "_SETTLED", 0.01)
    picture(tmp_path / "in/a.png")
    folder, stop = HotFolder(tmp_path / "in", None, None, print), Stop()
    found = folder.arrivals(stop)
    folder.finish(next(found), {"is_anomalous": False})
    time.sleep(1)
    picture(tmp_path / "in/b.png")
    assert next(found).name == "b.png"
    assert max(waits) < 0.8


def test_results_are_posted_too(watch, tmp_path):
    picture(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").touch()
    with receiver() as found:
        assert watch(2, "--webhook", found.url) == 0
    sent = {os.path.basename(row["name"]): row for row in map(json.loads, found.bodies)}
    assert sent["a.png"]["score"] > 0 and "error" in sent["b.png"]


def start(run, tmp_path, *arguments):
    command = [sys.executable, "-m", "grad.predict", str(run), "--watch", "in", "--device", "cpu"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_image_at_hand(run, tmp_path, number):
    for seed in range(40):
        picture(tmp_path / f"in/{seed:02}.png", seed=seed)
    with start(run, tmp_path) as process:
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    written = list((tmp_path / "in").glob("*.json"))
    assert 0 < len(written) < 40
    assert all(result(path)["score"] > 0 for path in written)
    assert f"{len(written)} image" in errors


def test_two_processes_do_not_share_a_folder(run, tmp_path):
    picture(tmp_path / "in/a.png")
    with start(run, tmp_path) as first:
        first.stdout.readline()
        with start(run, tmp_path) as second:
            _, errors = second.communicate(timeout=60)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert second.returncode == 2 and "Another process has its results in in" in errors


def test_killed_at_any_moment_every_image_is_judged_once(run, tmp_path):
    """SIGKILL after each few results; each image has one result in the end, and was moved."""
    for seed in range(12):
        picture(tmp_path / f"in/{seed:02}.png", seed=seed)
    times = {}
    for kill in (1, 2, 3, None):
        with start(
            run, tmp_path, "--move-to", "done", *(() if kill else ("--limit", "6"))
        ) as process:
            for _ in range(kill or 0):
                process.stdout.readline()
            if kill:
                process.kill()
            process.communicate(timeout=60)
        for path in (tmp_path / "done").rglob("*.json"):
            assert times.setdefault(path.name, result(path)["time"]) == result(path)["time"]
    judged = [path.name for path in (tmp_path / "done").rglob("*.png.json")]
    assert len(judged) == len(set(judged)) >= 6
    left = {path.name for path in (tmp_path / "in").glob("*.png")}
    assert {f"{name}.json" for name in left} | set(judged) == {
        f"{i:02}.png.json" for i in range(12)
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("in --watch in", "--watch stands in the place of other paths"),
        ("--watch nowhere", "There is no folder --watch nowhere"),
        ("in --move-to done", "--move-to needs --watch"),
        ("--watch in --out in", "--out in is or holds the folder that is watched"),
        ("--watch in --move-to .", "--move-to . is or holds the folder that is watched"),
        ("--watch in --spreadsheet", "--spreadsheet is for a table"),
        ("--watch in --overlays", "--overlays needs --out"),
        ("--watch in --webhook ftp://x/", "--webhook ftp://x/ is no address"),
        ("", "give paths of images, or a folder with --watch"),
    ],
)
def test_errors_of_users_are_one_sentence(run, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in/a.png")
    assert main([str(run), *arguments.split()]) == 2
    assert words in error_of(capsys)
