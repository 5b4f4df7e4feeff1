"""Processes that outlive the one that started them, identified by their pid and start time."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class ServiceFailed(Exception):
    """A server, or a program that it needs, failed. The message has the end of its output."""


@dataclass(frozen=True, slots=True)
class Process:
    """A program that was started here: its pid, and its start time from the system."""

    pid: int
    started: str

    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def send(self, what: signal.Signals) -> None:
        if self.alive():
            os.kill(self.pid, what)

    def pause(self) -> None:
        """Stops the process with SIGSTOP and waits until each of its threads has stopped, which takes a moment."""
        self.send(signal.SIGSTOP)
        until = time.monotonic() + 30
        while self.alive() and not _all_threads_are_stopped(self.pid) and time.monotonic() < until:
            time.sleep(0.01)

    def end(self, *, patience: float) -> None:
        """Ends the process with SIGTERM, or after `patience` seconds with SIGKILL, and waits until it has ended."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a paused process does not handle SIGTERM
        if not self._gone_within(patience):
            self.kill()

    def kill(self) -> None:
        """Ends the process with SIGKILL and waits until it has ended."""
        self.send(signal.SIGKILL)
        if not self._gone_within(30):
            raise ServiceFailed(f"process {self.pid} does not end")

    def _gone_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def spawn(command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> Process:
    """Starts a program in its own session and in `folder`; its output is appended to the file `log` there."""
    # The shell ends at once, so that the program is not a child of this process and need not be waited for.
    script = '"$@" </dev/null >>"$0" 2>&1 & echo $!'
    shell = subprocess.run(
        ["/bin/sh", "-c", script, str(folder / "log"), *command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
        text=True,
    )
    pid = int(shell.stdout)
    return Process(pid, _started(pid) or "gone at once")


def _started(pid: int) -> str | None:
    """The start time of a process, which distinguishes it from others with the same pid; None if it is not running."""
    if Path("/proc/self/stat").exists():
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state == "Z" else rest[18]
    told = subprocess.run(["ps", "-p", str(pid), "-o", "stat=,lstart="], capture_output=True, text=True).stdout.strip()  # noqa: S607
    return None if not told or told.startswith("Z") else told.partition(" ")[2].strip()


def _all_threads_are_stopped(pid: int) -> bool:
    try:
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        return False
    return all(state == "T" for state in states)
