"""The state between calls of the services' script: ports, passwords, and the processes that were started."""

import base64
import json
import os
import random
import secrets
import socket
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scripts.services_process import Process

# Ports below the range for outgoing connections: one of these could take the port of a stopped server.
PORTS = range(20_000, 32_000)


@dataclass(slots=True)
class State:
    """Chosen at the first start, and kept until the data is deleted. `way`: 'compose' or 'packages'."""

    way: str
    user: str
    password: str = field(repr=False)
    cluster: str
    ports: dict[str, int]
    processes: dict[str, Process]

    @classmethod
    def new(cls, way: str) -> "State":
        # A uuid in Kafka's form. Kafka's tool would take a leading '-' for an option.
        cluster = "-"
        while cluster.startswith("-"):
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        ports = free_ports(["kafka", "controller", "cassandra", "storage", "minio"])
        return cls(way, "facestream", secrets.token_urlsafe(24), cluster, ports, {})

    @classmethod
    def read(cls, file: Path) -> "State | None":
        """The saved state; None if nothing was started yet."""
        try:
            read = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        return cls(**read | {"processes": {name: Process(**process) for name, process in read["processes"].items()}})

    def write(self, file: Path) -> None:
        write_private(file, json.dumps(asdict(self), indent=2))


def write_private(file: Path, text: str) -> None:
    """Writes the file atomically, readable by its owner only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with open(unfinished, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as writing:
        writing.write(text)
    unfinished.replace(file)


def free_ports(names: list[str]) -> dict[str, int]:
    """A port of 127.0.0.1 for each name, which nobody uses now."""
    ports: dict[str, int] = {}
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports[names[len(ports)]] = port
        if len(ports) == len(names):
            break
    return ports
