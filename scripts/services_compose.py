"""The three servers as containers, with the images of docker-compose.yml: one node each, on 127.0.0.1 only."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from scripts import services_start
from scripts.services_process import ServiceFailed
from scripts.services_state import State, write_private

OURS = Path(__file__).resolve().parent.parent / "docker-compose.yml"


def answers() -> bool:
    """Whether a Docker engine answers, and docker has the command compose."""
    if not shutil.which("docker"):
        return False
    asked = (["docker", "info"], ["docker", "compose", "version"])
    try:
        return all(subprocess.run(each, capture_output=True, timeout=20).returncode == 0 for each in asked)
    except subprocess.TimeoutExpired:
        return False


class ComposeServers:
    """Starts and stops the containers of a separate compose project. `folder` is for its file.

    It neither waits until a server serves, nor keeps other processes from doing the same.
    """

    def __init__(self, state: State, folder: Path) -> None:
        self._state = state
        self._file = folder / "compose.json"

    def prepare(self) -> None:
        """Pulls the images that are missing. Raises ServiceFailed."""
        read = _docker("compose", "--file", str(OURS), "config", "--no-interpolate", "--format", "json")
        services = json.loads(read)["services"]
        images = {name: services[name]["image"] for name in ("kafka", "cassandra", "minio")}
        write_private(self._file, json.dumps(project(self._state, images), indent=2))
        self._compose("pull", "--quiet", "--policy", "missing")

    def alive(self, name: str) -> bool:
        """Whether the server is running, paused or not."""
        return self._file.exists() and (self._is("running", name) or self._is("paused", name))

    def start(self, name: str) -> None:
        """Starts the server if it is not running, resumes it if it is paused."""
        self.resume(name)
        self._compose("up", "--detach", "--no-recreate", name)

    def stop(self, name: str) -> None:
        self.resume(name)
        self._compose("stop", name)

    def kill(self, name: str) -> None:
        if self.alive(name):
            self._compose("kill", "--signal", "SIGKILL", name)

    def pause(self, name: str) -> None:
        self._compose("pause", name)

    def resume(self, name: str) -> None:
        if self._is("paused", name):
            self._compose("unpause", name)

    def log(self, name: str) -> str:
        """The end of the server's log."""
        return self._compose("logs", "--no-color", "--tail", "20", name)

    def remove(self) -> None:
        """Stops all servers and deletes their data, but not the images."""
        if self._file.exists():
            self._compose("down", "--volumes")
            shutil.rmtree(self._file.parent)

    def _is(self, what: str, name: str) -> bool:
        return bool(self._compose("ps", "--all", "--quiet", "--status", what, name).strip())

    def _compose(self, *command: str) -> str:
        # The name separates the containers of two checkouts.
        name = f"facestream-services-{self._state.cluster.lower()}"
        return _docker("compose", "--project-name", name, "--file", str(self._file), *command)


def project(state: State, images: dict[str, str]) -> dict[str, Any]:
    """The compose project, in the form of a compose file."""
    port = state.ports["kafka"]
    kafka = services_start.kafka_settings(port, controller_port=9093, data="/var/lib/kafka/data") | {
        "listeners": f"PLAINTEXT://:{port},INTERNAL://:9092,CONTROLLER://:9093",
        # the first address is the same inside and outside the container; the second is for MinIO's container
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},INTERNAL://kafka:9092",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    # Acknowledged writes have to survive a kill, see services_start.
    durable = "sed -i -e 's/^commitlog_sync:.*/commitlog_sync: batch/' -e '/^commitlog_sync_period:/d'"
    cassandra = f"{durable} /etc/cassandra/cassandra.yaml && exec docker-entrypoint.sh cassandra -f"
    return {
        "services": {
            "kafka": {
                "image": images["kafka"],
                "ports": [f"127.0.0.1:{port}:{port}"],
                "environment": {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in kafka.items()}
                | {"CLUSTER_ID": state.cluster, "KAFKA_HEAP_OPTS": "-Xmx512m"},
            },
            "cassandra": {
                "image": images["cassandra"],
                "ports": [f"127.0.0.1:{state.ports['cassandra']}:9042"],
                "environment": {"MAX_HEAP_SIZE": "1G", "HEAP_NEWSIZE": "256M"},
                "entrypoint": ["sh", "-c", cassandra],
            },
            "minio": {
                "image": images["minio"],
                "ports": [f"127.0.0.1:{state.ports['minio']}:9000"],
                "environment": {"MINIO_ROOT_USER": state.user, "MINIO_ROOT_PASSWORD": state.password}
                | services_start.minio_notifications("kafka:9092", "/tmp/events"),  # noqa: S108 - in the container
                "command": ["server", "/data"],
            },
        }
    }


def _docker(*command: str) -> str:
    done = subprocess.run(["docker", *command], capture_output=True, text=True)  # noqa: S607
    if done.returncode:
        raise ServiceFailed(f"docker {' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout
