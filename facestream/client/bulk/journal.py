"""The journal of a bulk command: it records what was done, so that the same command continues where it was
interrupted.

It is a file of JSON lines in the user's state folder, one for each image that was accepted and one for each answer.
Each line is written immediately, so that kill -9 loses none.
"""

import fcntl
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from facestream.client.bulk.source import PictureFile
from schemas.answers import Body, body_type
from schemas.errors import ConfigurationError, StorageFull
from schemas.records import Purpose


class FileVersion(NamedTuple):
    """The size and modification time of a file. If they change, the file is another picture."""

    size: int
    mtime_ns: int


def version_of(photo: str) -> FileVersion:
    """Raises OSError."""
    stat = os.stat(photo)
    return FileVersion(stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The last line about a picture. It has `image_id` until the picture is answered, then `status`. line_offset: where
    the line begins.
    """

    version: FileVersion
    attempt: int
    image_id: str | None
    status: int | None
    line_offset: int


class Journal:
    """A context manager that opens and locks the journal. `run` identifies the run until the journal is deleted."""

    run: str

    def __init__(self, path: Path, *, again: bool = False) -> None:
        self._path, self._again = path, again
        self._entries: dict[tuple[str, str | None], JournalEntry] = {}

    def __enter__(self) -> Self:
        """Raises ConfigurationError when it cannot be written, or another process has locked it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"{self._path} cannot be written: {error.strerror}: set XDG_STATE_HOME to a folder that can"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise ConfigurationError("the same command is already running: wait until it ends") from None
        self._reading = open(self._path, "rb")
        if self._again:
            os.ftruncate(self._descriptor, 0)
        self._read()
        if not os.fstat(self._descriptor).st_size:
            self.run = str(uuid.uuid4())
            self._append({"run": self.run})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.close()
        os.close(self._descriptor)

    def entry(self, item: PictureFile) -> JournalEntry | None:
        """The entry of a picture; None if it is new or has changed."""
        entry = self._entries.get((item.name, item.person))
        if entry is None:
            return None
        try:
            return entry if entry.version == version_of(item.photo) else None
        except OSError:
            return None

    def read_body(self, entry: JournalEntry, purpose: Purpose) -> Body:
        """The answer in an entry that has one."""
        self._reading.seek(entry.line_offset)
        line = json.loads(self._reading.readline())
        return body_type(purpose, line["status"]).model_validate(line["body"])

    def add_accepted(self, item: PictureFile, version: FileVersion, attempt: int, image_id: str) -> None:
        self._append(_line(item, version, attempt) | {"image_id": image_id})

    def add_answered(self, item: PictureFile, version: FileVersion, attempt: int, status: int, body: Body) -> None:
        self._append(_line(item, version, attempt) | {"status": status, "body": body.members()})

    def delete(self) -> None:
        """Deletes the journal: the same command starts anew."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        end = 0
        for line in self._reading:
            if not line.endswith(b"\n"):
                os.ftruncate(self._descriptor, end)  # its writer was killed before it had written the whole line
                break
            record = json.loads(line)
            if "run" in record:
                self.run = record["run"]
            else:
                self._entries[record["name"], record["person"]] = JournalEntry(
                    FileVersion(*record["version"]),
                    record["attempt"],
                    record.get("image_id"),
                    record.get("status"),
                    end,
                )
            end += len(line)

    def _append(self, line: dict[str, Any]) -> None:
        data = (
            json.dumps(line).encode() + b"\n"
        )  # bytes of a path that are not UTF-8 are lone surrogates, which JSON keeps as escapes
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise StorageFull(f"{self._path} cannot be written: {error.strerror}") from None


def journal_path(*, service: str, purpose: str, fields: dict[str, str], source: Path) -> Path:
    """The path of a command's journal. Commands with the same arguments have the same journal."""
    same = json.dumps([service, purpose, fields, str(source.resolve())], sort_keys=True)
    name = hashlib.sha256(same.encode()).hexdigest()[:32]
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "facestream", "bulk", f"{name}.jsonl")


def _line(item: PictureFile, version: FileVersion, attempt: int) -> dict[str, Any]:
    return {
        "name": item.name,
        "person": item.person,
        "version": version,
        "attempt": attempt,
    }
