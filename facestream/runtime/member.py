"""The member name of this process in its consumer groups: it is stable, so that a restarted process gets the same
partitions again.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path


def living_processes(data: Path) -> list[str]:
    """The roles and numbers of the processes of a data folder that have such a name."""
    living = []
    for file in sorted((data / "members").glob("*")):
        with open(file, "rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                living.append(file.name)
    return living


@contextmanager
def member_name(data: Path, role: str) -> Iterator[str]:
    """Yields <host>-<role>-<n>, n the first number that no other living process of this role and data folder has."""
    folder = data / "members"
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        descriptor = os.open(folder / f"{role}-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        try:
            yield f"{socket.gethostname()}-{role}-{number}"
        finally:
            os.close(descriptor)
        return
