"""A `facestream up` in a process of its own, to be measured, tested and killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
START_S = 60.0
STOP_S = 60.0


class Serving:
    """`start`, then requests to `url`; `kill` is kill -9, `stop` is SIGTERM and waiting. As a context manager it starts and
    stops.
    """

    def __init__(self, data: Path, weights: Path, **settings: str) -> None:
        """settings: FACESTREAM_<NAME> by lower-case name."""
        self.data = data
        self.log_file = data.parent / f"{data.name}.log"
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
        self._environment |= {f"FACESTREAM_{name.upper()}": value for name, value in settings.items()}
        self._environment |= {"FACESTREAM_DATA": str(data), "FACESTREAM_WEIGHTS": str(weights)}
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Returns when the service says it is ready. Raises RuntimeError with its last words when it ends instead."""
        if "FACESTREAM_LISTEN" not in self._environment:
            self._environment["FACESTREAM_LISTEN"] = f"127.0.0.1:{_free_port()}"
        self.url = f"http://{self._environment['FACESTREAM_LISTEN']}"
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "ab") as log:
            command = [sys.executable, "-m", "facestream.cli", "up"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"facestream up did not get ready:\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log(self) -> str:
        return self.log_file.read_text()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
