"""Unpacks the data folder of an older version, as if that had just been stopped.

Retention and the expiry of answers depend on time, so all times in the folder are moved by the age of the recording.
"""

import json
import re
import sqlite3
import time
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
AROUND_S = 3_600.0  # times of a recording lie within an hour of its end
DATABASES = ("log.db", "vectors.db")
NUMBERS = re.compile(rb"(?<![\w.-])\d{10,13}(?:\.\d+)?(?![\w.])")


def unpack(version: str, folder: Path) -> dict[str, Any]:
    """Writes the data folder that `version` left, and returns the answers that were given when it was made."""
    expected: dict[str, Any] = json.loads((HERE / version / "expected.json").read_text())
    with zipfile.ZipFile(HERE / version / "folder.zip") as archive:
        archive.extractall(folder)
    clock = _Clock(expected["recorded_at"])
    for name in DATABASES:
        with closing(sqlite3.connect(folder / name)) as database, database:
            _move_times(database, clock)
    for path in (folder / "objects").rglob("*"):
        if path.is_file():
            header, _, data = path.read_bytes().partition(b"\n")
            path.write_bytes(clock.moved_text(header) + b"\n" + data)
    return expected


class _Clock:
    """Moves the times of a recording to now. Milliseconds and seconds since the epoch are distinguished by their
    size.
    """

    def __init__(self, recorded_at: float) -> None:
        self._recorded_at, self._by = recorded_at, time.time() - recorded_at

    def moved(self, number: float) -> float:
        """The moved time; the number itself if it is not a time of the recording."""
        for unit in (1, 1000):
            if abs(number / unit - self._recorded_at) < AROUND_S * 30:  # answers expire a day later
                return number + type(number)(self._by * unit)
        return number

    def moved_text(self, text: bytes) -> bytes:
        return NUMBERS.sub(lambda match: str(self.moved(json.loads(match[0]))).encode(), text)


def _move_times(database: sqlite3.Connection, clock: _Clock) -> None:
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        keys = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[5]]
        for row in database.execute(f"SELECT * FROM {table}").fetchall():  # noqa: S608 - names out of the schema
            old = dict(zip(columns, row, strict=True))
            new = {name: _moved(value, clock) for name, value in old.items() if name not in keys}
            changed = {name: value for name, value in new.items() if value != old[name]}
            if changed:
                sets = ", ".join(f"{name} = ?" for name in changed)
                where = " AND ".join(f"{name} = ?" for name in keys)
                arguments = [*changed.values(), *(old[key] for key in keys)]
                database.execute(f"UPDATE {table} SET {sets} WHERE {where}", arguments)  # noqa: S608 - as above


def _moved(value: Any, clock: _Clock) -> Any:
    if isinstance(value, bytes) and value[:1] == b"{":
        return clock.moved_text(value)
    if isinstance(value, str) and value[:1] == "{":
        return clock.moved_text(value.encode()).decode()
    return clock.moved(value) if isinstance(value, (int, float)) else value
