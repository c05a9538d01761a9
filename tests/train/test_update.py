"""``grad update``: a trained model learns from further good images."""

import shutil

import numpy as np
import pytest
from helpers.command import error_of
from helpers.images import make_images
from helpers.tiny_model import make_run, picture
from helpers.update_kills import kill_updates
from PIL import Image

import grad
from grad.detector.checkpoint import load_checkpoint
from grad.evaluate.__main__ import main as evaluate
from grad.info.__main__ import main as info
from grad.report.write import LEARNED
from grad.system.errors import GradError
from grad.system.files import claimed
from grad.system.run_folder import MODEL, PREVIOUS, REPORT
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


def train_on(data, root, *options):
    """A run on the classes a and b."""
    common = "--batch-size 8 --image-size 64 --device cpu --classes a,b"
    arguments = ["--backbone", "tf_efficientnet_lite0", *common.split(), *options]
    folders = ["--data", str(data), "--cache", str(root / "cache"), "--out", str(root / "run")]
    assert train([*arguments, *folders]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run with statistics."""
    return train_on(
        data, tmp_path_factory.mktemp("trained"), "--preset", "grad-plus", "--epochs", "2"
    )


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """A run without statistics."""
    return train_on(
        data, tmp_path_factory.mktemp("plain"), "--preset", "grad-tiny", "--epochs", "10"
    )


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
    unsure = load_checkpoint(run).model.statistics is None
    assert ("more often than before" in " ".join(said.split())) == unsure
    assert load_checkpoint(run).info.updates[-1].unsure == unsure
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


def test_defects_raise_the_threshold_into_the_gap_and_never_lower_it(data, run, update, capsys):
    good = ("--good", str(data / "c/train/good"), "--class-name", "c")
    assert update(*good) == 0
    plain = load_checkpoint(run).calibration.classes["c"]
    assert update("--undo") == 0
    assert update(*good, "--defect", str(data / "c/test/dark")) == 0
    learned = load_checkpoint(run)
    limit, known = learned.calibration.classes["c"], learned.info.updates[-1]
    assert limit.image > plain.image and limit.pixel > plain.pixel and limit.rate == plain.rate
    assert (known.defects, known.found, known.threshold_after) == (6, 6, limit.image)
    assert all(alarms(run, data / "c/test/dark", "c"))
    capsys.readouterr()
    assert info([str(run)]) == 0
    assert "6 of 6" in capsys.readouterr().out
    # Another class does not undo it; good images called defects do not move it.
    assert update("--good", str(data / "a/test/good/a1.png"), "--class-name", "a") == 0
    assert load_checkpoint(run).calibration.classes["c"] == limit
    more = ("--good", str(data / "c/test/good/c0.png"), "--class-name", "c")
    assert update(*more, "--defect", str(data / "c/train/good")) == 0
    assert load_checkpoint(run).calibration.classes["c"].image <= limit.image


def test_a_network_of_its_own_learns_a_class_and_no_other_changes(data, plain, tmp_path, capsys):
    run = shutil.copytree(plain, tmp_path / "run")
    before = load_checkpoint(run)
    assert {name: len(maps) for name, maps in before.exemplars.items()} == {"a": 16, "b": 16}
    call = [str(run), "--cache", str(tmp_path / "cache")]
    new = ["--good", str(data / "c/train/good"), "--class-name", "c"]
    assert main([*call, *new, "--defect", str(data / "c/test/dark")]) == 0
    assert "c: 6 of 6 defects found" in capsys.readouterr().out
    after = load_checkpoint(run)
    assert after.info.classes == ("a", "b", "c") and set(after.exemplars) == {"a", "b", "c"}
    assert after.model.branches.network.tolist() == [0, 0, 1]
    detectors = [grad.Detector.of(loaded) for loaded in (before, after)]
    for name in "ab":
        assert after.calibration.classes[name] == before.calibration.classes[name]
        for folder in ("good", "dark"):
            scores = [
                [result.score for result in detector.stream(data / name / "test" / folder)]
                for detector in detectors
            ]
            assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    assert sum(alarms(run, data / "c/test/good", "c")) <= 2
    # Again: the class's own network goes on, and the others keep theirs.
    given = relit(data / "a/train/good", tmp_path / "given")
    more = [("c", data / "c/test/good"), ("a", given)]
    for name, folder in more:
        assert main([*call, "--good", str(folder), "--class-name", name]) == 0
    last = load_checkpoint(run)
    assert last.model.branches.network.tolist() == [2, 0, 1]
    assert {name: len(maps) for name, maps in last.exemplars.items()} == dict.fromkeys("abc", 16)
    assert last.calibration.classes["b"] == before.calibration.classes["b"]
    folder = relit(data / "a/test/good", tmp_path / "new")
    assert sum(alarms(run, folder, "a")) <= sum(alarms(plain, folder, "a"))
    capsys.readouterr()
    assert info([str(run)]) == 0
    assert "features of 16 images a class" in capsys.readouterr().out


def test_without_exemplars_nothing_is_learned(data, tmp_path, capsys):
    options = ("--preset", "grad-tiny", "--epochs", "1", "--no-update")
    run = train_on(data, tmp_path, *options)
    assert load_checkpoint(run).exemplars == {}
    capsys.readouterr()
    good = str(data / "c/train/good")
    assert main([str(run), "--good", good, "--class-name", "c"]) == 2
    assert "keeps no images to learn on with, as it was trained with --no-update" in error_of(
        capsys
    )


@pytest.mark.parametrize("kind", ["trained", "plain"])
def test_a_detector_learns_from_files_as_the_command_does(
    kind, data, request, tmp_path, monkeypatch
):
    monkeypatch.setattr("grad.detector.features.default_cache", lambda: tmp_path / "cache")
    run = shutil.copytree(request.getfixturevalue(kind), tmp_path / "run")
    folder = data / "c/train/good"
    before = grad.Detector.load(run, device="cpu")
    detector = before.update(folder, class_name="c")
    assert before.classes == ("a", "b") and detector.classes == ("a", "b", "c")
    call = [
        str(run),
        "--good",
        str(folder),
        "--class-name",
        "c",
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main(call) == 0
    expected = grad.Detector.load(run, device="cpu")
    assert detector.calibration == expected.calibration
    picture = data / "c/test/dark/c0.png"
    scores = [d.predict(picture, class_name="c").score for d in (detector, expected)]
    assert scores[0] == scores[1]
    detector.save(tmp_path / "saved.safetensors")
    saved = load_checkpoint(tmp_path / "saved.safetensors")
    assert saved.info == detector.info and saved.calibration == detector.calibration
    with pytest.raises(GradError, match="learned from these images before"):
        detector.update(folder, class_name="c")
    with pytest.raises(GradError, match="has changed since it was read"):
        before.update(folder, class_name="c")


def test_a_detector_learns_from_pictures_in_memory(data, plain):
    pictures = [Image.open(path) for path in sorted((data / "c/train/good").iterdir())]
    detector = grad.Detector.load(plain, device="cpu")
    learned = detector.update(pictures, class_name="c")
    assert learned.info.updates[0].images[:2] == ("image 0", "image 1")
    results = list(learned.stream(data / "c/test/dark", class_name="c"))
    assert all(result.is_anomalous for result in results)
    for wrong, message in ((["nowhere.png"], "nowhere"), ([pictures[0]] * 0, "no image")):
        with pytest.raises(GradError, match=message):
            detector.update(wrong, class_name="c")
    with pytest.raises(GradError, match="can't be the name of a class"):
        detector.update(pictures, class_name="../x")


def test_the_report_says_that_the_model_has_learned_since(data, run, update, capsys):
    assert (LEARNED in (run / REPORT).read_text()) is False
    assert update("--good", str(data / "c/train/good"), "--class-name", "c") == 0
    assert LEARNED in (run / REPORT).read_text()
    capsys.readouterr()
    assert evaluate([str(run)]) == 0
    assert "has learned c since" in capsys.readouterr().out
    assert update("--undo") == 0
    assert (LEARNED in (run / REPORT).read_text()) is False


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
    assert "trained with --no-update" in error_of(capsys)
    assert main([str(make_run(tmp_path / "plus", preset="grad-plus")), *call]) == 2
    assert "did not count its images" in error_of(capsys)


def test_two_updates_at_once_are_refused(data, run, update, capsys):
    with claimed(run / MODEL):
        assert update("--good", str(data / "a/test/good"), "--class-name", "a") == 2
    assert "is at work" in error_of(capsys)


@pytest.mark.parametrize("kind", ["trained", "plain"])
def test_an_update_that_is_killed_leaves_the_model_whole(kind, data, request, tmp_path):
    """``update_kills.py`` tries more moments."""
    run = shutil.copytree(request.getfixturevalue(kind), tmp_path / "run")
    _, wrong = kill_updates(run, data / "c/train/good", tmp_path / "cache", kills=3)
    assert not wrong


# ---- a region of interest -------------------------------------------------------------------


@pytest.fixture
def left(tmp_path):
    """A picture that is white in its left half."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "left.png")
    return str(tmp_path / "left.png")


def blotted(folder, out):
    """The images of a folder with a white block on the right."""
    out.mkdir()
    for path in sorted(folder.iterdir()):
        image = Image.open(path).convert("RGB")
        image.paste("white", (44, 8, 60, 56))
        image.save(out / path.name)
    return out


def test_a_region_alone_keeps_thresholds_and_says_so(data, run, update, left, tmp_path, capsys):
    before, bytes_before = load_checkpoint(run), (run / MODEL).read_bytes()
    given = blotted(data / "a/test/good", tmp_path / "blotted")
    assert all(alarms(run, given, "a"))
    whole = [r.score for r in grad.Detector.load(run).stream(given, class_name="a")]
    assert update("--roi", left, "--class-name", "a") == 0
    said = capsys.readouterr().out
    assert "a: 50% of each image is looked at" in said and "they may be too high" in said
    cut = [r.score for r in grad.Detector.load(run).stream(given, class_name="a")]
    assert np.mean(cut) < 0.7 * np.mean(whole), "most of what is wrong lies outside"
    after = load_checkpoint(run)
    assert after.calibration == before.calibration and after.exemplars.keys() == set()
    assert set(after.info.rois) == {"a"} and not after.info.rois["a"].painted
    assert LEARNED in (run / REPORT).read_text()
    assert info([str(run)]) == 0
    assert "stays" in capsys.readouterr().out
    assert evaluate([str(run)]) == 0
    assert "has got a region of interest since" in capsys.readouterr().out
    assert update("--undo") == 0
    assert (run / MODEL).read_bytes() == bytes_before


def test_all_classes_get_a_region_and_white_takes_it_away(run, update, left, tmp_path, capsys):
    assert update("--roi", left, "--out", str(tmp_path / "new")) == 0
    new = tmp_path / "new"
    assert load_checkpoint(run).info.rois == {}
    assert set(load_checkpoint(new).info.rois) == {"a", "b"}
    Image.new("L", (64, 64), "white").save(tmp_path / "white.png")
    assert main([str(new), "--roi", str(tmp_path / "white.png")]) == 0
    assert load_checkpoint(new).info.rois == {}
    assert "Thresholds stay: they were made from whole images." in capsys.readouterr().out
    assert info([str(new)]) == 0
    assert capsys.readouterr().out.count("stays") == 2


def test_images_in_the_region_make_the_threshold_alone(data, run, update, left, tmp_path, capsys):
    before = load_checkpoint(run)
    good = str(data / "a/test/good")
    given = ("--roi", left, "--good", good, "--class-name", "a")
    assert update(*given, "--defect", str(data / "a/test/dark")) == 0
    said = capsys.readouterr().out
    assert "a: 50% of each image is looked at" in said and "a: learned from 6 images" in said
    after = load_checkpoint(run)
    assert len(after.calibration.good_scores["a"]) == 6
    assert after.calibration.sources["a"] == "folds"
    assert after.calibration.good_scores["b"] == before.calibration.good_scores["b"]
    assert after.calibration.classes["b"] == before.calibration.classes["b"]
    [known] = after.info.updates
    assert known.region and len(known.images) == 6 and known.defects == 6
    assert not after.info.is_cut_later("a")
    assert info([str(run)]) == 0
    assert "region of" in capsys.readouterr().out
    # They make no threshold of whole images.
    saved = (run / MODEL).read_bytes()
    Image.new("L", (64, 64), "white").save(tmp_path / "white.png")
    assert update("--roi", str(tmp_path / "white.png"), "--class-name", "a") == 2
    assert "knows images of a smaller region" in error_of(capsys)
    assert (run / MODEL).read_bytes() == saved
    assert update("--undo") == 0
    assert load_checkpoint(run).info == before.info


def test_false_alarms_stay_those_asked_for_in_the_region(data, run, update, left, tmp_path):
    """Each image scores as if the model had not known it: new ones score alike."""
    given = tmp_path / "given"
    given.mkdir()
    for seed, path in enumerate(sorted((data / "a/train/good").iterdir())):
        pixels = np.asarray(Image.open(path)).astype(int)
        noise = np.random.default_rng(seed).integers(-6, 7, pixels.shape)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(given / path.name)
    assert update("--roi", left, "--good", str(given), "--class-name", "a") == 0
    limit = load_checkpoint(run).calibration.classes["a"]
    scores = [r.score for r in grad.Detector.load(run).stream(data / "a/test/good", class_name="a")]
    assert limit.images == 40 and limit.image_typical < limit.image
    assert sum(alarms(run, data / "a/test/good", "a")) <= 1
    assert np.median(scores) == pytest.approx(limit.image_typical, rel=0.3)
    assert all(alarms(run, data / "a/test/dark", "a"))


def test_a_new_class_is_learned_in_a_region(data, plain, left, tmp_path):
    run = shutil.copytree(plain, tmp_path / "run")
    call = [str(run), "--cache", str(tmp_path / "cache"), "--roi", left, "--class-name", "c"]
    assert main([*call, "--good", str(data / "c/train/good")]) == 0
    after = load_checkpoint(run)
    assert set(after.info.rois) == {"c"} and len(after.calibration.good_scores["c"]) == 40
    assert sum(alarms(run, data / "c/test/good", "c")) <= 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--roi", "LEFT", "--undo"), "leave out --good and --roi"),
        (("--roi", "LEFT", "--defect", "x.png"), "--defect judges what was learned"),
        (("--roi", "LEFT", "--class-name", "z"), "choose among a, b, or give good images of it"),
        (("--roi", "nowhere.png"), "nowhere.png"),
        (("--roi", "BLACK"), "black everywhere"),
        (("--roi", "WHITE"), "white everywhere is none"),
        (("--roi", "LEFT", "--good", "GOOD"), "say with --class-name"),
    ],
)
def test_regions_that_are_none(arguments, message, data, run, update, left, tmp_path, capsys):
    before = (run / MODEL).read_bytes()
    for colour in ("black", "white"):
        Image.new("L", (8, 8), colour).save(tmp_path / f"{colour}.png")
    paths = {"LEFT": left, "GOOD": str(data / "a/test/good")}
    paths |= {name.upper(): str(tmp_path / f"{name}.png") for name in ("black", "white")}
    assert update(*(paths.get(a, a) for a in arguments)) == 2
    assert message in error_of(capsys)
    assert (run / MODEL).read_bytes() == before and not (run / PREVIOUS).exists()


def test_without_statistics_images_make_no_threshold_anew(data, plain, left, tmp_path, capsys):
    run = shutil.copytree(plain, tmp_path / "run")
    call = [str(run), "--cache", str(tmp_path / "cache"), "--roi", left, "--class-name", "a"]
    assert main([*call, "--good", str(data / "a/test/good")]) == 2
    assert "give --roi without --good" in error_of(capsys)
    assert main(call) == 0
    assert set(load_checkpoint(run).info.rois) == {"a"}
