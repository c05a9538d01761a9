"""The server under load: many requests from many clients, broken files among them.

    python benchmarks/bench_serve.py MODEL [--requests 1000] [--clients 16] [--json FILE]

Starts ``python -m grad.serve MODEL`` on a free port of this machine, sends the demo images and
variants of them that are wrong, and compares every answer with what the detector says in this
process. Exit code 1 where an answer is missing or wrong, or the memory grows.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.facts import machine_facts, write_json
from PIL import Image

from grad.data.demo import DEMO_FOLDER
from grad.detector.detector import Detector
from grad.system.errors import GradError

UPLOAD_MB = 4  # the server's limit
GROWTH_MB = 64  # that the server's memory may grow between warm-up and end
WARM_UP = 0.2  # share of the requests
SAME = {"float32": 1e-4, "bfloat16": 3e-2}  # relative difference of scores alone and in a batch
START_SECONDS = 300
REQUEST_SECONDS = 300


@dataclass(frozen=True)
class Case:
    """A file to send, and what must come back; without a status, the client hangs up on the way."""

    name: str
    data: bytes
    status: int | None = 200
    score: float | None = None
    anomalous: bool | None = None
    threshold: float | None = None


@dataclass
class Tally:
    """What came back."""

    answered: int = 0
    hung_up: int = 0
    retried: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    largest_difference: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server:
    """A server, where it is and, where it is one of its own, its process."""

    def __init__(self, process: subprocess.Popen[str] | None, host: str, port: int) -> None:
        self.process, self.host, self.port = process, host, port

    def megabytes(self) -> float:
        """Resident memory."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) / 1024

    def get(self, path: str) -> str:
        """The body at a path."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=REQUEST_SECONDS)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text


@contextmanager
def serving(model: Path, *options: str) -> Iterator[Server]:
    """A server on a free port; ends it as a person would, and checks that it ends well."""
    command = [sys.executable, "-m", "grad.serve", str(model), "--port", "0", *options]
    command += ["--max-upload-mb", str(UPLOAD_MB)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://([\d.]+):(\d+)/", line)
            if found is None:
                raise GradError(f"The server did not start: {line or 'it printed nothing'}.")
            yield Server(process, found[1], int(found[2]))
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(START_SECONDS)
    if code != 0:
        raise GradError(f"The server ended with exit code {code}.")


def make_cases(detector: Detector, images: Sequence[Path]) -> list[Case]:
    """The images and what the detector says of them; after every eighth, a broken one."""
    cases: list[Case] = []
    broken = itertools.cycle(_broken(images[0]))
    for number, path in enumerate(images, 1):
        result = detector.predict(path)
        cases.append(
            Case(
                path.name,
                path.read_bytes(),
                200,
                result.score,
                result.is_anomalous,
                result.threshold,
            )
        )
        if number % 8 == 0:
            cases.append(next(broken))
    return cases


def _broken(image: Path) -> list[Case]:
    data = image.read_bytes()
    huge = io.BytesIO()
    Image.new("1", (8000, 8000)).save(huge, "PNG")
    return [
        Case("truncated", data[: len(data) // 2], 422),
        Case("empty", b"", 422),
        Case("text", b"This is no image. " * 500, 422),
        Case("too many pixels", huge.getvalue(), 413),
        Case("too many bytes", bytes(round(1.1e6 * UPLOAD_MB)), 413),
        Case("hung up", data, None),
    ]


def load(server: Server, cases: Sequence[Case], requests: int, clients: int, same: float) -> Tally:
    """Send cases in turn from several threads, each with a connection of its own."""
    tally = Tally()
    numbers = itertools.count()
    threads = [
        threading.Thread(target=_client, args=(server, cases, numbers, requests, tally, same))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _client(
    server: Server,
    cases: Sequence[Case],
    numbers: Iterator[int],
    requests: int,
    tally: Tally,
    same: float,
) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=REQUEST_SECONDS)
    for number in numbers:
        if number >= requests:
            break
        case = cases[number % len(cases)]
        try:
            _send(connection, case, tally, same)
        except Exception as error:  # a lost answer is what is looked for
            with tally.lock:
                tally.wrong.append(f"{case.name}: {type(error).__name__} {error}")
            connection.close()
    connection.close()


def _send(connection: http.client.HTTPConnection, case: Case, tally: Tally, same: float) -> None:
    if case.status is None:
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(case.data)))
        connection.endheaders(case.data[: len(case.data) // 2])
        connection.close()
        with tally.lock:
            tally.hung_up += 1
        return
    while True:
        start = time.perf_counter()
        connection.request("POST", "/predict", case.data, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        seconds = time.perf_counter() - start
        if response.status != 503:
            break
        with tally.lock:
            tally.retried += 1
        time.sleep(float(response.headers["Retry-After"]))
    _compare(case, response.status, answer, seconds, tally, same)


def _compare(
    case: Case, status: int, answer: dict[str, Any], seconds: float, tally: Tally, same: float
) -> None:
    difference = 0.0
    problem = "" if status == case.status else f"status {status}, not {case.status}: {answer}"
    if status == case.status == 200 and case.score is not None:
        difference = abs(answer["score"] - case.score) / max(abs(case.score), 1e-12)
        on_the_edge = case.threshold is not None and abs(case.score - case.threshold) <= same * abs(
            case.score
        )
        if difference > same:
            problem = f"score {answer['score']}, not {case.score}"
        elif answer["is_anomalous"] != case.anomalous and not on_the_edge:
            problem = f"verdict {answer['is_anomalous']}, not {case.anomalous}"
    elif status != 200 and not str(answer.get("detail", "")).endswith("."):
        problem = f"no sentence: {answer}"
    with tally.lock:
        tally.answered += 1
        tally.statuses[status] += 1
        tally.largest_difference = max(tally.largest_difference, difference)
        if status == 200:
            tally.seconds.append(seconds)
        if problem:
            tally.wrong.append(f"{case.name}: {problem}")


def measure(
    server: Server, cases: Sequence[Case], requests: int, clients: int, same: float
) -> dict[str, Any]:
    """Warm up, then load; times and memory are those after the warm-up."""
    first = max(len(cases), round(WARM_UP * requests))
    warm_up = load(server, cases, first, clients, same)
    before = server.megabytes()
    start = time.perf_counter()
    tally = load(server, cases, requests, clients, same)
    seconds = time.perf_counter() - start
    cuts = statistics.quantiles(tally.seconds, n=100, method="inclusive")
    return {
        "requests": requests,
        "clients": clients,
        "warm_up_requests": first,
        "answered": tally.answered,
        "hung_up": tally.hung_up,
        "lost": requests - tally.answered - tally.hung_up,
        "wrong": warm_up.wrong + tally.wrong,
        "retried_after_503": tally.retried,
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "largest_relative_difference": max(tally.largest_difference, warm_up.largest_difference),
        "requests_per_second": tally.answered / seconds,
        "latency_ms": {f"p{n}": 1e3 * cuts[n - 1] for n in (50, 95, 99)},
        "memory_mb": {"after_warm_up": before, "at_the_end": server.megabytes()},
        "mean_batch": _mean_batch(server.get("/metrics")),
    }


def _mean_batch(exposition: str) -> float:
    values = dict(re.findall(r"^grad_batch_images_(sum|count) (\S+)$", exposition, re.MULTILINE))
    return float(values["sum"]) / float(values["count"])


def failures(result: dict[str, Any]) -> list[str]:
    """What is not as it should be, a sentence each."""
    memory = result["memory_mb"]
    growth = memory["at_the_end"] - memory["after_warm_up"]
    found = [f"{text}." for text in result["wrong"][:20]]
    if result["lost"]:
        found.append(f"{result['lost']} requests have no answer.")
    if growth > GROWTH_MB:
        found.append(f"Memory grew by {growth:.0f} MB, more than {GROWTH_MB} MB.")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file or run folder")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--precision", choices=SAME, default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    given = parser.parse_args(arguments)
    options = ("--precision", given.precision, "--device", given.device)
    try:
        detector = Detector.load(given.model, device=given.device, precision=given.precision)
        cases = make_cases(detector, sorted(DEMO_FOLDER.glob("*/test/*/*")))
        with serving(given.model, *options) as server:
            result = measure(server, cases, given.requests, given.clients, SAME[given.precision])
    except GradError as error:
        print(error, file=sys.stderr)
        return 2
    result |= {"precision": given.precision, "detector_cores": torch.get_num_threads()}
    result |= machine_facts(torch.device("cpu"))
    print(json.dumps(result, indent=2))
    if given.json is not None:
        write_json(given.json, [result])
    found = failures(result)
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0
