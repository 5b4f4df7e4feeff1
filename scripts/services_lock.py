"""A lock between processes. It ends with the process that holds it, even after a crash."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Waits until no other process, and no other thread of this one, holds the lock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that holds {file}", file=sys.stderr)
            fcntl.flock(holder, fcntl.LOCK_EX)
        yield
