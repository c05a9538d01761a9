"""The server's answers: results, limits, refusals, the token, and what it counts."""

import asyncio
import base64
import dataclasses
import io
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from helpers.serving import CALIBRATION, SIZE, FakeDetector, encoded, grey, served, spot

from grad.data.images import load_image
from grad.data.roi import read_roi
from grad.report.write import _SCRIPTS, _inline
from grad.score.heat import SCRIPT
from grad.score.thresholds import calibrated
from grad.serve.app import create_app
from grad.serve.batching import Batcher
from grad.serve.inspector import Inspector
from grad.serve.settings import ServeSettings, is_loopback
from grad.system.errors import GradError

LOCAL = "http://localhost"


@pytest.fixture
def detector():
    return FakeDetector()


@pytest.fixture
def client_of():
    """Makes clients of servers with other settings; they end with the test."""
    clients = []

    def make(detector, base_url=LOCAL, raise_server_exceptions=True, **settings):
        app = create_app(Inspector(detector, ServeSettings(**settings)))
        client = TestClient(app, base_url, raise_server_exceptions=raise_server_exceptions)
        clients.append(client.__enter__())
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of, detector):
    return client_of(detector, max_upload_mb=0.1, max_pixels=1_000_000)


def send(client, data, path="/predict", type="image/png", **options):
    return client.post(path, content=data, headers={"Content-Type": type}, **options)


def sentence(response, status):
    """The one sentence of a refusal."""
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert detail.endswith(".") and "\n" not in detail and "Traceback" not in detail
    return detail


def picture(base64_png):
    return Image.open(io.BytesIO(base64.b64decode(base64_png)))


# ---- answers --------------------------------------------------------------------------------


def test_a_verdict_for_bytes_and_for_a_form(client):
    data = encoded(grey(51))
    by_bytes = send(client, data).json()
    by_form = client.post("/predict", files={"file": ("part.png", data, "image/png")}).json()
    assert by_form.pop("name") == "part.png"
    by_bytes.pop("name")
    assert by_bytes.pop("time") <= by_form.pop("time")
    assert by_bytes == by_form
    assert (by_bytes["model"], by_bytes["model_version"]) == ("fake", "0123456789ab")
    row = CALIBRATION.unknown
    assert by_bytes["score"] == pytest.approx(2.0)
    assert by_bytes["threshold"] == row.image
    assert by_bytes["value"] == pytest.approx(calibrated(2.0, row.image_typical, row.image))
    assert by_bytes["is_anomalous"] is False
    assert by_bytes["p_resolution"] == 1 / 9, "all eight good images, as no class was named"
    assert by_bytes["p_value"] == CALIBRATION.p_value(2.0, 2.0, None)[0] > 1 / 9
    assert (by_bytes["width"], by_bytes["height"]) == (SIZE, SIZE)


def test_regions_are_those_of_the_image(client):
    """A bright spot in an image twice the model's size; a good image has none."""
    assert send(client, encoded(grey(10))).json()["regions"] == []
    image = spot().resize((2 * SIZE, 2 * SIZE), Image.Resampling.NEAREST)
    answer = send(client, encoded(image)).json()
    (region,) = answer["regions"]
    left, top, right, bottom = region["box"]
    assert 0 <= left < right <= 2 * SIZE and 0 <= top < bottom <= 2 * SIZE
    assert region["share"] == region["area"] / (2 * SIZE) ** 2
    assert left <= region["peak_at"][0] < right and region["peak"] >= region["mean"]


def test_drift_of_a_class_is_said_from_when_it_shows(client):
    calls = [send(client, encoded(grey(30 + i)), "/predict?class_name=pcb") for i in range(60)]
    said = [answer.json()["drift"] for answer in calls]
    first = next(i for i, text in enumerate(said) if text)
    assert first > 0 and all("light, camera or parts" in text for text in said[first:])
    assert send(client, encoded(grey(30)), "/predict?class_name=cookie").json()["drift"] is None
    assert 'grad_drift{class_name="pcb"} 1.0' in client.get("/metrics").text


def test_the_class_chooses_the_threshold(client):
    between = (CALIBRATION.classes["cookie"].image + CALIBRATION.classes["pcb"].image) / 2
    data = encoded(grey(round(25.5 * between)))
    cookie = send(client, data, "/predict?class_name=cookie").json()
    pcb = send(client, data, "/predict?class_name=pcb").json()
    assert cookie["score"] == pcb["score"]
    assert cookie["is_anomalous"] and not pcb["is_anomalous"]
    assert cookie["value"] > 0.5 > pcb["value"]


def test_pictures_come_when_asked_for(client):
    data = encoded(spot())
    plain = send(client, data).json()
    assert plain["map"] is plain["overlay"] is plain["preview"] is None
    full = send(client, data, "/predict?map=true&overlay=true&preview=true").json()
    levels = np.asarray(picture(full["map"]["png"]), dtype=float)
    values = full["map"]["low"] + (full["map"]["high"] - full["map"]["low"]) * levels / 65535
    resized = spot().resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    expected = 10 * np.asarray(resized, dtype=float)[..., 0] / 255
    assert np.abs(values - expected).max() < 1e-3
    assert np.array_equal(np.asarray(picture(full["preview"])), np.asarray(spot()))
    overlay = np.asarray(picture(full["overlay"])).astype(int)
    assert overlay.shape[0] > 40 and overlay.shape[1:] == (60, 3), "the words are below"
    overlay = overlay[:40]
    assert np.abs(overlay - np.asarray(spot()))[:5, :5].max() > 50  # the spot is coloured
    assert np.abs(overlay - np.asarray(spot()))[20:, 30:].max() < 25  # the rest hardly


def test_page_and_report_draw_heat_by_one_file(client_of, detector):
    served = client_of(detector).get("/page/heat.js")
    assert served.status_code == 200 and "javascript" in served.headers["content-type"]
    assert served.text == SCRIPT.read_text()
    assert SCRIPT.read_text() in _inline(*_SCRIPTS).text


def test_pictures_are_bounded(client_of, detector):
    client = client_of(detector)
    wide = send(client, encoded(grey(0, (3000, 30))), "/predict?preview=1&overlay=1").json()
    assert picture(wide["preview"]).size == (1024, 10)
    assert picture(wide["overlay"]).width == 3000
    wider = send(client, encoded(grey(0, (5000, 30))), "/predict?overlay=1").json()
    assert picture(wider["overlay"]).width == 4096


SAME = {  # files whose scores must be those of the detector's own way to read them
    "one pixel": lambda: encoded(grey(200, (1, 1))),
    "rgba": lambda: encoded(spot().convert("RGBA")),
    "palette with transparency": lambda: encoded(
        spot().convert("P"), transparency=bytes([0] * 100 + [255] * 156)
    ),
    "cmyk": lambda: encoded(spot().convert("CMYK"), "JPEG"),
    "16 bit": lambda: encoded(
        Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16))
    ),
    "float": lambda: encoded(
        Image.fromarray(np.linspace(0, 1, 600).reshape(20, 30).astype(np.float32)), "TIFF"
    ),
    "turned by EXIF": lambda: encoded(spot(), "JPEG", exif=exif(6)),
    "black and white": lambda: encoded(spot().convert("1")),
    "webp": lambda: encoded(spot(), "WEBP"),
    "two frames": lambda: encoded(
        spot(), "GIF", save_all=True, append_images=[grey(255, (60, 40))]
    ),
}


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("name", SAME)
def test_a_file_scores_as_the_detector_reads_it(client, detector, tmp_path, name):
    data = SAME[name]()
    (tmp_path / "file").write_bytes(data)
    maps, scores = detector.score_batch(load_image(tmp_path / "file", (SIZE, SIZE))[None])
    answer = send(client, data, "/predict?map=true", type="application/octet-stream").json()
    assert answer["score"] == pytest.approx(float(scores[0]), rel=1e-6)
    assert answer["map"]["high"] == pytest.approx(float(maps.max()), rel=1e-6)
    if name == "turned by EXIF":
        assert (answer["width"], answer["height"]) == (40, 60)


def test_the_white_level_of_the_model_is_used(client_of, detector):
    detector.info = dataclasses.replace(detector.info, white_level=4095)
    values = np.full((9, 9), 2048, np.uint16)
    answer = send(client_of(detector), encoded(Image.fromarray(values))).json()
    assert answer["score"] == pytest.approx(20480 / 4095) and answer["note"] is None
    values[:] = 5000
    answer = send(client_of(detector), encoded(Image.fromarray(values))).json()
    assert answer["score"] == pytest.approx(10.0) and "white level" in answer["note"]


def test_without_thresholds_images_are_scored_and_not_judged(client_of):
    client = client_of(FakeDetector(calibration=None))
    answer = send(client, encoded(grey(51)), "/predict?overlay=true").json()
    assert answer["score"] == pytest.approx(2.0)
    assert answer["is_anomalous"] is answer["value"] is answer["threshold"] is None
    assert answer["p_value"] is answer["p_resolution"] is None
    assert "no thresholds" in answer["note"]
    info = client.get("/info").json()
    assert info["thresholds"] == [] and "no thresholds" in info["note"]


def test_info_tells_thresholds_and_limits(client):
    info = client.get("/info").json()
    assert info["classes"] == ["cookie", "pcb"] and info["model"] == "fake"
    rows = {row["class_name"]: row for row in info["thresholds"]}
    assert set(rows) == {"cookie", "pcb", None}
    assert rows["pcb"]["image"] == CALIBRATION.classes["pcb"].image
    pcb = CALIBRATION.classes["pcb"]
    span, level = pcb.image - pcb.image_typical, pcb.pixel - pcb.pixel_typical
    expected = [  # a score, or as far up as the largest map value
        max(score, pcb.image_typical + span * (maximum - pcb.pixel_typical) / level)
        for score, maximum in zip((2.0, 3.0, 4.0, 5.0), (3.0, 4.0, 5.0, 6.0), strict=True)
    ]
    assert rows["pcb"]["joint"] and rows["pcb"]["good_scores"] == pytest.approx(expected)
    assert rows[None]["image"] == CALIBRATION.unknown.image
    assert len(rows[None]["good_scores"]) == 8
    assert info["max_upload_bytes"] == 100_000 and info["max_pixels"] == 1_000_000
    assert len(base64.b64decode(info["colours"])) == 1024


# ---- refusals -------------------------------------------------------------------------------


def bomb(width, height):
    """A PNG whose header announces more pixels than it holds."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_too_many_bytes(client, detector):
    data = bytes(200_000)
    assert "0.1 MB" in sentence(send(client, data), 413)
    assert "0.1 MB" in sentence(client.post("/predict", files={"file": data}), 413)

    def pieces():
        for _ in range(20):
            yield bytes(10_000)

    assert "0.1 MB" in sentence(send(client, pieces()), 413)  # its length is not announced
    just = b"P5 200 400 255 " + bytes(80_000)
    assert send(client, just).status_code == 200
    assert client.post("/predict", files={"file": just}).status_code == 200
    assert detector.batches == [1, 1]


def test_a_form_with_much_beside_the_file(client):
    form = {"note": "x" * 90_000}
    assert client.post("/predict", data=form, files={"file": bytes(90_000)}).status_code == 413


def test_too_many_pixels(client):
    assert "20000 x 1000" in sentence(send(client, bomb(20_000, 1_000)), 413)
    assert "1 million pixels" in sentence(send(client, bomb(1001, 1000)), 413)
    assert "pixels" in sentence(send(client, bomb(30_000, 30_000)), 413)  # Pillow's own limit
    assert send(client, encoded(grey(0, (1000, 1000)))).status_code == 200


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no bytes"),
        (b"good morning", "header is damaged"),
        (encoded(spot())[:60], "truncated|broken|damaged"),
        (encoded(spot(), "JPEG")[:-200], "[Tt]runcated"),
        (bomb(100, 100), "truncated|broken|not enough"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "header is damaged"),
        (
            encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"),
            "NaN",
        ),
    ],
)
def test_what_is_no_image(client, detector, data, why):
    assert re.search(why, sentence(send(client, data), 422))
    assert re.search(why, sentence(client.post("/predict", files={"file": data}), 422))
    assert detector.batches == []


def test_what_is_neither_image_nor_form(client):
    assert "application/json" in sentence(send(client, b"{}", type="application/json"), 415)
    assert "text/plain" in sentence(send(client, b"hello", type="text/plain; charset=utf-8"), 415)
    assert send(client, encoded(grey(9)), type="").status_code == 200  # curl may send none


def test_forms_that_hold_no_file(client):
    assert "no file" in sentence(client.post("/predict", data={}, files={"a": (None, "x")}), 400)
    broken = send(client, b"nonsense", type="multipart/form-data; boundary=abc")
    assert "form" in sentence(broken, 400)
    assert "form" in sentence(send(client, b"nonsense", type="multipart/form-data"), 400)
    two = client.post("/predict", files=[("a", encoded(grey(1))), ("b", encoded(grey(2)))])
    assert "one file" in sentence(two, 400)


def test_wrong_paths_methods_and_parameters(client):
    assert client.get("/predict").status_code == 405
    unknown = send(client, encoded(grey(1)), "/predict?class_name=bottle")
    assert "cookie, pcb" in sentence(unknown, 422)
    assert client.get("/nowhere").status_code == 404
    wrong = send(client, encoded(grey(1)), "/predict?overlay=perhaps")
    assert "overlay" in sentence(wrong, 422)
    misspelt = send(client, encoded(grey(1)), "/predict?clas_name=pcb")
    assert "no parameter clas_name" in sentence(misspelt, 422)
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2f..%2fserve.py",
        "/page//etc",
    ):
        assert client.get(path).status_code == 404, path


def test_a_full_queue_answers_at_once(client_of, detector):
    client = client_of(detector, queue=3, batch_size=1)
    data = encoded(grey(51))
    detector.go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(send, client, data) for _ in range(8)]
        refused = []
        while len(refused) < 5:
            refused = [f for f in futures if f.done() and f.result().status_code == 503]
        assert client.get("/health").status_code == 200
        assert "grad_queue_length 3.0" in client.get("/metrics").text
        detector.go_on.set()
        answers = [future.result() for future in futures]
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 5
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "1"
            assert "3 images are waiting" in sentence(answer, 503)
    assert send(client, data).status_code == 200


def test_a_failure_of_the_network_is_one_answer_not_the_end(client_of, detector, monkeypatch):
    client = client_of(detector)
    with monkeypatch.context() as patch:
        patch.setattr(detector, "broken", True)
        assert "out of memory" in sentence(send(client, encoded(grey(5))), 500)
    assert send(client, encoded(grey(5))).status_code == 200
    assert 'status="500"' in client.get("/metrics").text


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_never_good(client_of, detector, factor):
    detector.factor = factor
    said = sentence(send(client_of(detector), encoded(grey(5))), 500)
    assert "neither good nor anomalous" in said


def test_a_defect_of_the_server_is_json_too(client_of, detector, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("never expected")

    monkeypatch.setattr("grad.serve.answers.judge", broken)
    client = client_of(detector, raise_server_exceptions=False)
    assert "never expected" in sentence(send(client, encoded(grey(5))), 500)


def test_scans_without_end_are_refused(client_of, detector):
    """Each scan of a progressive JPEG takes as long as the whole image."""
    data = encoded(spot(), "JPEG", progressive=True)
    start = data.index(b"\xff\xda", data.index(b"\xff\xc2"))
    scan = data[start : data.index(b"\xff", start + 20)]
    assert send(client_of(detector), data).status_code == 200
    bomb = data[:start] + 20_000 * scan + data[start:]
    assert "scans" in sentence(send(client_of(detector), bomb), 422)


def test_a_narrow_image_takes_no_more_memory_than_itself(client_of, detector):
    data = encoded(Image.new("L", (1, 3_000_000), 100))
    assert send(client_of(detector), data).json()["score"] == pytest.approx(1000 / 255, rel=0.01)


def test_who_sends_nothing_keeps_no_place(detector):
    with served(detector, queue=1, idle_timeout_s=0.3) as address:
        there = urllib.parse.urlsplit(address)
        with socket.create_connection((there.hostname, there.port)) as stalled:
            head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
            stalled.sendall(head.encode())
            assert b" 408 " in stalled.recv(100)
        with urllib.request.urlopen(f"{address}predict", encoded(grey(9))) as answer:
            assert answer.status == 200


def connect(address):
    there = urllib.parse.urlsplit(address)
    return socket.create_connection((there.hostname, there.port), timeout=60)


def received(connection):
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", GET[:20], GET[:-2], GET + GET[:20]])
def test_a_connection_without_a_whole_head_is_closed(detector, sent):
    """uvicorn alone would keep all of these for ever."""
    with served(detector, head_timeout_s=1) as address, connect(address) as stalled:
        stalled.sendall(sent)
        assert received(stalled).count(b"HTTP/1.1 200") == sent.count(GET)


def test_a_head_byte_by_byte_gets_no_more_time(detector):
    with served(detector, head_timeout_s=1) as address, connect(address) as slow:
        slow.sendall(GET[:10])
        with pytest.raises(OSError):
            for _ in range(200):
                slow.sendall(b"a")
                time.sleep(0.05)


def test_heads_in_parts_and_connections_that_are_used_again_are_answered(detector):
    with served(detector, head_timeout_s=2) as address, connect(address) as connection:
        for _ in range(8):  # longer than one head may take, together
            connection.sendall(GET[:25])
            time.sleep(0.3)
            connection.sendall(GET[25:])
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")


def test_what_is_no_http_is_refused_in_json(detector):
    with served(detector) as address, connect(address) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, body = received(connection).split(b"\r\n\r\n")
    assert b" 400 " in head
    assert json.loads(body)["detail"].endswith(".")


# ---- access ---------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://testserver:1"])
def test_scripts_of_other_pages_are_refused(client_of, detector, origin):
    image = encoded(grey(1))
    refused = client_of(detector).post("/predict", content=image, headers={"Origin": origin})
    assert "may not use" in sentence(refused, 403)
    own = client_of(detector, token="t").post(
        "/predict", content=image, headers={"Origin": origin, "Authorization": "Bearer t"}
    )
    assert own.status_code == 200


def test_the_token_is_asked_for_everywhere_but_where_it_is_entered(client_of, detector):
    client = client_of(detector, token="open sesame")
    image = encoded(grey(1))
    for path in ("/info", "/metrics", "/docs", "/openapi.json", "/nowhere"):
        assert "token" in sentence(client.get(path), 401)
    assert "A token is needed" in sentence(send(client, image), 401)
    for path in ("/health", "/", "/page/app.js", "/favicon.ico", "/docs/files/swagger-ui.css"):
        assert client.get(path).status_code == 200, path
    for header in ("Bearer open sesame", "bearer open sesame", basic("any:open sesame")):
        client.headers["Authorization"] = header
        assert client.get("/info").status_code == 200
        assert send(client, image).status_code == 200
    for header in ("Bearer open", "Bearer", "open sesame", "Basic !", basic("open sesame:")):
        client.headers["Authorization"] = header
        assert client.get("/info").status_code == 401, header
    assert detector.batches == [1, 1, 1]


def basic(credentials):
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def test_only_browsers_of_the_documentation_are_asked_by_the_browser(client_of, detector):
    client = client_of(detector, token="x")
    assert client.get("/docs").headers["www-authenticate"].startswith("Basic")
    assert client.get("/info").headers["www-authenticate"].startswith("Bearer")


def test_a_foreign_name_for_this_machine_is_refused(client_of, detector):
    foreign = client_of(detector, base_url="http://evil.example:8000")
    assert "localhost only" in sentence(foreign.get("/info"), 400)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "app.localhost"):
        assert foreign.get("/info", headers={"Host": host}).status_code == 200
    named = client_of(detector, base_url="http://factory.example", host="0.0.0.0")
    assert named.get("/info").status_code == 200


def test_headers_forbid_what_the_page_does_not_need(client):
    for path in ("/", "/info", "/page/app.js", "/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
    assert client.get("/info").headers["cache-control"] == "no-store"


def test_pages_name_no_other_server(client):
    for path in ("/", "/docs", "/page/app.js", "/page/style.css", "/page/docs.js"):
        text = client.get(path).text
        assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), path


def test_openapi_describes_the_upload(client):
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert {"200", "401", "413", "415", "422", "503"} <= set(operation["responses"])


# ---- metrics --------------------------------------------------------------------------------


def test_metrics_count_requests_batches_and_verdicts(client):
    send(client, encoded(grey(1)))
    send(client, encoded(grey(255)))
    send(client, b"broken")
    client.get("/nowhere/1")
    client.get("/nowhere/2")
    text = client.get("/metrics").text
    for line in (
        'grad_requests_total{path="/predict",status="200"} 2.0',
        'grad_requests_total{path="/predict",status="422"} 1.0',
        'grad_requests_total{path="other",status="404"} 2.0',
        'grad_images_total{verdict="good"} 1.0',
        'grad_images_total{verdict="anomalous"} 1.0',
        "grad_batch_images_count 2.0",
        'grad_request_seconds_count{path="/predict"} 3.0',
        "grad_queue_length 0.0",
    ):
        assert line in text.splitlines(), text
    assert "process_resident_memory_bytes" in text


# ---- batches --------------------------------------------------------------------------------


def run_batcher(score, images, **options):
    """Scores of images that are all asked for at once."""

    async def ask():
        async with Batcher(score, max_wait=0.0, **options) as batcher:
            results = await asyncio.gather(*map(batcher.score, images), return_exceptions=True)
            return results

    return asyncio.run(ask())


def test_concurrent_images_share_batches_and_get_their_own_result(detector):
    images = [torch.full((3, SIZE, SIZE), i / 20) for i in range(20)]
    sizes = []
    results = run_batcher(detector.score_batch, images, batch_size=8, observe=sizes.append)
    assert sizes == detector.batches == [8, 8, 4]
    for i, (anomaly_map, score) in enumerate(results):
        assert score == pytest.approx(i / 2)
        assert torch.allclose(anomaly_map, torch.full((SIZE, SIZE), i / 2))
        assert anomaly_map.untyped_storage().nbytes() == 4 * SIZE * SIZE  # not the whole batch


def test_a_failing_batch_fails_its_own_images_only(detector):
    def score(images, names):
        if images[0, 0, 0, 0] == 0:
            raise RuntimeError("out of memory")
        return detector.score_batch(images)

    images = [torch.full((3, SIZE, SIZE), float(i > 3)) for i in range(8)]
    results = run_batcher(score, images, batch_size=4)
    assert all(isinstance(result, RuntimeError) for result in results[:4])
    assert [result[1] for result in results[4:]] == [10.0] * 4


def test_a_batch_waits_for_announced_images_only(detector):
    async def ask(announced):
        sizes = []
        batcher = Batcher(
            detector.score_batch,
            batch_size=4,
            max_wait=0.2,
            announced=lambda: announced,
            observe=sizes.append,
        )
        async with batcher:
            image = torch.zeros(3, SIZE, SIZE)
            first = asyncio.create_task(batcher.score(image))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(batcher.score(image))
            await asyncio.gather(first, second)
        return sizes

    assert asyncio.run(ask(announced=1)) == [2]
    assert asyncio.run(ask(announced=0)) == [1, 1]


def test_scoring_runs_in_one_thread_beside_the_loop(detector):
    threads = set()

    def score(images, names):
        threads.add(threading.current_thread())
        return detector.score_batch(images)

    run_batcher(score, [torch.zeros(3, SIZE, SIZE)] * 9, batch_size=2)
    assert len(threads) == 1 and threading.main_thread() not in threads


# ---- regions ---


@pytest.fixture
def regions(tmp_path):
    """A region of interest: the upper half; and two ways to have it."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[: SIZE // 2] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    roi = read_roi(tmp_path / "roi.png")
    return {"all": {"cookie": roi, "pcb": roi}, "one": {"cookie": roi}}


def test_the_region_of_the_class_reaches_scorer_map_and_overlay(client_of, detector, regions):
    detector.info = replace(detector.info, rois=regions["one"])
    client = client_of(detector)
    image = encoded(grey(0))
    found = send(client, image, "/predict?map=1&overlay=1&class_name=cookie").json()
    assert detector.names[-1] == ["cookie"]
    assert found["map"]["roi"] == regions["one"]["cookie"].mask
    overlay = np.asarray(picture(found["overlay"]))
    assert (overlay[: SIZE // 2] == 0).all() and (overlay[SIZE // 2 : SIZE] == 89).all()
    whole = send(client, image, "/predict?map=1&overlay=1&class_name=pcb").json()
    assert whole["map"]["roi"] is None
    refused = send(client, image)
    assert refused.status_code == 422
    assert "different regions of interest: name the image's class" in refused.json()["detail"]


def test_one_region_for_all_needs_no_class(client_of, detector, regions):
    detector.info = replace(detector.info, rois=regions["all"])
    found = send(client_of(detector), encoded(grey(200)), "/predict?map=1").json()
    assert found["map"]["roi"] == regions["all"]["pcb"].mask


def test_small_regions_count_for_nothing(client_of, detector):
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[4:7, 4:7] = 255
    image[12:14, 12:18] = 200
    before = send(client_of(detector), encoded(Image.fromarray(image))).json()
    assert [r["area"] for r in before["regions"]] == [9, 12] and before["is_anomalous"]
    detector.info = replace(detector.info, min_area=10)
    after = send(client_of(detector), encoded(Image.fromarray(image)), "/predict?map=1").json()
    assert [region["area"] for region in after["regions"]] == [12]
    assert after["map_maximum"] == pytest.approx(10 * 200 / 255)
    assert before["map_maximum"] == pytest.approx(10)
    assert after["map"]["least"] == pytest.approx(10 / SIZE**2)
    detector.info = replace(detector.info, min_area=13)
    assert not send(client_of(detector), encoded(Image.fromarray(image))).json()["is_anomalous"]


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"port": -1},
        {"max_upload_mb": 0},
        {"max_upload_mb": float("nan")},
        {"max_pixels": 10**9},
        {"queue": 0},
        {"batch_size": 0},
        {"max_wait_ms": -1},
        {"token": ""},
        {"token": "  "},
        {"token": "ü"},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(GradError, match="--" + next(iter(wrong)).replace("_", "-")):
        ServeSettings(**wrong)


def test_names_of_this_machine():
    for host in (
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.8.9.1",
        "::1",
        "[::1]",
    ):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "localhost.example", "notlocalhost", "192.168.0.1", ""):
        assert not is_loopback(host), host
