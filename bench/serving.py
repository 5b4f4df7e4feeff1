"""Runs `facestream up`, or one role, in a separate process: to be measured, tested and killed."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from schemas.errors import FacestreamError

MODULE = "facestream.cli"
START_S, STOP_S = 120.0, 60.0


class ServiceFailed(FacestreamError):
    code = "service_failed"


class Serving:
    """A service process. `kill` sends SIGKILL, `stop` sends SIGTERM. As a context manager it starts and stops."""

    def __init__(
        self,
        data: Path,
        weights: Path,
        *,
        command: Sequence[str] = ("up",),
        name: str = "",
        module: str = MODULE,
        **settings: str,
    ) -> None:
        """command: `up` or a role, with its flags. name: the name of the log file next to the data folder, if several
        processes share the folder. module: a module to run instead of the command line. settings: FACESTREAM_<NAME> by
        lower-case name; without `listen` (`watch` for a role without HTTP service) it listens on a free port of
        loopback.
        """
        self.data = data
        self.name = name or data.name
        self.log_file = data.parent / f"{self.name}.log"
        self._command = [sys.executable, "-m", module, *command]
        self.code: Path | None = None  # the checkout whose code runs: python -m looks there first
        address = "listen" if command[:1] in (("up",), ("ingest",)) else "watch"
        settings = {"data": str(data), "weights": str(weights), address: f"127.0.0.1:{free_port()}"} | settings
        self.url = f"http://{settings[address].replace('0.0.0.0', '127.0.0.1')}"  # noqa: S104 - where it is asked for
        others = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
        self._environment = others | {f"FACESTREAM_{name.upper()}": value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Starts the service and waits until it is ready. Raises ServiceFailed with the end of its log if it ends
        before that.
        """
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self.code,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServiceFailed(f"{self.name} did not become ready:\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kills the service with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Stops the service with SIGTERM. Returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self.log_file.read_text()

    def rss(self) -> int:
        """Resident bytes of the service and its children. Shared memory is counted once, for the service."""
        total: int = self.process.memory_info().rss
        for child in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                memory = child.memory_info()
                total += memory.rss - memory.shared
        return total

    def cpu_s(self) -> float:
        """Seconds of CPU that the service and its children have used."""
        total = 0.0
        for each in [self.process, *self.process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A free port below the range for outgoing connections: one of these could take the port before it is used."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
