"""The lock on the data folder: one process serves an embedded installation, and says where, so that the command line finds it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import ConfigurationError

LOCK = "facestream.lock"


@contextmanager
def locked(data: Path, url: str) -> Iterator[None]:
    """Holds the folder's lock, with `url` in it. Raises ConfigurationError when another process holds it."""
    data.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"the data folder {data} is in use by another facestream ({serving(data) or 'address unknown'}): "
                "stop that one, or choose another folder with --data"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, url.encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def serving(data: Path) -> str | None:
    """The URL of the process that holds the folder's lock, None where nobody does."""
    with suppress(OSError), open(data / LOCK, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read().decode() or None
    return None
