"""Records what the installed facestream writes: a data folder, and every answer byte for byte.

    python -m tests.compatibility.record WEIGHTS OUT

OUT/folder.zip is a data folder with examples of all kinds of data. OUT/expected.json has the answers that were given
when it was made. OUT/answers.jsonl has the records of the topic `results`, OUT/bodies.jsonl the bodies of HTTP answers.
All pictures are drawn. The recording of a version is made once, with its code, and committed below tests/compatibility;
later versions open it. Everything goes through HTTP and the command line, except for one unreadable record, which no
client can send: it is written into SQLite directly.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from tests.portraits import beside, jpeg, portrait

BOUNDARY = "a-boundary-that-no-picture-holds"
OFFSET_BITS = 40  # records.id in log.db is partition id << 40 | offset
START_S = 120.0
WAITING_KEY = "waiting"  # the Idempotency-Key of the image that is not processed when the folder is left


class Service:
    """`facestream up` on one folder."""

    def __init__(self, folder: Path, weights: Path, recording: "Recording") -> None:
        self.folder, self.recording = folder, recording
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")},
            "FACESTREAM_DATA": str(folder),
            "FACESTREAM_WEIGHTS": str(weights),
            "FACESTREAM_DTYPE": "float32",
            "FACESTREAM_MEMBER": "recorded",
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "facestream.cli", "up", "--listen", self.url.removeprefix("http://")]
        self.process = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz") as response:
                    if response.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the service did not get ready")

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait()

    def run(self, *command: str) -> str:
        """Runs a command of facestream on the same folder and returns its output."""
        arguments = [sys.executable, "-m", "facestream.cli", *command]
        return subprocess.run(arguments, env=self._environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        self.recording.bodies.append({"method": method, "path": path, "status": status, "body": content.decode()})
        return status, json.loads(content)

    def post(
        self, path: str, picture: bytes, headers: Mapping[str, str] | None = None, **fields: str
    ) -> tuple[int, Any]:
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="drawn.jpg"\r\n\r\n'.encode()
        body = b"".join([*parts, head, picture, f"\r\n--{BOUNDARY}--\r\n".encode()])
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
        return self.call("POST", path, body, **{"Content-Type": content_type}, **(headers or {}))


class Recording:
    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.expected: dict[str, Any] = {}


def record_folder(service: Service) -> None:
    """Records a small folder with examples of all kinds of data."""
    expected = service.recording.expected
    service.start()
    ann, ben = jpeg(portrait(2)), jpeg(portrait(4))
    expected["learned"] = {
        "ann": service.post("/learn", ann, {"Idempotency-Key": "ann-1"}, directory="acme", person="ann")[1],
        "ben": service.post("/learn", ben, directory="acme", person="ben")[1],
    }
    service.post("/learn", jpeg(portrait(1)), directory="former", person="carl")
    expected["recognized"] = service.post("/recognize", jpeg(portrait(2, light=0.4)), directory="acme")[1]
    expected["unknown"] = service.post("/recognize", jpeg(portrait(1)), directory="acme", store="false")[1]
    expected["detected"] = service.post("/detect", ann)[1]
    expected["no_face"] = service.post("/learn", jpeg(Image.new("RGB", (64, 64))), directory="acme", person="dora")[1]
    expected["erased"] = service.call("DELETE", "/directories/former/persons/carl")[1]
    service.run("reembed", "dlib-resnet29")
    service.end(signal.SIGTERM)
    append_unreadable(service.folder, b"no JSON")
    service.start()
    until = time.monotonic() + START_S
    while not service.run("dead-letters", "list").strip() and time.monotonic() < until:
        time.sleep(0.2)
    expected["dead_letters"] = 1
    expected["sha256"] = {"ann": hashlib.sha256(ann).hexdigest()}
    expected["key"] = service.run("keys", "create", "--scope", "admin").strip()
    time.sleep(3)  # until the service knows the key
    expected["waiting"] = leave_waiting(service, expected["key"])


def leave_waiting(service: Service, key: str) -> str:
    """Leaves an accepted image that nobody has processed, and returns its image_id."""
    headers = {"Prefer": "respond-async", "Idempotency-Key": WAITING_KEY, "x-api-key": key}
    status, body = service.post("/recognize", jpeg(portrait(2, zoom=0.9)), headers, directory="acme")
    service.end(signal.SIGKILL)
    assert status == 202
    return str(body["image_id"])


def append_unreadable(folder: Path, value: bytes) -> None:
    """Appends a record to partition 0 of images.received, as another producer would."""
    with closing(sqlite3.connect(folder / "log.db")) as log, log:
        ((partition,),) = log.execute("SELECT first_id FROM topics WHERE name = 'images.received'")
        ((offset,),) = log.execute("SELECT next_offset FROM partitions WHERE id = ?", (partition,))
        now = int(time.time() * 1000)
        row = (partition << OFFSET_BITS | offset, now, "", value)
        log.execute("INSERT INTO records (id, timestamp, key, value) VALUES (?, ?, ?, ?)", row)
        log.execute(
            "UPDATE partitions SET next_offset = ?, last_timestamp = ? WHERE id = ?", (offset + 1, now, partition)
        )


def record_answers(service: Service) -> None:
    """Records answers of every kind, for the models of their bodies."""
    service.start()
    ann, ben, carl = portrait(2), portrait(4), portrait(1)
    post = service.post
    post("/recognize", jpeg(ann), directory="acme")  # nobody has been learned
    post("/learn", jpeg(ann), directory="acme", person="Ann Lee")
    post("/learn", jpeg(ann), directory="acme", person="Ann Lee")  # the same picture again
    post("/learn", jpeg(portrait(4)), directory="acme", person="Bén 本")
    post("/learn", jpeg(beside(ann, portrait(4, zoom=0.3))), directory="acme", person="Ann Lee")  # with an ignored face
    post("/learn", jpeg(beside(ann, ben)), directory="acme", person="two")
    post("/learn", jpeg(beside(ann, ben)), directory="acme", person="two", face="largest")
    post("/learn", jpeg(beside(ann, ben)), directory="acme", person="two", face="1,1")
    post("/learn", jpeg(portrait(2, side=480, zoom=0.12)), directory="acme", person="small")
    post("/learn", jpeg(portrait(2, side=480, zoom=0.12)), directory="acme", person="small", force="true")
    post("/learn", jpeg(Image.new("RGB", (64, 64))), directory="acme", person="nobody")
    post("/learn", jpeg(ann)[:2000], directory="acme", person="cut")
    for strangers in ("0.001", "0.01", "1"):
        post("/recognize", jpeg(beside(ann, ben, carl)), directory="acme", strangers=strangers)
    post("/recognize", jpeg(beside(ann, portrait(2, light=0.4))), directory="acme", strangers="1")  # the same twice
    post("/recognize", jpeg(beside(ann, ben)), directory="acme", top="1", limit="1")
    post("/recognize", jpeg(Image.new("RGB", (64, 64))), directory="acme")
    post("/recognize", jpeg(portrait(2, side=480, zoom=0.06)), directory="acme")  # too small to tell people apart
    post("/recognize", jpeg(ann), directory="empty")
    post("/recognize", jpeg(ann)[:3000], directory="acme")
    post("/detect", jpeg(beside(ann, ben)))
    post("/detect", jpeg(ann), directory="acme")
    post("/detect", jpeg(Image.new("RGB", (64, 64))))
    post("/detect", b"no picture")
    post("/detect", b"")
    post("/learn", jpeg(ann), directory="acme")
    post("/recognize", jpeg(ann), directory="acme", strangers="2")
    post("/recognize", jpeg(ann), directory="acme", unknown="1")
    headers = {"Idempotency-Key": "k"}
    _, first = post("/recognize", jpeg(ann), headers, directory="acme")
    post("/recognize", jpeg(ann), headers, directory="acme")
    post("/recognize", jpeg(ben), headers, directory="acme")
    call = service.call
    call("GET", "/directories")
    call("GET", "/directories/acme/persons")
    call("GET", "/directories/acme/persons?limit=1")
    call("GET", "/directories/acme/persons/Ann%20Lee/faces")
    call("GET", "/directories/acme/persons/nobody/faces")
    call("GET", f"/results/{first['image_id']}")
    call("GET", "/results/no-id")
    call("DELETE", "/directories/acme/persons/Ann%20Lee")
    call("GET", f"/results/{first['image_id']}")
    call("DELETE", f"/images/{first['image_id']}")
    call("GET", f"/results/{first['image_id']}")
    call("DELETE", "/directories/acme")
    call("GET", "/nowhere")
    call("PUT", "/learn")
    service.end(signal.SIGTERM)


def answers_of(folder: Path) -> list[str]:
    """The values of the topic `results`."""
    with closing(sqlite3.connect(folder / "log.db")) as log:
        ((first, partitions),) = log.execute("SELECT first_id, partitions FROM topics WHERE name = 'results'")
        rows = log.execute(
            "SELECT value FROM records WHERE id >= ? AND id < ? ORDER BY timestamp, id",
            (first << OFFSET_BITS, first + partitions << OFFSET_BITS),
        )
        return [value.decode() for (value,) in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        recording = Recording()
        service = Service(Path(scratch) / "data", arguments.weights.resolve(), recording)
        record_folder(service)
        (service.folder / "facestream.lock").unlink(missing_ok=True)
        shutil.rmtree(service.folder / "weights", ignore_errors=True)
        recording.expected["recorded_at"] = time.time()
        with zipfile.ZipFile(out / "folder.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(service.folder.rglob("*")):
                if path.is_file() and not path.name.endswith("-shm"):  # SQLite makes that one out of the -wal
                    archive.write(path, path.relative_to(service.folder))
        (out / "expected.json").write_text(json.dumps(recording.expected, indent=1, ensure_ascii=False) + "\n")
        answering = Service(Path(scratch) / "answers", arguments.weights.resolve(), Recording())
        record_answers(answering)
        (out / "answers.jsonl").write_text("".join(f"{it}\n" for it in answers_of(answering.folder)))
        lines = [json.dumps(it, ensure_ascii=False) for it in answering.recording.bodies]
        (out / "bodies.jsonl").write_text("".join(f"{it}\n" for it in lines))


if __name__ == "__main__":
    main()
