"""The server under load: many requests from many clients, broken files among them.

    python benchmarks/bench_serve.py MODEL [--requests 1000] [--clients 16] [--json FILE]
    python benchmarks/bench_serve.py MODEL --hostile

Starts ``python -m grad.serve MODEL`` on a free port of this machine, sends the demo images and
variants of them that are wrong, and compares every answer with what the detector says in this
process. With ``--hostile`` every third file is one that was made to do harm: images of many pixels
in few bytes, of endless scans, of values that are none, random damage. Exit code 1 where an answer
is missing or wrong, or the memory grows.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import random
import re
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.facts import machine_facts, write_json
from PIL import Image

from grad.data.demo import DEMO_FOLDER
from grad.detector.detector import Detector
from grad.system.errors import GradError

UPLOAD_MB = 4  # the server's limit
GROWTH_MB = 64  # that the server's memory may grow between warm-up and end
HOSTILE_GROWTH_MB = 512  # the same where decoders meet with their largest images at once
WARM_UP = 0.2  # share of the requests
SAME = {"float32": 1e-4, "bfloat16": 3e-2}  # relative difference of scores alone and in a batch
START_SECONDS = 300
REQUEST_SECONDS = 300


@dataclass(frozen=True)
class Case:
    """A file to send, and what must come back; without a status, the client hangs up on the way.

    Of a file that has no score here, an answer with a score will do too where ``status`` is 0, and
    so will a refusal.
    """

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

    def megabytes(self, what: str = "VmRSS") -> float:
        """Resident memory; ``"VmHWM"``: the most there was."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{what}:\s+(\d+) kB", text)
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


def make_cases(
    detector: Detector, images: Sequence[Path], broken: Sequence[Case] = (), every: int = 8
) -> list[Case]:
    """The images and what the detector says of them; after every eighth, a broken one.

    Args:
        detector: says what is right.
        images: good files.
        broken: the others; none given: made from the first image.
        every: good files before each of them.
    """
    cases: list[Case] = []
    others = itertools.cycle(broken or _broken(images[0]))
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
        if number % every == 0:
            cases.append(next(others))
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


def hostile(image: Path, seed: int = 0) -> list[Case]:
    """Files that were made to do harm; some can be judged, and then have some score."""
    rng, data = random.Random(seed), image.read_bytes()
    picture = Image.open(image).convert("RGB")

    def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, format, **options)
        return file.getvalue()

    def values(value: float, kind: str) -> bytes:
        return encoded(Image.fromarray(np.full((64, 64), value, kind)), "TIFF")

    def claiming(side: int) -> bytes:
        """A PNG whose header says that it is larger than it is."""
        whole = encoded(picture, "PNG")
        head = b"IHDR" + struct.pack(">II", side, side) + whole[24:29]
        return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]

    def commented(size: int) -> bytes:
        """A PNG with a text that is short when compressed."""
        whole = encoded(picture, "PNG")
        text = b"zTXtx\0\0" + zlib.compress(bytes(size), 9)
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        return whole[:33] + chunk + whole[33:]

    scanned = encoded(picture.resize((16, 16)), "JPEG", progressive=True)
    at = scanned.rindex(b"\xff\xda")
    endless = scanned[:at] + 20_000 * scanned[at:-2] + b"\xff\xd9"
    frames = [Image.new("L", (500, 500), i) for i in range(100)]
    cases = [
        Case("1 x 3,000,000", encoded(Image.new("L", (1, 3_000_000)), "PNG"), 0),
        Case("3,000,000 x 1", encoded(Image.new("L", (3_000_000, 1)), "PNG"), 0),
        Case("49 million pixels", encoded(Image.new("1", (7000, 7000)), "PNG"), 0),
        Case("64 million pixels", encoded(Image.new("1", (8000, 8000)), "PNG"), 413),
        Case("claims 2 thousand million pixels", claiming(45_000), 413),
        Case("claims a little more", claiming(3000), 422),
        Case("20,000 scans", endless, 422),
        Case("a text of 500 MB", commented(500_000_000), 0),
        Case("NaN", values(float("nan"), "f4"), 422),
        Case("infinite", values(float("inf"), "f4"), 422),
        Case("1e38", values(1e38, "f4"), 422),
        Case("32-bit integers", values(2e9, "i4"), 422),
        Case("100 frames", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 0),
        Case("plain text as pixels", b"P3 5000 5000 255 " + b"9 " * 400_000, 422),
        Case("a page", b"<html><script>alert(1)</script></html>", 422),
        Case("zeros", bytes(100_000), 422),
        Case("empty", b"", 422),
    ]
    sources = {"JPEG": data} | {f: encoded(picture, f) for f in ("PNG", "WEBP", "TIFF", "BMP")}
    for name, whole in sources.items():
        for number in range(4):
            broken = bytearray(whole)
            for _ in range(8):
                place = rng.randrange(min(len(broken), rng.choice([64, 4096, len(broken)])))
                broken[place] = rng.randrange(256)
            cases.append(
                Case(f"damaged {name} {number}", bytes(broken[: 1_000_000 * UPLOAD_MB]), 0)
            )
    return cases


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
    fine = status == case.status or (case.status == 0 and status in (200, 413, 422))
    problem = "" if fine else f"status {status}, not {case.status}: {answer}"
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
        if status == 200 and case.score is not None:
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
        "memory_mb": {
            "after_warm_up": before,
            "at_the_end": server.megabytes(),
            "largest": server.megabytes("VmHWM"),
        },
        "mean_batch": _mean_batch(server.get("/metrics")),
    }


def _mean_batch(exposition: str) -> float:
    values = dict(re.findall(r"^grad_batch_images_(sum|count) (\S+)$", exposition, re.MULTILINE))
    return float(values["sum"]) / float(values["count"])


def failures(result: dict[str, Any], growth_mb: float = GROWTH_MB) -> list[str]:
    """What is not as it should be, a sentence each.

    Args:
        result: of :func:`measure`.
        growth_mb: that the server's memory may grow between warm-up and end.
    """
    memory = result["memory_mb"]
    growth = memory["at_the_end"] - memory["after_warm_up"]
    found = [f"{text}." for text in result["wrong"][:20]]
    if result["lost"]:
        found.append(f"{result['lost']} requests have no answer.")
    if growth > growth_mb:
        found.append(f"Memory grew by {growth:.0f} MB, more than {growth_mb} MB.")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file or run folder")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--precision", choices=SAME, default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--hostile", action="store_true", help="files made to do harm")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    given = parser.parse_args(arguments)
    options = ("--precision", given.precision, "--device", given.device)
    try:
        detector = Detector.load(given.model, device=given.device, precision=given.precision)
        images = sorted(DEMO_FOLDER.glob("*/test/*/*"))
        broken, every = (hostile(images[0]), 2) if given.hostile else ((), 8)
        cases = make_cases(detector, images, broken, every)
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
    found = failures(result, HOSTILE_GROWTH_MB if given.hostile else GROWTH_MB)
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0
