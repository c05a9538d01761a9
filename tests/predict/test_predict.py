import csv
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from helpers.command import error_of
from helpers.tiny_model import SIZE, make_run, picture
from PIL import Image

from grad.detector.checkpoint import save_calibration
from grad.detector.detector import Detector
from grad.predict import run as prediction
from grad.predict.__main__ import main
from grad.predict.outputs import Tables
from grad.system.run_folder import MODEL


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run, device="cpu", precision="float32")


@pytest.fixture
def predict(run, tmp_path, monkeypatch):
    """The command on a model, in a folder with four images."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("parts/a.png", "parts/b.png", "parts/in/c.png", "d.png")):
        picture(tmp_path / name, seed=number)

    def call(*arguments, model=run):
        given = ["--device", "cpu", "--precision", "float32", "--workers", "2"]
        return main([*given, str(model), *map(str, arguments)])

    return call


def lines(capsys):
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def rows(folder):
    """Of both tables, which hold the same; the CSV file counts regions and rounds numbers."""
    with (folder / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    objects = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
    assert len(table) == len(objects)
    for row, fields in zip(table, objects, strict=True):
        found = fields["regions"]
        counted = fields | {"regions": None if found is None else len(found)}
        assert row == {key: shown(value) for key, value in counted.items()}
    return objects


def shown(value):
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else str(value)


def threshold_between(detector, *paths):
    low, high = sorted(result.score for result in detector.predict(list(paths)))
    return (low + high) / 2


def test_a_line_for_each_image(predict, detector, capsys):
    assert predict("parts") == 0
    expected = detector.predict("parts")
    found = lines(capsys)
    assert [line[3] for line in found] == ["parts/a.png", "parts/b.png", "parts/in/c.png"]
    for (verdict, value, score, _), result in zip(found, expected, strict=True):
        assert verdict == ("anomalous" if result.is_anomalous else "good")
        assert float(value) == pytest.approx(result.value, abs=1e-3)
        assert float(score) == pytest.approx(result.score, rel=1e-3)


def test_everything_that_can_be_written(predict, detector, tmp_path, capsys):
    options = "--out out --overlays --maps npy --masks --class-name nut --batch-size 2"
    assert predict("parts", "d.png", *options.split()) == 0
    assert "4 images" in capsys.readouterr().err
    found = rows(tmp_path / "out")
    files = ["parts/a.png", "parts/b.png", "parts/in/c.png", "d.png"]
    assert [row["name"] for row in found] == files
    for row, file in zip(found, files, strict=True):
        result = detector.predict(file, class_name="nut")
        assert row["score"] == pytest.approx(result.score, rel=1e-5)
        assert (row["threshold"], row["class_name"]) == (result.threshold, "nut")
        assert row["overlay"] == f"overlays/{file}"
        overlay = Image.open(tmp_path / "out" / row["overlay"])
        assert overlay.width == 60 and overlay.height > 40, "its own size, and words below"
        saved = np.load(tmp_path / "out" / row["map"])
        np.testing.assert_allclose(saved, result.anomaly_map, rtol=1e-4, atol=1e-5)
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        assert mask.shape == (40, 60) and mask.dtype == bool
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_every_answer_says_which_model_gave_it_and_when(predict, run, tmp_path):
    before = datetime.now(timezone.utc)
    assert predict("d.png", "--out", "out") == 0
    (row,) = rows(tmp_path / "out")
    assert (row["model"], len(row["model_version"])) == (run.name, 12)
    assert abs(datetime.fromisoformat(row["time"]) - before) < timedelta(minutes=1)
    other = make_run(tmp_path / "other", preset="grad-s")
    shutil.copy(other / MODEL, tmp_path / "nut v2.safetensors")
    named = Detector.load(tmp_path / "nut v2.safetensors", device="cpu").origin
    assert named.name == "nut v2" and named.version != row["model_version"]
    assert Detector.load(other, device="cpu").origin.version == named.version
    detector = Detector.load(run, device="cpu")
    save_calibration(other / MODEL, detector.calibration.at_rate(0.3))
    assert Detector.load(other, device="cpu").origin.version != named.version


def test_a_table_for_spreadsheets_with_a_decimal_comma(predict, tmp_path):
    name = "=1+1 für.png"
    os.rename("d.png", name)
    assert predict(name, "--out", "out", "--spreadsheet") == 0
    text = (tmp_path / "out/predictions.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbfname;class_name;score;")
    (row,) = csv.DictReader(io.StringIO(text.decode("utf-8-sig")), delimiter=";")
    (fields,) = map(json.loads, (tmp_path / "out/predictions.jsonl").open())
    assert row["name"] == f"'{name}" and fields["name"] == name
    assert row["score"] == f"{fields['score']:.5g}".replace(".", ",")
    assert "." not in row["value"] and row["width"] == "60"


def test_sixteen_bit_maps(predict, detector, tmp_path):
    assert predict("d.png", "--out", "out", "--maps", "png16") == 0
    (row,) = rows(tmp_path / "out")
    image = Image.open(tmp_path / "out" / row["map"])
    assert image.mode == "I;16" and float(image.text["map_maximum"]) == row["map_maximum"]
    values = np.asarray(image).astype(float) / 65535 * row["map_maximum"]
    expected = detector.predict("d.png").anomaly_map
    np.testing.assert_allclose(values, expected, atol=row["map_maximum"] / 65535)


def test_images_that_differ_in_their_ending_alone_have_files_of_their_own(predict, tmp_path):
    picture(tmp_path / "same/a.png")
    Image.open(tmp_path / "same/a.png").save(tmp_path / "same/a.bmp")
    assert predict("same", "--out", "out", "--masks") == 0
    names = [row["mask"] for row in rows(tmp_path / "out")]
    assert names == ["masks/a.png", "masks/a-2.png"]
    assert all((tmp_path / "out" / name).is_file() for name in names)


def test_lists_patterns_and_limits(predict, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("d.png\n\nparts/in\n"))
    assert predict("-") == 0
    assert [line[3] for line in lines(capsys)] == ["d.png", "parts/in/c.png"]
    assert predict("parts/**/*.png", "--limit", "2") == 0
    assert [line[3] for line in lines(capsys)] == ["parts/a.png", "parts/b.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert predict("-") == 2
    assert error_of(capsys) == "Standard input names no image: give a path in each line.\n"


def test_exit_code_one_for_anomalies_where_asked(predict, detector, capsys):
    threshold = threshold_between(detector, "parts/a.png", "d.png")
    assert predict("parts/a.png", "d.png", "--threshold", threshold) == 0
    assert sorted(line[0] for line in lines(capsys)) == ["anomalous", "good"]
    fail = ("--fail-on-anomaly", "--threshold")
    assert predict("parts/a.png", "d.png", *fail, threshold) == 1
    assert predict("parts", *fail, 1e6) == 0
    assert predict("parts", "--fail-on-anomaly", "--false-alarm-rate", "0.9") == 1


def test_unreadable_files_are_named_counted_and_left_out(predict, tmp_path, capsys):
    whole = (tmp_path / "d.png").read_bytes()
    (tmp_path / "parts/aa.png").write_bytes(whole[:80])
    (tmp_path / "parts/in/text.jpg").write_text("no image")
    assert predict("parts", "--out", "out") == 0
    error = capsys.readouterr().err.replace("\n", " ")
    assert "parts/aa.png can't be read" in error and "parts/in/text.jpg can't be read" in error
    assert "3 images" in error and "2 left out, as they can't be read" in error
    assert len(rows(tmp_path / "out")) == 3
    assert predict("parts", "--strict", "--out", "strict") == 2
    assert "parts/aa.png can't be read" in capsys.readouterr().err
    assert [row["name"] for row in rows(tmp_path / "strict")] == ["parts/a.png"]
    assert predict("parts/aa.png") == 2
    assert "parts/aa.png can't be read" in error_of(capsys)
    assert predict("parts/aa.png", "parts/in/text.jpg") == 2
    assert "None of the 2 images can be read" in capsys.readouterr().err


def test_large_images_in_tiles(predict, tmp_path):
    picture(tmp_path / "large.png", size=(120, 200))
    options = f"--tile {SIZE} --overlap 8 --out out --maps npy"
    assert predict("large.png", *options.split()) == 0
    (row,) = rows(tmp_path / "out")
    assert np.load(tmp_path / "out" / row["map"]).shape == (120, 200)


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_what_was_done_is_kept_where_it_ends_early(predict, tmp_path, monkeypatch, capsys, error):
    """Ctrl-C, or a camera that is unplugged."""
    add, count = Tables.add, 0

    def interrupt(self, row):
        nonlocal count
        add(self, row)
        count += 1
        if count == 2:
            raise error

    if error is not None:
        monkeypatch.setattr(Tables, "add", interrupt)
        assert predict("parts", "--out", "out", "--overlays") == 130
        assert capsys.readouterr().err.endswith("Interrupted.\n")
        kept = 2
    else:
        cv2 = pytest.importorskip("cv2")
        monkeypatch.setattr(cv2, "VideoCapture", Camera)
        assert predict("camera:0", "--out", "out", "--overlays") == 2
        assert "camera:0 gives no more pictures after 5: check" in capsys.readouterr().err
        kept = 5
    found = rows(tmp_path / "out")
    assert len(found) == kept
    assert all((tmp_path / "out" / row["overlay"]).is_file() for row in found)
    assert not list((tmp_path / "out").rglob(".*"))


class Camera:
    def __init__(self, source):
        self.left = 5

    def isOpened(self):
        return True

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((20, 30, 3), 90, np.uint8)

    def set(self, *arguments):
        pass

    def release(self):
        pass


def test_drift_is_said_once(predict, tmp_path, capsys):
    """Noise in every pixel is not what the model was calibrated on."""
    chance = np.random.default_rng(0)
    for number in range(60):
        noise = chance.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "parts" / f"{number:02}.png")
    assert predict("parts", "--class-name", "nut") == 0
    assert capsys.readouterr().err.count("light, camera or parts have changed") == 1


def test_a_camera_is_read_until_the_limit(predict, monkeypatch, capsys):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert predict("camera:0", "--limit", "2") == 0
    assert [line[3] for line in lines(capsys)] == ["camera:0 frame 0", "camera:0 frame 1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere.png", "There is no file or folder nowhere.png"),
        ("*.bmp", "The pattern *.bmp fits no image"),
        ("parts --out parts", "--out parts is not empty"),
        ("parts --out d.png/out", "--out d.png/out can't be made"),
        ("parts --overlays", "--overlays needs --out"),
        ("parts --maps png16", "--maps needs --out"),
        ("parts --spreadsheet", "--spreadsheet needs --out"),
        ("parts --maps tiff --out out", "--maps"),
        ("parts --class-name nuts", "not trained on class nuts"),
        ("parts --false-alarm-rate 0", "--false-alarm-rate 0.0 must be between 0 and 1"),
        ("parts --threshold -3", "--threshold -3.0 must be a number above 0"),
        ("parts --threshold 3 --false-alarm-rate 0.1", "two ways to choose a threshold"),
        ("parts --batch-size 0", "--batch-size 0 is too small"),
        ("parts --tile 3", "--tile 3 is too small"),
        ("parts --overlap 3", "--overlap needs --tile"),
        ("parts --device gpu", "--device gpu can't be used"),
        ("parts --speed 3", "--speed"),
        ("", "paths"),
    ],
)
def test_errors_of_users_are_one_sentence_and_exit_code_two(predict, capsys, arguments, words):
    assert predict(*arguments.split()) == 2
    assert words in error_of(capsys)


def test_a_model_without_thresholds(predict, tmp_path, capsys):
    model = make_run(tmp_path / "interrupted", calibrated=False)
    assert predict("d.png", model=model) == 0
    (line,) = lines(capsys)
    assert len(line) == 2 and float(line[0]) > 0 and line[1] == "d.png"
    assert predict("d.png", "--out", "out", "--overlays", "--maps", "npy", model=model) == 0
    (row,) = rows(tmp_path / "out")
    assert row["is_anomalous"] is None and row["score"] > 0
    capsys.readouterr()
    for option in ("--fail-on-anomaly", "--masks"):
        out = ("--out", "other") if option == "--masks" else ()
        assert predict("d.png", option, *out, model=model) == 2
        assert f"for {option}, has no thresholds" in error_of(capsys)


def test_a_folder_without_permission(predict, tmp_path, capsys):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    assert predict("d.png", "--out", "closed/out") == 2
    assert "--out closed/out can't be made (Permission denied)" in error_of(capsys)


def test_names_that_are_no_text(predict, tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        os.rename("d.png", name)
    except OSError:
        pytest.skip("this file system takes text only")
    assert predict(name) == 0
    assert lines(capsys)[0][3] == r"caf\udce9.png"
    assert predict(name, "--out", "out", "--overlays") == 0
    fields = json.loads((tmp_path / "out/predictions.jsonl").read_text())
    assert os.path.samefile(fields["name"], name)


def test_as_a_program(predict, run, tmp_path):
    """As started from a shell; a reader that leaves is no error."""
    command = [sys.executable, "-m", "grad.predict", str(run), "parts", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    assert "3 images; " in done.stderr


def test_a_reader_that_leaves_is_no_error(predict, monkeypatch, tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return os.open(tmp_path / "nowhere", os.O_CREAT | os.O_WRONLY)

    monkeypatch.setattr(sys, "stdout", Closed())
    assert prediction.sys.stdout is sys.stdout
    assert predict("parts") == 0


def test_two_processes_share_the_work(predict, run, tmp_path):
    for number in range(7):
        picture(tmp_path / f"many/{number}.png", seed=number)
    (tmp_path / "many/2.png").write_bytes(b"")
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 2 -m grad.predict"
    options = "--device cpu --precision float32 --masks --limit 6"
    paths = (str(run), "many", "--out", "two")
    command = [sys.executable, *torchrun.split(), *paths, *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 images; " in done.stderr and "1 left out" in done.stderr
    assert predict("many", "--out", "one", "--masks", "--limit", "5") == 0
    together, alone = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert [row["name"] for row in together] == [row["name"] for row in alone]
    for one, other in zip(together, alone, strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)
        assert (tmp_path / "two" / one["mask"]).is_file()
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "predictions.csv",
        "predictions.jsonl",
        "masks",
    }
