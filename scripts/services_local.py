"""The three servers as processes of this machine, started from public packages."""

import shutil
import signal
from pathlib import Path

from scripts import services_packages as packages
from scripts import services_start
from scripts.services_process import Process, spawn
from scripts.services_state import State

STOP_S = 30.0  # how long a server may take to stop before it is killed: Cassandra takes 5 s


class LocalServers:
    """Starts and stops servers. `folder` is for their settings, data and logs, `cache` for the packages.

    It neither waits until a server serves, nor keeps other processes from doing the same.
    """

    def __init__(self, state_file: Path, folder: Path, cache: Path) -> None:
        self._file = state_file
        self._folder = folder
        self._cache = cache

    def prepare(self) -> None:
        """Downloads the packages that are missing. Raises MissingTools, ServiceFailed."""
        packages.get(self._cache)

    def alive(self, name: str) -> bool:
        """Whether the server is running, paused or not."""
        process = self._process(name)
        return process is not None and process.alive()

    def start(self, name: str) -> None:
        """Starts the server if it is not running, resumes it if it is paused."""
        if self.alive(name):
            self.resume(name)
            return
        state = self._state()
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        ports, cache = state.ports, self._cache
        match name:
            case "kafka":
                start = services_start.kafka(folder, cache, ports["kafka"], ports["controller"], state.cluster)
            case "cassandra":
                start = services_start.cassandra(folder, cache, ports["cassandra"], ports["storage"])
            case _:
                start = services_start.minio(folder, cache, ports["minio"], state.user, state.password, ports["kafka"])
        state.processes[name] = spawn(start.command, folder=folder, environment=start.environment)
        state.write(self._file)

    def stop(self, name: str) -> None:
        if process := self._process(name):
            process.end(patience=STOP_S)

    def kill(self, name: str) -> None:
        if process := self._process(name):
            process.kill()

    def pause(self, name: str) -> None:
        if process := self._process(name):
            process.pause()

    def resume(self, name: str) -> None:
        if process := self._process(name):
            process.send(signal.SIGCONT)

    def log(self, name: str) -> str:
        """The end of the server's log."""
        return "\n".join((self._folder / name / "log").read_text(errors="replace").splitlines()[-20:])

    def remove(self) -> None:
        """Stops all servers and deletes their data, but not the packages."""
        for name in self._state().processes:
            self.stop(name)
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _process(self, name: str) -> Process | None:
        """The process that was started last; it may have ended."""
        return self._state().processes.get(name)

    def _state(self) -> State:
        state = State.read(self._file)
        assert state is not None
        return state
