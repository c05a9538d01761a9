"""What people give back: feedback is kept once and bounded, and changes the model's file whole."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from helpers.images import make_images
from helpers.serving import FakeDetector, encoded, grey
from helpers.tiny_model import make_run, picture

from grad.data.images import image_suffixes
from grad.data.picture import Picture
from grad.data.roi import roi_of
from grad.detector.checkpoint import load_checkpoint
from grad.detector.detector import Detector
from grad.score.thresholds import Calibration, calibrate
from grad.serve import feedback
from grad.serve.app import create_app
from grad.serve.feedback import FeedbackFolder
from grad.serve.inspector import Inspector
from grad.serve.model_file import ModelFile
from grad.serve.settings import ServeSettings
from grad.serve.teaching import Teaching
from grad.system.errors import GradError
from grad.system.files import claimed
from grad.system.run_folder import MODEL, PREVIOUS
from grad.train.__main__ import main as train
from grad.train.update.__main__ import main as update

TOKEN = {"Authorization": "Bearer sesame"}


@pytest.fixture
def client_of(tmp_path):
    """Makes clients of servers that keep feedback in ``said``; they end with the test."""
    clients = []

    def make(detector, file=None, token="sesame", folder=tmp_path / "said"):
        inspector = Inspector(detector, ServeSettings(token=token))
        kept = None if folder is None else FeedbackFolder(folder)
        app = create_app(inspector, Teaching(inspector, kept, file))
        client = TestClient(app, "http://localhost", headers=TOKEN if token else None)
        clients.append(client.__enter__())
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of):
    return client_of(FakeDetector())


def keep(client, image, said="good", class_name="cookie", name="part.png"):
    data = image if isinstance(image, bytes) else encoded(image)
    chosen = {"said": said, "name": name} | (
        {} if class_name is None else {"class_name": class_name}
    )
    return client.post("/feedback", params=chosen, content=data)


def sentence(response, status):
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert detail.endswith(".") and "\n" not in detail
    return detail


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# ---- feedback -------------------------------------------------------------------------------


def test_an_image_is_kept_as_it_was_uploaded_with_its_answer(client, tmp_path):
    data = encoded(grey(40), "BMP")
    answer = keep(client, data, "defect", name="../Teil №1.png").json()
    assert answer["classes"] == {"cookie": {"good": 0, "defect": 1}}
    path = tmp_path / "said" / answer["file"]
    assert path.read_bytes() == data and path.suffix == ".bmp", "by its content"
    assert path.parent == tmp_path / "said/cookie/defect" and path.name.startswith("Teil_1-")
    told = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert told["name"] == "../Teil №1.png" and told["said"] == "defect"
    assert told["answer"]["model_version"] == "0123456789ab"
    assert told["answer"]["score"] == pytest.approx(40 / 25.5)
    assert len(files(tmp_path / "said")) == 2


def test_the_same_image_is_kept_once_and_moves_with_what_is_said(client, tmp_path):
    for _ in range(2):
        first = keep(client, grey(40)).json()["file"]
    keep(client, grey(41))
    second = keep(client, grey(40), "defect", name="other.png").json()
    assert second["classes"] == {"cookie": {"good": 1, "defect": 1}}
    assert second["file"] == first.replace("/good/", "/defect/")
    third = keep(client, grey(40), class_name="pcb").json()
    assert third["classes"] == {
        "cookie": {"good": 1, "defect": 0},
        "pcb": {"good": 1, "defect": 0},
    }
    assert len(files(tmp_path / "said")) == 4, "two images and their answers"


def test_what_people_do_in_the_folder_counts(client, tmp_path):
    path = tmp_path / "said" / keep(client, grey(40)).json()["file"]
    path.unlink()
    (path.parent / "notes.txt").write_text("mine")
    assert client.get("/feedback").json()["classes"] == {}
    assert keep(client, grey(40)).json()["classes"]["cookie"]["good"] == 1


def test_the_folder_is_bounded(client, monkeypatch):
    monkeypatch.setattr(feedback, "MOST_IMAGES", 2)
    for level in (1, 2):
        assert keep(client, grey(level)).status_code == 200
    assert "holds 2 images, the most it takes" in sentence(keep(client, grey(3)), 507)
    assert keep(client, grey(2), "defect").status_code == 200, "which moves only"
    monkeypatch.setattr(feedback, "MOST_IMAGES", 10)
    monkeypatch.setattr(feedback, "MOST_MB", 0)
    assert "holds 0 MB, the most it takes" in sentence(keep(client, grey(3)), 507)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"class_name": None}, 422, "Of which class is it? Choose among cookie, pcb"),
        ({"class_name": "../nut"}, 422, "not trained on class ../nut"),
        ({"said": "odd"}, 422, "The parameter said is wrong"),
        ({"image": b"no image"}, 422, "can't be read"),
        ({"image": b""}, 422, "it has no bytes"),
    ],
)
def test_what_is_refused_is_not_kept(client, tmp_path, options, status, words):
    assert words in sentence(keep(client, **({"image": grey(1)} | options)), status)
    assert files(tmp_path / "said") == []


def test_without_a_folder_and_without_a_token(client_of):
    nothing = client_of(FakeDetector(), folder=None)
    assert nothing.get("/info").json()["keeps_feedback"] is False
    assert "--feedback DIR" in sentence(keep(nothing, grey(1)), 404)
    assert "--feedback DIR" in sentence(nothing.get("/feedback"), 404)
    guarded = client_of(FakeDetector())
    guarded.headers.pop("Authorization")
    assert keep(guarded, grey(1)).status_code == 401
    unguarded = client_of(FakeDetector(), token=None)
    foreign = {"Origin": "https://example.org"}
    assert unguarded.post("/feedback?said=good", headers=foreign).status_code == 403
    assert keep(unguarded, grey(1)).status_code == 200
    for path in ("/learn?class_name=cookie", "/threshold?image=3"):
        assert "needs a token" in sentence(unguarded.post(path), 403)
    assert unguarded.get("/info").json()["can_change"] is False


def test_feedback_counts_neither_as_a_verdict_nor_as_drift(client):
    for level in range(60):
        keep(client, grey(30 + level), class_name="pcb")
    text = client.get("/metrics").text
    assert "grad_images_total{" not in text and "grad_drift{" not in text


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM", "TGA"]
)
def test_every_format_has_an_ending_that_is_read_again(tmp_path, kind):
    path = FeedbackFolder(tmp_path).keep(encoded(grey(9), kind), "x", "nut", "good", {})
    assert path.suffix in image_suffixes() and Image.open(path).format == kind


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(GradError, match=r"--feedback .* can't be made"):
        FeedbackFolder(tmp_path / "file/said")


# ---- thresholds -----------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def tiny(client_of, run):
    """A client of a server of a model file."""
    load = lambda: Detector.load(run, device="cpu")  # noqa: E731
    return client_of(load(), ModelFile(run / MODEL, load))


def test_a_moved_threshold_is_the_models_from_then_on(tiny, run, tmp_path):
    before = load_checkpoint(run).calibration
    limit = before.classes["nut"]
    image = limit.image_typical + 2 * (limit.image - limit.image_typical)
    answer = tiny.post("/threshold", params={"class_name": "nut", "image": image}).json()
    assert answer["before"] == limit.image and answer["after"] == pytest.approx(image)
    after = load_checkpoint(run)
    moved = after.calibration.classes["nut"]
    assert (moved.image, moved.moved) == (answer["after"], answer["time"])
    span = limit.pixel - limit.pixel_typical
    assert moved.pixel == pytest.approx(limit.pixel_typical + 2 * span)
    assert moved.note.startswith(
        f"moved by hand at {answer['time']} from {limit.image:.4g}; before"
    )
    assert after.calibration.classes["screw"] == before.classes["screw"]
    assert after.origin.version == answer["model_version"]
    info = tiny.get("/info").json()
    assert info["model_version"] == answer["model_version"]
    assert {row["class_name"]: row["moved"] for row in info["thresholds"]}["nut"] == answer["time"]
    path = picture(tmp_path / "a.png")
    found = tiny.post("/predict?class_name=nut", content=path.read_bytes()).json()
    assert found["threshold"] == moved.image
    assert found["model_version"] == Detector.load(run, device="cpu").origin.version
    again = tiny.post("/threshold", params={"class_name": "nut", "image": 2 * image}).json()
    note = load_checkpoint(run).calibration.classes["nut"].note
    assert again["before"] == moved.image and note.count("moved by hand") == 1


def test_the_threshold_of_a_class_not_stated(tiny, run):
    image = 2 * load_checkpoint(run).calibration.unknown.image
    assert tiny.post("/threshold", params={"image": image}).json()["class_name"] is None
    assert load_checkpoint(run).calibration.unknown.image == pytest.approx(image)


@pytest.mark.parametrize("image", ["0", "-1", "nan", "inf", "1e-9"])
def test_thresholds_that_are_none(tiny, run, image):
    before = (run / MODEL).read_bytes()
    said = sentence(tiny.post("/threshold", params={"class_name": "nut", "image": image}), 409)
    assert "must be a number above" in said
    assert (run / MODEL).read_bytes() == before


def test_a_file_that_somebody_else_changes_is_left_alone(tiny, run):
    before = (run / MODEL).read_bytes()
    with claimed(run / MODEL):
        assert "is at work" in sentence(tiny.post("/threshold?class_name=nut&image=99"), 409)
    make_run(run, preset="grad-s")
    other = (run / MODEL).read_bytes()
    assert other != before
    assert "is another since this server" in sentence(tiny.post("/threshold?image=99"), 409)
    assert (run / MODEL).read_bytes() == other


def test_what_cannot_learn_says_so(tiny, run, tmp_path):
    assert "nothing yet" in sentence(tiny.post("/learn?class_name=nut"), 409)
    keep(tiny, picture(tmp_path / "a.png").read_bytes(), class_name="nut")
    before = (run / MODEL).read_bytes()
    assert "keeps no images to learn on with" in sentence(tiny.post("/learn?class_name=nut"), 409)
    assert (run / MODEL).read_bytes() == before and not (run / PREVIOUS).exists()


def test_a_moved_threshold_outlives_an_update_of_another_class():
    scores = {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0]}
    known: Calibration = calibrate(scores, scores, dict.fromkeys(scores, "held out"), 0.2)
    moved = known.with_threshold("a", known.classes["a"].moved_to(9.0, "now"))
    assert moved.knowing("b", [5.0], [5.0]).classes["a"].image == 9.0
    assert moved.knowing("a", [5.0], [5.0]).classes["a"].moved is None
    assert moved.at_rate(0.2).classes["a"] == known.classes["a"], "asked for expressly"
    assert Calibration.from_json(json.loads(json.dumps(moved.to_json()))) == moved
    everything = known.with_threshold(None, known.unknown.moved_to(9.0, "now"))
    assert everything.knowing("b", [5.0], [5.0]).unknown.image == 9.0


# ---- regions of interest --------------------------------------------------------------------


def half(size=(60, 40)):
    """White on the left."""
    image = Image.new("L", size)
    image.paste(255, (0, 0, size[0] // 2, size[1]))
    return image


def test_a_region_is_the_models_from_then_on(tiny, run, tmp_path):
    before, bytes_before = load_checkpoint(run), (run / MODEL).read_bytes()
    data = picture(tmp_path / "a.png").read_bytes()
    ask = lambda name: tiny.post(f"/predict?map=true&class_name={name}", content=data).json()  # noqa: E731
    whole, other = ask("nut"), ask("screw")
    assert whole["map"]["roi"] is None
    answer = tiny.post("/roi?class_name=nut", content=encoded(half())).json()
    assert answer["class_name"] == "nut" and answer["share"] == 0.5
    assert "may be too high" in answer["note"]
    after = load_checkpoint(run)
    assert set(after.info.rois) == {"nut"} and not after.info.rois["nut"].painted
    assert after.calibration == before.calibration
    assert after.info.updates[-1].time == answer["time"]
    version = answer["model_version"]
    assert version == after.origin.version == tiny.get("/info").json()["model_version"]
    cut = ask("nut")
    assert cut["score"] < whole["score"] and cut["model_version"] == version
    assert cut["map"]["roi"] == after.info.rois["nut"].mask
    assert ask("screw")["score"] == pytest.approx(other["score"])
    assert "different regions" in sentence(tiny.post("/predict", content=data), 422)
    form = {"file": ("roi.png", encoded(half()), "image/png")}
    assert tiny.post("/roi", files=form).json()["class_name"] is None, "all classes"
    assert set(load_checkpoint(run).info.rois) == {"nut", "screw"}
    assert tiny.post("/predict", content=data).status_code == 200
    assert update([str(run), "--undo"]) == 0
    assert load_checkpoint(run).origin.version == version
    assert (run / MODEL).read_bytes() != bytes_before


@pytest.mark.parametrize(
    ("path", "data", "status", "words"),
    [
        ("/roi?class_name=bolt", encoded(half()), 422, "not trained on class bolt"),
        ("/roi?class=nut", encoded(half()), 422, "no parameter class"),
        ("/roi", encoded(Image.new("L", (9, 9))), 422, "black everywhere"),
        ("/roi", encoded(Image.new("L", (9, 9), 255)), 409, "white everywhere is none"),
        ("/roi", b"no image", 422, "can't be read"),
        ("/roi", b"", 422, "it has no bytes"),
        ("/roi", encoded(Image.new("1", (9000, 9000), 1)), 413, "million pixels"),
    ],
)
def test_what_is_no_region_changes_nothing(client_of, run, path, data, status, words):
    before = (run / MODEL).read_bytes()
    load = lambda: Detector.load(run, device="cpu")  # noqa: E731
    client = client_of(load(), ModelFile(run / MODEL, load))
    assert words in sentence(client.post(path, content=data), status)
    assert (run / MODEL).read_bytes() == before and not (run / PREVIOUS).exists()


def test_a_region_needs_a_token_and_the_file_that_is_served(client_of, tiny, run):
    unguarded = client_of(FakeDetector(), token=None)
    assert "needs a token" in sentence(unguarded.post("/roi", content=encoded(half())), 403)
    tiny.headers.pop("Authorization")
    assert tiny.post("/roi", content=encoded(half())).status_code == 401
    tiny.headers.update(TOKEN)
    make_run(run, preset="grad-s")
    other = (run / MODEL).read_bytes()
    said = sentence(tiny.post("/roi", content=encoded(half())), 409)
    assert "is another since this server" in said
    assert (run / MODEL).read_bytes() == other


def test_scores_that_a_region_lowered_are_no_drift(client_of):
    for painted, words in ((False, None), (True, "by now scores are others")):
        detector = FakeDetector()
        roi = roi_of(Picture.from_image(half()), painted)
        detector.info = replace(detector.info, rois=dict.fromkeys(detector.classes, roi))
        client = client_of(detector)
        said = [
            client.post("/predict?class_name=pcb", content=encoded(grey(1))).json()["drift"]
            for _ in range(80)
        ][-1]
        assert said is words or words in said.lower()


# ---- learning -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on two classes of coloured noise, and further images of them."""
    root = tmp_path_factory.mktemp("trained")
    make_images(root / "data", train=20, test=6, size=64)
    options = "--preset grad-plus --epochs 1 --batch-size 8 --image-size 64 --device cpu"
    arguments = ["--backbone", "tf_efficientnet_lite0", *options.split(), "--classes", "a,b"]
    folders = ["--data", root / "data", "--cache", root / "cache", "--out", root / "run"]
    assert train([*arguments, *map(str, folders)]) == 0
    return root


def test_the_model_learns_from_what_was_said(trained, client_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run, data = trained / "run", trained / "data"
    before = load_checkpoint(run)
    load = lambda: Detector.load(run, device="cpu")  # noqa: E731
    client = client_of(load(), ModelFile(run / MODEL, load))
    for path in sorted((data / "a/test/good").iterdir())[:3]:
        assert keep(client, path.read_bytes(), class_name="a").status_code == 200
    for path in sorted((data / "a/test/dark").iterdir())[:2]:
        assert keep(client, path.read_bytes(), "defect", class_name="a").status_code == 200

    scores, stop = [], threading.Event()
    image = (data / "b/test/good").iterdir().__next__().read_bytes()

    def ask():  # while it learns, answers go on
        while not stop.is_set():
            answer = client.post("/predict?class_name=b", content=image)
            assert answer.status_code == 200
            scores.append((answer.json()["model_version"], answer.json()["score"]))

    asking = threading.Thread(target=ask)
    asking.start()
    learned = client.post("/learn?class_name=a").json()
    version = learned["model_version"]
    while not any(found == version for found, _ in scores[-3:]):
        time.sleep(0.01)
    stop.set()
    asking.join()
    assert len(learned["images"]) == 3 and learned["defects"] == 2
    assert learned["note"] is None, "with statistics it is sure"
    assert {found for found, _ in scores} == {before.origin.version, version}
    after = load_checkpoint(run)
    assert after.info.updates[-1].images == tuple(learned["images"])
    assert after.origin.version == version
    assert learned["threshold_after"] == after.calibration.classes["a"].image
    assert load_checkpoint(run / PREVIOUS).origin.version == before.origin.version
    assert "say of more" in sentence(client.post("/learn?class_name=a"), 409)

    # The command takes the folder too, and goes back what the page did.
    (tmp_path / "said/b").mkdir(parents=True)
    new = sorted((data / "b/test/good").iterdir())[1]
    keep(client, new.read_bytes(), class_name="b")
    assert update([str(run), "--undo"]) == 0
    assert load_checkpoint(run).origin.version == before.origin.version
    folder = tmp_path / "said/a"
    arguments = ["--good", folder / "good", "--class-name", "a", "--defect", folder / "defect"]
    assert update([str(run), *map(str, arguments)]) == 0
    updated = load_checkpoint(run)
    assert updated.info.updates[-1].images == tuple(learned["images"])
    np.testing.assert_allclose(
        updated.calibration.classes["a"].image, learned["threshold_after"], rtol=1e-5
    )
