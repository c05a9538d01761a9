"""The command: its errors, a real process, its end, and many clients at once."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
import timm
import torch
from helpers.command import error_of
from rich.console import Console
from safetensors.torch import save_file

pytest.importorskip("fastapi")

from helpers.serving import encoded, served, spot
from product import serve as bench_serve

from grad.data.demo import DEMO_FOLDER
from grad.detector.checkpoint import ModelInfo, save_checkpoint
from grad.detector.detector import Detector
from grad.features.backbone import load_backbone
from grad.model.grad import GRAD
from grad.score.thresholds import calibrate
from grad.serve import run as command
from grad.serve.__main__ import main
from grad.serve.options import ServeOptions
from grad.serve.server import announce, bind, url
from grad.serve.settings import ServeSettings

SMALL = "test_resnet"  # a model of timm with 0.5 million parameters
SIZE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file with random weights and thresholds amid the scores of the demo images."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_file(timm.create_model(SMALL).state_dict(), folder / "weights.safetensors")
    backbone = load_backbone(SMALL, folder / "weights.safetensors")
    shape = (backbone.channels, *backbone.feature_size(SIZE))
    network = GRAD.from_preset("grad-tiny", *shape).eval()
    info = ModelInfo.of(backbone, image_size=SIZE, classes=("demo",), epochs=1)
    path = folder / "run" / "model.safetensors"
    save_checkpoint(path, network, backbone, info)
    detector = Detector.load(path, device="cpu", precision="float32")
    results = detector.predict([*sorted(DEMO_FOLDER.glob("*/test/good/*"))[:10]])
    scores = {"demo": [result.score for result in results]}
    maxima = {"demo": [float(result.anomaly_map.max()) for result in results]}
    calibration = calibrate(scores, maxima, {"demo": "held out"}, 0.4)
    save_checkpoint(path, network, backbone, info, calibration)
    return path


# ---- errors ---------------------------------------------------------------------------------


def test_a_port_in_use(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([str(model), "--port", str(port)]) == 2
    assert f"port {port} (address already in use)" in error_of(capsys)


def test_an_address_of_no_machine_here(model, capsys):
    assert main([str(model), "--host", "192.0.2.1", "--port", "0"]) == 2
    assert "192.0.2.1" in error_of(capsys)


def test_a_model_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), "--port", "0"]) == 2
    assert "nothing does not exist" in error_of(capsys)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "model"),
        (["m", "--port", "70000"], "--port"),
        (["m", "--queue", "0"], "--queue"),
        (["m", "--token", ""], "--token"),
        (["m", "--batch-size", "many"], "--batch-size"),
        (["m", "--nonsense"], "nonsense"),
    ],
)
def test_wrong_options(capsys, arguments, part):
    assert main(arguments) == 2
    assert part in error_of(capsys)


def test_missing_packages(model, capsys, monkeypatch):
    monkeypatch.setattr(command, "_PACKAGES", ("json", "no_such_package"))
    assert main([str(model), "--port", "0"]) == 2
    said = error_of(capsys)
    assert "no_such_package" in said and "grad-anomaly[serve]" in said and "json," not in said


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in ServeSettings.__dataclass_fields__:
        if name not in ("head_timeout_s", "read_timeout_s", "idle_timeout_s"):
            assert "--" + name.replace("_", "-") in text


def test_the_token_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("GRAD_TOKEN", "from there")
    assert ServeOptions(["m"]).settings().token == "from there"
    assert ServeOptions(["m"], token="here").settings().token == "here"


def test_answers_are_sent_at_once():
    with bind(ServeSettings(port=0)) as listener:
        socket.create_connection(listener.getsockname()).close()
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_who_serves_everybody_is_warned():
    def said(**settings):
        text = io.StringIO()
        chosen = ServeSettings(port=0, **settings)
        with bind(chosen) as listener:
            announce(chosen, listener, Console(file=text, width=80))
            assert url(listener) in text.getvalue()
        return text.getvalue()

    assert "Everybody" not in said()
    assert "Everybody" not in said(host="0.0.0.0", token="x")
    assert "Everybody" in said(host="0.0.0.0")


# ---- a real process -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(model):
    """``python -m grad.serve`` in float32, which the tests below share; the last one ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with bench_serve.serving(model, "--device", "cpu", "--precision", "float32") as running:
            yield running


def test_many_clients_and_broken_files(model, server):
    """200 requests from 16 clients; benchmarks/bench_serve.py sends 1,000."""
    detector = Detector.load(model, device="cpu", precision="float32")
    cases = bench_serve.make_cases(detector, sorted(DEMO_FOLDER.glob("*/test/*/*"))[::2])
    assert len({case.status for case in cases}) == 4
    assert {case.anomalous for case in cases} == {True, False, None}
    result = bench_serve.measure(server, cases, 200, 16, bench_serve.SAME["float32"])
    assert bench_serve.failures(result) == []
    assert result["answered"] + result["hung_up"] == 200 and result["hung_up"] > 0
    assert result["mean_batch"] > 1.2
    assert set(result["statuses"]) == {"200", "413", "422"}


def test_files_that_were_made_to_do_harm(model, server):
    """80 requests; benchmarks/bench_serve.py --hostile sends 1,000."""
    detector = Detector.load(model, device="cpu", precision="float32")
    images = sorted(DEMO_FOLDER.glob("*/test/*/*"))[:40]
    cases = bench_serve.make_cases(detector, images, bench_serve.hostile(images[0]), every=1)
    result = bench_serve.measure(server, cases, 80, 8, bench_serve.SAME["float32"])
    assert bench_serve.failures(result, bench_serve.HOSTILE_GROWTH_MB) == []
    assert set(result["statuses"]) == {"200", "413", "422"}


def test_a_small_queue_loses_nothing(model):
    """Clients that come back after 503 get their answers."""
    detector = Detector.load(model, device="cpu", precision="float32")
    cases = bench_serve.make_cases(detector, sorted(DEMO_FOLDER.glob("*/test/*/*"))[:7])
    with served(detector, queue=2) as address:
        there = urllib.parse.urlsplit(address)
        same = bench_serve.SAME["float32"]
        tally = bench_serve.load(
            bench_serve.Server(None, there.hostname, there.port), cases, 40, 8, same
        )
    assert tally.wrong == [] and tally.answered == 40 and tally.retried > 0


def test_what_was_accepted_is_answered_at_the_end(server):
    data = encoded(spot((640, 480)))
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data[:100])
    while "grad_queue_length 1.0" not in server.get("/metrics"):
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    while can_connect(server):
        time.sleep(0.01)
    connection.send(data[100:])
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["is_anomalous"] in (True, False)
    assert server.process.wait(60) == 0


def can_connect(server):
    try:
        socket.create_connection((server.host, server.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_https_and_a_line_for_each_request(model, tmp_path):
    make = shutil.which("openssl")
    if make is None:
        pytest.skip("no openssl on this machine, which makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = f"req -x509 -newkey rsa:2048 -nodes -days 1 -keyout {key} -out {certificate}"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([make, *request.split(), *name], check=True, capture_output=True)
    command = [sys.executable, "-m", "grad.serve", str(model), "--port", "0", "--access-log"]
    files = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with subprocess.Popen(
        [*command, *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address = re.search(r"https://\S+", process.stdout.readline())[0]
        trusted = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"{address}health", context=trusted) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.fullmatch(r"\S+ \S+ 127\.0\.0\.1:\d+ GET /health HTTP/1\.1 200 OK\n", errors)


def test_several_models_that_are_taught(model, tmp_path):
    """As started from a shell; the file of one changes, that of the other does not."""
    files = [shutil.copytree(model.parent, tmp_path / name) / model.name for name in ("a", "b")]
    command = [sys.executable, "-m", "grad.serve", *(f"{f.parent.name}={f}" for f in files)]
    options = ["--port", "0", "--feedback", str(tmp_path / "said")]
    environment = os.environ | {"GRAD_TOKEN": "sesame"}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        address = re.search(r"http://\S+", process.stdout.readline())[0]

        def ask(path, data=None):
            headers = {"Authorization": "Bearer sesame", "Content-Type": "image/png"}
            request = urllib.request.Request(f"{address}{path}", data, headers)
            return json.load(urllib.request.urlopen(request))

        assert [one["name"] for one in ask("models")] == ["a", "b"]
        kept = ask("a/feedback?said=good", encoded(spot()))
        assert (tmp_path / "said/a" / kept["file"]).is_file()
        assert ask("b/feedback")["classes"] == {}
        moved = ask("b/threshold?image=1e3", b"")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert files[0].read_bytes() == model.read_bytes() != files[1].read_bytes()
    found = Detector.load(files[1], device="cpu")
    assert found.calibration.threshold("demo").image == 1e3
    assert found.origin.version == moved["model_version"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ssl-certfile", "none.pem"], "--ssl-certfile none.pem is no file"),
        (["--ssl-certfile", "text.pem"], "--ssl-certfile text.pem can't be used"),
        (["--ssl-keyfile", "text.pem"], "--ssl-keyfile needs --ssl-certfile"),
    ],
)
def test_certificates_that_are_none(model, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pem").write_text("no certificate")
    assert main([str(model), "--port", "0", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1
