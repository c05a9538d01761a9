"""A webhook: answers posted to an address as they come, signed, and tried again where it fails."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import queue
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from grad.system.errors import GradError
from grad.system.version import __version__

SECRET_VARIABLE = "GRAD_WEBHOOK_SECRET"
_WAITING = 1000  # answers at most that wait to be sent
_DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try
_TIMEOUT = 10.0  # seconds that an answer to a try may take
_LAST = 30.0  # seconds at the end for what still waits
_AGAIN = (408, 425, 429)  # refusals that time may heal, beside the failures from 500 on


def check_webhook(url: str) -> None:
    """Refuse what answers can't be posted to.

    Raises:
        GradError: it is no http or https address, or has a password in it.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not url.isascii() or not url.isprintable() or " " in url:
        raise GradError(f"--webhook {url} is no address: give http://... or https://....")
    if parts.username is not None or parts.password is not None:
        raise GradError(
            "--webhook has a name or a password in it, which the list of processes shows: leave "
            f"it out; {SECRET_VARIABLE} in the environment signs what is sent."
        )


class Webhook:
    """Posts answers as JSON, in the order in which they come, from a thread of its own.

    What the other side does not take is tried again after 1, 2, 4 and 8 seconds and then left out,
    as is what comes while too many wait: judging never waits for it. With a secret in the
    environment (:data:`SECRET_VARIABLE`) the header ``X-GRAD-Signature`` is ``sha256=`` and the
    HMAC-SHA256 of the body in hexadecimal digits. ``X-GRAD-Delivery`` is the same in each try.

    Args:
        url: http or https; redirections are not followed.
        say: shows a sentence to people, from that thread too.

    Raises:
        GradError: as :func:`check_webhook`.
    """

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        check_webhook(url)
        self._url, self._say = url, say
        self._secret = os.environ.get(SECRET_VARIABLE, "").encode()
        self._opener = urllib.request.build_opener(_NoRedirection())
        self._queue: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._closing, self._cut = threading.Event(), threading.Event()
        self._failing = False
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="grad-webhook", daemon=True)

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join(_LAST)
        if self._thread.is_alive():
            self._cut.set()
            self._thread.join(_TIMEOUT)
        self._lost += self._queue.qsize()
        if self._lost:
            answers = "1 answer" if self._lost == 1 else f"{self._lost} answers"
            self._say(f"{answers} did not reach the webhook at {self._where}.")

    def send(self, answer: dict[str, Any]) -> None:
        """Have an answer posted; returns at once."""
        try:
            self._queue.put_nowait(json.dumps(answer).encode())
        except queue.Full:
            self._lost += 1
            self._fail("it is slower than answers come")

    @property
    def _where(self) -> str:
        """Where it is; the rest of an address may be a secret."""
        return urlsplit(self._url).netloc

    def _work(self) -> None:
        while not self._cut.is_set():
            try:
                body = self._queue.get(timeout=0.1)
            except queue.Empty:
                if self._closing.is_set():
                    return
                continue
            reason = self._delivered(body)
            if reason is None:
                self._failing = False
            else:
                self._lost += 1
                self._fail(reason)

    def _fail(self, reason: str) -> None:
        """Say so once, until an answer has been taken again."""
        if not self._failing:
            self._failing = True
            self._say(f"The webhook at {self._where} does not take answers: {reason}.")

    def _delivered(self, body: bytes) -> str | None:
        """Post a body, in several tries where need be; why it was not taken, None where it was."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"grad/{__version__}",
            "X-GRAD-Delivery": uuid.uuid4().hex,
        }
        if self._secret:
            signature = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers["X-GRAD-Signature"] = f"sha256={signature}"
        reason, again = self._try(body, headers)
        for delay in _DELAYS:
            if reason is None or not again or self._cut.wait(delay):
                break
            reason, again = self._try(body, headers)
        return reason

    def _try(self, body: bytes, headers: dict[str, str]) -> tuple[str | None, bool]:
        """Post a body once; why it was not taken, and whether another try may help."""
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=_TIMEOUT):
                return None, False
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answers {error.code}", error.code in _AGAIN or error.code >= 500
        except urllib.error.URLError as error:
            return f"it can't be reached ({error.reason})", True
        except (OSError, http.client.HTTPException) as error:
            return f"the connection broke ({error or type(error).__name__})", True


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, elsewhere."""

    def redirect_request(self, *arguments: Any) -> None:
        """None: the redirection is an answer like others."""
