import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from helpers.command import error_of
from PIL import Image, ImageDraw

from grad.detector.checkpoint import load_checkpoint
from grad.model.grad import GRAD
from grad.score.metrics.classes import METRICS
from grad.system.errors import GradError
from grad.train import images as run_images
from grad.train.__main__ import main
from grad.train.options import TrainOptions, parse, write_options
from grad.train.plan import make_plan

SIZE = 64
FURTHER = ("--few-shot", "4", "--group", "roll-[0-9]+")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of coloured noise; defects are squares. Class two has no masks."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def image(path, colour, defect):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, 8, (SIZE, SIZE, 3)) + colour
        picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        if defect:
            ImageDraw.Draw(picture).rectangle((20, 20, 40, 40), fill="black")
        picture.save(path)

    for name, colour in (("one", (200, 120, 60)), ("two", (60, 160, 200))):
        for i in range(4):
            image(root / name / "train/good" / f"{i}.png", colour, False)
        for i in range(2):
            image(root / name / "test/good" / f"{i}.png", colour, False)
            image(root / name / "test/hole" / f"{i}.png", colour, True)
    for i in range(2):
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).rectangle((20, 20, 40, 40), fill=255)
        path = root / "one/ground_truth/hole" / f"{i}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    return root


@pytest.fixture
def train(data, tmp_path_factory, tmp_path, monkeypatch):
    """Calls the command line with what makes it quick; features are cached over the tests."""
    monkeypatch.chdir(tmp_path)
    cache = tmp_path_factory.getbasetemp() / "cache"

    def call(*arguments):
        quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 2 --batch-size 4"
        return main(
            [
                *f"{quick} --image-size {SIZE} --device cpu --precision float32".split(),
                *("--cache", str(cache), "--data", str(data)),
                *arguments,
            ]
        )

    return call


def test_a_run_writes_everything_and_is_repeatable(train, tmp_path, capsys):
    assert train("--out", "a") == 0
    assert train("--out", "b") == 0
    assert "mean" in capsys.readouterr().out
    assert (tmp_path / "a/metrics.json").read_bytes() == (tmp_path / "b/metrics.json").read_bytes()
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {
        "model.safetensors",
        "config.yaml",
        "metrics.json",
        "records.jsonl",
        "training.safetensors",
        "history.json",
        "report.html",
        "oddest.txt",
        "examples",
    }
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    assert set(metrics["classes"]) == {"one", "two"}
    assert set(metrics["classes"]["one"]) == set(metrics["mean"]) == set(METRICS)
    assert all(0 <= value <= 1 for value in metrics["classes"]["one"].values())
    assert metrics["classes"]["two"]["pixel_auroc"] is None
    assert metrics["reasons"]["two"]["pixel_auroc"] == "no masks"
    assert metrics["settings"]["images"]["one"] == {
        "train": 4,
        "calibration": 0,
        "test_good": 2,
        "test_defects": 2,
        "masks": 2,
    }
    loaded = load_checkpoint(tmp_path / "a")
    info = loaded.info
    assert info.classes == ("one", "two") and info.epochs == 2 and info.image_size == SIZE
    assert (loaded.model.settings.height, loaded.model.settings.width) == (8, 8)
    assert list((tmp_path / "a/examples").rglob("*.png"))


def test_another_seed_gives_another_model_and_the_written_config_the_same(train, tmp_path):
    assert train("--seed", "3", "--out", "a") == 0
    assert main(["--config", "a/config.yaml", "--out", "b"]) == 0
    assert main(["--config", "a/config.yaml", "--out", "c", "--seed", "0"]) == 0
    weights = [
        torch.cat([p.flatten() for p in load_checkpoint(tmp_path / x).model.parameters()])
        for x in "abc"
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_separate_models_and_one_report(train, tmp_path):
    assert train("--separate", "--out", "a") == 0
    for name in ("one", "two"):
        assert load_checkpoint(tmp_path / "a" / name).info.classes == (name,)
    assert set(json.loads((tmp_path / "a/metrics.json").read_text())["classes"]) == {"one", "two"}


def test_runs_get_free_names(train, data, tmp_path):
    assert train("--few-shot", "2", "--classes", "one") == 0
    assert train("--few-shot", "2", "--classes", "one") == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert names == [f"{data.name}-grad-tiny", f"{data.name}-grad-tiny-2"]


@pytest.mark.parametrize("preset", ["grad-tiny", "grad-plus"])
def test_good_images_only(preset, train, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("grad.system.progress._QUICK", 0.0)
    arguments = ("--data", str(data / "one/train/good"), "--out", "a", "--preset", preset)
    assert train(*arguments) == 0
    said = capsys.readouterr().out
    assert "oddest good images, among which there may be defects" in said
    assert "AUROC" not in said and "missed" not in said
    told = ["training: epoch 2/2, loss", "thresholds"] + ["measuring: "] * (preset == "grad-plus")
    assert all(words in said for words in told), "a log hears of statistics and thresholds too"
    report = (tmp_path / "a/report.html").read_text()
    page = json.loads(re.search(r'id="data">(.*?)</script>', report)[1])
    (good,) = load_checkpoint(tmp_path / "a").calibration.good_scores.values()
    assert page["classes"][0]["good"] == sorted(good), "the scores that thresholds were made from"
    assert sorted(image["score"] for image in page["images"]) == sorted(good)
    assert (tmp_path / "a/examples/good/good-worst-1.png").is_file()
    assert (tmp_path / "a/records.jsonl").read_text() == "", "they are no test images"
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    assert metrics["mean"]["image_auroc"] is None
    assert metrics["reasons"]["good"]["image_auroc"] == "no test images"


def test_images_that_are_all_alike_are_learned(train, tmp_path):
    for i in range(6):
        (tmp_path / "black").mkdir(exist_ok=True)
        Image.new("RGB", (48, 48)).save(tmp_path / f"black/{i}.png")
    arguments = ("--data", str(tmp_path / "black"), "--preset", "grad-plus", "--epochs", "2")
    assert train(*arguments, "--out", "alike") == 0


def test_ctrl_c_in_training_leaves_a_usable_model(train, tmp_path, monkeypatch, capsys):
    original, calls = GRAD.loss_and_score, []

    def interrupted(self, features):
        calls.append(1)
        if len(calls) == 7:  # three steps tell how long it takes
            raise KeyboardInterrupt
        return original(self, features)

    monkeypatch.setattr(GRAD, "loss_and_score", interrupted)
    assert train("--out", "a") == 130
    monkeypatch.undo()
    assert "after 1 of 2 epochs" in capsys.readouterr().out
    loaded = load_checkpoint(tmp_path / "a")
    assert loaded.info.epochs == 1 and loaded.calibration is None
    assert all(p.isfinite().all() for p in loaded.model.parameters())


def test_ctrl_c_before_training_leaves_nothing(train, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_images, "compute_features", interrupted)
    assert train("--out", "a") == 130
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], ["nowhere", "does not exist"]),
        (["--out", "full"], ["--out", "not empty"]),
        (["--classes", "three"], ["three", "one, two"]),
        (["--few-shot", "9"], ["--few-shot"]),
        (["--epochs", "0"], ["--epochs"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--drops", "a,b"], ["--drops"]),
        (["--drops", "3", "--decay", "cosine"], ["--drops", "--decay steps"]),
        (["--preset", "huge"], ["--preset", "grad-s"]),
        (["--backbone", "nothing_b9"], ["nothing_b9"]),
        (["--weights", "none.safetensors"], ["none.safetensors"]),
        (["--device", "quantum"], ["--device"]),
        (["--config", "none.yaml"], ["none.yaml"]),
        (["--unknown", "1"], ["--unknown"]),
        (["--learning-rate", "nan"], ["--learning-rate"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, train, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert train("--out", "a", *arguments) == 2
    text = error_of(capsys)
    assert all(word in text for word in words), text
    assert not (tmp_path / "a").exists()


def test_a_broken_mask_is_found_before_training(train, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    mask = tmp_path / "data/one/ground_truth/hole/1_mask.png"
    mask.write_bytes(mask.read_bytes()[:-30])
    assert train("--data", "data", "--out", "a") == 2
    assert "1_mask.png" in error_of(capsys)
    assert not (tmp_path / "a").exists()


def test_nan_in_training_names_files_and_leaves_nothing(train, tmp_path, capsys):
    assert train("--out", "a", "--learning-rate", "1e30") == 2
    text = error_of(capsys)
    assert "NaN" in text and ".png" in text
    assert not (tmp_path / "a").exists()


def test_every_option_has_help_a_default_and_comes_back_from_yaml(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in TrainOptions.__dataclass_fields__.values():
        assert "--" + option.name.replace("_", "-") in text
        assert option.metadata["help"].endswith(".")
    given = parse(["--data", "x", "--classes", "a,b", "--drops", "3,5", "--separate", *FURTHER])
    used = make_plan(given, torch.device("cpu")).as_options("resnet18", tmp_path)
    write_options(tmp_path / "config.yaml", used)
    read = parse(["--config", str(tmp_path / "config.yaml")])
    assert replace(read, out=tmp_path) == used
    assert "out" not in yaml.safe_load((tmp_path / "config.yaml").read_text())


def test_grad_plus_is_trained_measured_and_saved_with_its_classes(train, tmp_path):
    assert train("--out", "plus", "--preset", "grad-plus") == 0
    model = load_checkpoint(tmp_path / "plus").model
    statistics = model.statistics
    assert model.settings.context > 0
    for places in (statistics.residuals, statistics.context):
        assert len(places.mean) == len(places.directions) == 2
    report = json.loads((tmp_path / "plus/metrics.json").read_text())
    assert report["mean"]["image_auroc"] == 1.0  # coloured noise, and black squares


def test_a_config_file_with_an_unknown_option(tmp_path):
    (tmp_path / "c.yaml").write_text("epoch: 3\n")
    with pytest.raises(GradError, match="epoch"):
        parse(["--config", str(tmp_path / "c.yaml")])
