"""Several models in one server, each at a path of its own."""

import re

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from helpers.browser import PHONE, watched_page
from helpers.serving import FakeDetector, encoded, grey, served
from helpers.webhook import receiver

from grad.detector.checkpoint import Origin
from grad.serve.app import create_app
from grad.serve.inspector import Inspector
from grad.serve.options import ServeOptions
from grad.serve.settings import ServeSettings
from grad.serve.site import create_site
from grad.system.errors import GradError
from grad.system.webhook import Webhook


def detectors():
    """One of two classes and one, twice as sensitive, of a single class without thresholds."""
    nuts = FakeDetector(calibration=None, classes=("nut",))
    nuts.factor, nuts.origin = 20.0, Origin("nuts-run", "ba9876543210")
    return {"food": FakeDetector(), "nuts.v2": nuts}


@pytest.fixture
def client():
    with _client() as client:
        yield client


def _client(**settings):
    chosen = ServeSettings(**settings)
    apps = {name: create_app(Inspector(one, chosen)) for name, one in detectors().items()}
    return TestClient(create_site(apps, chosen), base_url="http://localhost")


def post(client, path, value=51, **options):
    return client.post(path, content=encoded(grey(value)), **options)


def test_each_model_answers_at_its_own_path(client):
    assert post(client, "/food/predict").json()["score"] == pytest.approx(2.0)
    nuts = post(client, "/nuts.v2/predict").json()
    assert nuts["score"] == pytest.approx(4.0) and nuts["model"] == "nuts-run"
    assert client.get("/food/info").json()["classes"] == ["cookie", "pcb"]
    assert client.get("/nuts.v2/info").json()["classes"] == ["nut"]
    assert (
        'grad_requests_total{path="/predict",status="200"} 1.0' in client.get("/food/metrics").text
    )
    assert client.get("/food/openapi.json").json()["servers"] == [{"url": "/food"}]
    for path in ("/predict", "/info", "/steel/predict"):
        assert client.get(path).status_code == 404


def test_the_start_page_lists_them(client):
    assert "Choose a model" in client.get("/").text
    found = client.get("/models").json()
    assert [(one["name"], one["model"], one["classes"]) for one in found] == [
        ("food", "fake", ["cookie", "pcb"]),
        ("nuts.v2", "nuts-run", ["nut"]),
    ]
    assert client.get("/health").json()["status"] == "ok"
    answer = client.get("/food", follow_redirects=False)
    assert answer.headers["location"] == "food/"
    for path in ("/food/", "/food/page/app.js", "/food/docs", "/page/models.js", "/favicon.ico"):
        answer = client.get(path)
        assert answer.status_code == 200 and "Content-Security-Policy" in answer.headers


def test_a_token_guards_all_of_them():
    with _client(token="sesame") as client:
        for path in ("/", "/health", "/food/", "/food/health", "/food/page/app.js"):
            assert client.get(path).status_code == 200, path
        for path in ("/models", "/food/info", "/food/metrics", "/nuts.v2/info", "/food/docs"):
            assert client.get(path).status_code == 401, path
            allowed = {"Authorization": "Bearer sesame"}
            assert client.get(path, headers=allowed).status_code == 200, path
        assert post(client, "/nuts.v2/predict").status_code == 401


def test_a_foreign_page_may_use_none_of_them(client):
    headers = {"Origin": "https://example.org"}
    assert post(client, "/food/predict", headers=headers).status_code == 403
    assert client.get("/food/info", headers={"Host": "example.org"}).status_code == 400
    assert client.get("/models", headers={"Host": "example.org"}).status_code == 400


@pytest.mark.parametrize("options", [{}, PHONE])
def test_the_pages_in_a_browser(browser, options):
    with (
        served(detectors(), token="sesame") as url,
        watched_page(browser, allowed=(url, "blob:", "data:"), **options) as page,
    ):
        page.set_default_timeout(20_000)
        page.add_init_script("sessionStorage.setItem('grad-token', 'sesame')")
        page.goto(url)
        page.locator(".models .card").nth(1).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("text=food")
        page.locator("#model", has_text="cookie, pcb").wait_for()
        choose = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(grey(230))}
        page.set_input_files("#files", [choose])
        page.locator("#word", has_text=re.compile("^Anomalous$")).wait_for()
        page.goto(f"{url}nuts.v2/")
        page.locator("#model", has_text="nut").wait_for()
        assert page.locator(".entry").count() == 0, "each has a history of its own"


def test_answers_are_posted_without_their_pictures():
    with receiver() as found, Webhook(found.url, print) as hook:
        inspector = Inspector(FakeDetector(), ServeSettings(), hook)
        with TestClient(
            create_site({"a": create_app(inspector)}, ServeSettings()), "http://localhost"
        ) as client:
            answer = post(client, "/a/predict?overlay=true").json()
            assert post(client, "/a/predict?class_name=no").status_code == 422
    (body,) = found.bodies
    assert b"overlay" not in body and str(answer["score"]).encode() in body


@pytest.mark.parametrize(
    ("models", "found"),
    [
        (["runs/a"], {"": "runs/a"}),
        (["a=runs/a"], {"a": "runs/a"}),
        (["a=runs/a", "b.2=b=c"], {"a": "runs/a", "b.2": "b=c"}),
        (["runs/rate=3"], {"": "runs/rate=3"}),
    ],
)
def test_names_of_models(models, found):
    named = ServeOptions(models).named_models()
    assert {name: str(path) for name, path in named.items()} == found


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["runs/a", "runs/b"], "give NAME=runs/a"),
        (["a=runs/a", "runs/b"], "give NAME=runs/b"),
        (["a=x", "a=y"], "Two models are called a"),
        (["page=x", "b=y"], "'page' can't be the name"),
        (["a b=x"], "'a b' can't be the name"),
        (["..=x"], "'..' can't be the name"),
    ],
)
def test_names_that_are_refused(models, words):
    with pytest.raises(GradError, match=re.escape(words)):
        ServeOptions(models)
