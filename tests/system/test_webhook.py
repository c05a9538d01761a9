"""Answers posted to an address: signed, tried again, and never waited for."""

import hashlib
import hmac
import json
import socket
import time

import pytest
from helpers.webhook import receiver

from grad.system import webhook
from grad.system.errors import GradError
from grad.system.webhook import SECRET_VARIABLE, Webhook, check_webhook


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(webhook, "_DELAYS", (0.01, 0.01, 0.01, 0.01))
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def send(url, *answers):
    """Post answers; returns what people were told."""
    said = []
    with Webhook(url, said.append) as hook:
        for answer in answers:
            hook.send(answer)
    return said


def test_answers_arrive_in_order_and_signed(monkeypatch):
    monkeypatch.setenv(SECRET_VARIABLE, "sésame")
    with receiver() as found:
        assert send(found.url, *({"name": f"{i}.png", "score": i / 3} for i in range(5))) == []
    assert [json.loads(body)["name"] for body in found.bodies] == [f"{i}.png" for i in range(5)]
    assert json.loads(found.bodies[1])["score"] == 1 / 3, "all digits"
    for body, headers in zip(found.bodies, found.headers, strict=True):
        made = hmac.new("sésame".encode(), body, hashlib.sha256).hexdigest()
        assert headers["X-Grad-Signature"] == f"sha256={made}"
        assert headers["Content-Type"] == "application/json"
    assert len({headers["X-Grad-Delivery"] for headers in found.headers}) == 5
    assert set(found.paths) == {"/hook?line=1"}


def test_without_a_secret_there_is_no_signature():
    with receiver() as found:
        send(found.url, {})
    assert "X-Grad-Signature" not in found.headers[0]


def test_what_fails_is_tried_again_as_the_same_delivery():
    with receiver(500, 503, 429) as found:
        assert send(found.url, {"a": 1}, {"a": 2}) == []
    assert [json.loads(body)["a"] for body in found.bodies] == [1, 1, 1, 1, 2]
    ids = [headers["X-Grad-Delivery"] for headers in found.headers]
    assert len(set(ids[:4])) == 1 and ids[4] not in ids[:4]


@pytest.mark.parametrize("status", [400, 404, 301, 307])
def test_what_time_does_not_heal_is_not_tried_again(status):
    with receiver(status) as found:
        said = send(found.url, {"a": 1}, {"a": 2})
    assert [json.loads(body)["a"] for body in found.bodies] == [1, 2]
    assert f"it answers {status}" in said[0] and said[1].startswith("1 answer did not reach")


def test_a_failure_is_said_once_until_it_is_over():
    with receiver(*[404] * 3, 200, 404) as found:
        said = send(found.url, *({} for _ in range(6)))
    assert len(said) == 3 and "404" in said[0] and "404" in said[1]
    assert said[2].startswith("4 answers did not reach the webhook at 127.0.0.1:")
    assert "line=1" not in "".join(said), "the rest of the address may be a secret"


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        said = send(f"http://127.0.0.1:{free.getsockname()[1]}/", {})
    assert "can't be reached (" in said[0] and len(said) == 2


def test_a_receiver_that_hangs_delays_neither_answers_nor_the_end(monkeypatch):
    monkeypatch.setattr(webhook, "_WAITING", 3)
    monkeypatch.setattr(webhook, "_LAST", 0.2)
    monkeypatch.setattr(webhook, "_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        said = send(f"http://127.0.0.1:{silent.getsockname()[1]}/", *({} for _ in range(100)))
        assert time.monotonic() - start < 5
    assert "slower than answers come" in said[0] and said[-1].startswith("100 answers did not")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/", "is no address"),
        ("file:///etc/passwd", "is no address"),
        ("example.org/hook", "is no address"),
        ("http:///hook", "is no address"),
        ("http://example.org:70000/", "is no address"),
        ("http://exa mple.org/", "is no address"),
        ("https://user:word@example.org/", "has a name or a password in it"),
    ],
)
def test_what_is_no_address(url, words):
    with pytest.raises(GradError, match=words):
        check_webhook(url)
