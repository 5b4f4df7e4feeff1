"""A `facestream up` of its own to be measured, and a client that is cheap: bodies made beforehand, connections kept alive.

What the client takes of the CPU is measured, as it is not the service's.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import psutil

from schemas.errors import FacestreamError

DIRECTORY = "bench"
START_S, STOP_S, ANSWER_S = 120.0, 60.0, 120.0
BOUNDARY = "facestream-bench-7c1f0b52"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Prefer": f"wait={ANSWER_S:.0f}"}


class ServiceFailed(FacestreamError):
    code = "service_failed"


class Serving:
    """A service on a free port with its data in a folder. As a context manager it starts and stops."""

    def __init__(self, data: Path, weights: Path, device: str, dtype: str) -> None:
        settings = {"LISTEN": "127.0.0.1:0", "DATA": str(data), "WEIGHTS": str(weights), "DEVICE": device, "DTYPE": dtype}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
        self._environment = environment | {f"FACESTREAM_{name}": value for name, value in settings.items()}
        self._log = data.with_suffix(".log")
        self.url = ""

    def __enter__(self) -> Self:
        with open(self._log, "wb") as log:
            command = [sys.executable, "-m", "facestream.cli", "up"]
            self._process = subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not (url := self._says()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise ServiceFailed(f"facestream up did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.05)
        self.url = url
        self._tree = psutil.Process(self._process.pid)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _says(self) -> str:
        """The URL, once the log has it."""
        for line in self._log.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == "serving":
                    return str(entry["url"])
        return ""

    def rss(self) -> int:
        """Bytes of memory of the service and its children; pages that they share count for each."""
        total = 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def cpu_s(self) -> float:
        """Seconds of CPU of the service and its children so far."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self._tree, *self._tree.children(recursive=True)]
        return []


@dataclass
class Load:
    """What a number of requests at one concurrency took."""

    concurrency: int
    latencies: list[tuple[str, float]] = field(default_factory=list)  # photo and seconds, of those that were answered
    faces: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    rss: list[tuple[int, int]] = field(default_factory=list)  # requests so far, bytes

    @property
    def count(self) -> int:
        return len(self.latencies)


def multipart(fields: dict[str, str], filename: str, data: bytes) -> bytes:
    """The body of an upload, for HEADERS."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return ("".join(parts) + file).encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


async def learn(url: str, people: dict[str, bytes]) -> None:
    """Raises ServiceFailed."""
    async with _session(url, 1) as session:
        for person, data in people.items():
            body = multipart({"directory": DIRECTORY, "person": person, "face": "largest"}, "portrait", data)
            async with session.post("/learn", data=body, headers=HEADERS) as response:
                if response.status not in (200, 201):
                    raise ServiceFailed(f"learning {person} was answered with {response.status}: {await response.text()}")


async def load(
    serving: Serving, photos: Sequence[tuple[str, bytes]], concurrency: int, done: Callable[[int], None], sample_every: int = 0
) -> Load:
    """Recognizes the photos in their order, `concurrency` at a time.

    done: is told of each that was answered. sample_every: requests between two looks at the memory, which take a few
    milliseconds each; 0 looks at the end only.
    """
    bodies = {name: multipart({"directory": DIRECTORY}, Path(name).name, data) for name, data in dict(photos).items()}
    measured, left = Load(concurrency), iter([name for name, _ in photos])
    answered = 0
    async with _session(serving.url, concurrency) as session:

        async def client() -> None:
            nonlocal answered
            for name in left:
                began = time.perf_counter()
                try:
                    async with session.post("/recognize", data=bodies[name], headers=HEADERS) as response:
                        status, answer = response.status, await response.read()
                except (aiohttp.ClientError, TimeoutError) as error:
                    measured.errors.append(f"{name}: {type(error).__name__} {error}")
                    continue
                seconds = time.perf_counter() - began
                if status == 200:
                    measured.latencies.append((name, seconds))
                    measured.faces += answer.count(b'"detection_score"')  # one a face; reading the JSON would cost more
                else:
                    measured.errors.append(f"{name}: {status} {answer[:200].decode(errors='replace')}")
                answered += 1
                if sample_every and answered % sample_every == 0:
                    measured.rss.append((answered, serving.rss()))
                done(1)

        cpu, server_cpu, began = time.process_time(), serving.cpu_s(), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        measured.seconds = time.perf_counter() - began
        measured.client_cpu_s, measured.server_cpu_s = time.process_time() - cpu, serving.cpu_s() - server_cpu
    measured.rss.append((answered, serving.rss()))
    return measured


def _session(url: str, concurrency: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        url, connector=aiohttp.TCPConnector(limit=concurrency), timeout=aiohttp.ClientTimeout(total=ANSWER_S)
    )
