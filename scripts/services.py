"""Starts a real Kafka, Cassandra and MinIO on free ports of 127.0.0.1, for tests and for trying them out.

  up            starts those that do not run, waits until all three serve, and prints the settings for facestream:
                eval "$(python scripts/services.py up)"
  down          ends those that `up` started, and deletes their data
  prepare       downloads what `up` needs and starts nothing; `up` does so too: minutes, the first time
  status        prints which run
  start, stop, restart, kill, pause, resume NAME
                one of kafka, cassandra, minio; its data stays

Uses docker compose where a Docker engine answers, else public packages: they need Java 17 or newer, Maven and Go, and
2.5 GB of disk, most of it in the caches of Maven and Go. Exit code 3: this machine has neither.

  FACESTREAM_SERVICES        folder of data and settings, by default .services: another folder is other servers
  FACESTREAM_SERVICES_CACHE  folder of the packages, by default .services/packages
"""

import argparse
import os
import shlex
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]  # run as a file, only its folder is in the path

from scripts import services_compose, services_packages  # noqa: E402
from scripts.services_compose import ComposeServers  # noqa: E402
from scripts.services_local import LocalServers  # noqa: E402
from scripts.services_lock import locked  # noqa: E402
from scripts.services_packages import MissingTools  # noqa: E402
from scripts.services_process import ServiceFailed  # noqa: E402
from scripts.services_ready import serves  # noqa: E402
from scripts.services_state import State  # noqa: E402

NAMES = ("kafka", "cassandra", "minio")
START_S = 180.0  # how long a server has to start: it takes 12 s at most on two busy cores


class Services:
    """The three servers. Several processes may use this at once: they wait for each other."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or Path(os.environ.get("FACESTREAM_SERVICES") or ROOT / ".services")).resolve()
        self._state_file = self.folder / "state.json"

    def prepare(self) -> None:
        """Downloads what is needed to start the servers, which takes minutes the first time. Raises MissingTools,
        ServiceFailed.
        """
        with self._locked():
            self._prepared()

    def up(self) -> dict[str, str]:
        """Starts the servers that are not running, and returns the settings when all serve. Raises MissingTools,
        ServiceFailed.
        """
        with self._locked():
            if not all(self._serves(name) for name in NAMES):
                servers = self._prepared()
                for name in NAMES:
                    servers.start(name)
                for name in NAMES:
                    self._wait(name)
            return self.settings()

    def down(self) -> None:
        """Stops the servers that were started here and deletes their data."""
        with self._locked():
            if self._state_file.exists():
                self._servers().remove()
                self._state_file.unlink()

    def settings(self) -> dict[str, str]:
        """The environment variables that choose these servers."""
        state = self._state()
        return {
            "FACESTREAM_LOG": f"kafka://127.0.0.1:{state.ports['kafka']}",
            "FACESTREAM_OBJECTS": f"s3://{state.user}@127.0.0.1:{state.ports['minio']}/facestream",
            "FACESTREAM_OBJECTS_PASSWORD": state.password,
            "FACESTREAM_VECTORS": f"cassandra://127.0.0.1:{state.ports['cassandra']}/facestream",
        }

    def running(self) -> bool:
        """Whether any of the servers is running."""
        return self._state_file.exists() and any(self._servers().alive(name) for name in NAMES)

    def status(self, name: str) -> str:
        if not self._state_file.exists() or not self._servers().alive(name):
            return "stopped"
        port = self._state().ports[name]
        return f"{'serves' if serves(name, port) else 'runs, but does not serve'} on 127.0.0.1:{port}"

    def start(self, name: str) -> None:
        """Starts a server and returns when it serves."""
        with self._locked():
            self._prepared().start(name)
            self._wait(name)

    def stop(self, name: str) -> None:
        """Stops it gracefully and returns when it has ended."""
        with self._locked():
            self._servers().stop(name)

    def kill(self, name: str) -> None:
        """Kills it with SIGKILL and returns when it has ended."""
        with self._locked():
            self._servers().kill(name)

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def pause(self, name: str) -> None:
        """Pauses it with SIGSTOP: its connections stay open, and it answers nothing."""
        with self._locked():
            self._servers().pause(name)

    def resume(self, name: str) -> None:
        """Resumes a paused server and returns when it serves."""
        with self._locked():
            self._servers().resume(name)
            self._wait(name)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder / "lock")

    def _prepared(self) -> LocalServers | ComposeServers:
        """Chooses docker compose or packages, ports and passwords, once."""
        chosen = State.read(self._state_file) or State.new("compose" if services_compose.answers() else "packages")
        servers = self._servers(chosen)
        servers.prepare()
        if not self._state_file.exists():
            chosen.write(self._state_file)
        return servers

    def _servers(self, state: State | None = None) -> LocalServers | ComposeServers:
        state = state or self._state()
        if state.way == "compose":
            return ComposeServers(state, self.folder / "run")
        return LocalServers(self._state_file, self.folder / "run", services_packages.folder())

    def _state(self) -> State:
        state = State.read(self._state_file)
        if state is None:
            raise ServiceFailed("the servers were not started yet: make services")
        return state

    def _serves(self, name: str) -> bool:
        if not self._state_file.exists():
            return False
        return self._servers().alive(name) and serves(name, self._state().ports[name])

    def _wait(self, name: str) -> None:
        until = time.monotonic() + START_S
        while not self._serves(name):
            alive = self._servers().alive(name)
            if not alive or time.monotonic() > until:
                why = f"does not serve after {START_S:.0f} s" if alive else "ended"
                raise ServiceFailed(f"{name} {why}. The end of its log:\n{self._servers().log(name)}")
            time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("up", "down", "prepare", "status"):
        commands.add_parser(command)
    for command in ("start", "stop", "restart", "kill", "pause", "resume"):
        commands.add_parser(command).add_argument("name", choices=NAMES)
    arguments = parser.parse_args()
    services = Services()
    try:
        match arguments.command:
            case "up":
                for setting, value in services.up().items():
                    print(f"export {setting}={shlex.quote(value)}")
            case "down":
                services.down()
            case "prepare":
                services.prepare()
            case "status":
                for name in NAMES:
                    print(f"{name}: {services.status(name)}")
            case command:
                getattr(services, command)(arguments.name)
    except ServiceFailed as error:
        print(error, file=sys.stderr)
        return 3 if isinstance(error, MissingTools) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
