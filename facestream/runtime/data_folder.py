"""The data folder and its lock: one process serves an embedded installation, and writes its URL into the lock file,
where the other commands find it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import ConfigurationError

LOCK = "facestream.lock"
UNFINISHED_RESTORE = "restore-unfinished"
LOCK_WAIT_S = 1.0  # a process that only checks who is serving holds the lock for a moment


def make_data_folder(data: Path) -> None:
    """Raises ConfigurationError."""
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable_error(data, error) from None


def require_whole(data: Path) -> None:
    """Raises ConfigurationError if a restore has replaced only a part of the folder."""
    if (data / UNFINISHED_RESTORE).exists():
        raise ConfigurationError(
            f"the data folder {data} is only partly restored: run `facestream restore` again, which completes it"
        )


@contextmanager
def data_folder_lock(data: Path) -> Iterator[Callable[[str], None]]:
    """Holds the folder's lock; yields a function that writes the URL into it. Raises ConfigurationError when another
    process holds it, or the folder cannot be used.
    """
    make_data_folder(data)
    try:
        descriptor = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable_error(data, error) from None

    def announce(url: str) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, url.encode(), 0)

    try:
        _lock(descriptor, data)
        announce("")
        yield announce
        announce("")
    finally:
        os.close(descriptor)


def serving_url(data: Path) -> str | None:
    """The URL of the process that holds the folder's lock; "" while it starts, None if no process holds it."""
    with suppress(OSError), open(data / LOCK, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read().decode()
    return None


def _lock(descriptor: int, data: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"the data folder {data} is in use by another facestream"
                    f" ({serving_url(data) or 'address unknown'}): stop that one, or choose another folder with --data"
                ) from None
            time.sleep(0.05)


def _unusable_error(data: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"the data folder {data} cannot be used: {error.strerror}: choose another with --data")
