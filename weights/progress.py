"""Progress of a transfer for people: a bar on a terminal, a line now and then on a pipe."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

Progress = Callable[[str, int, int], None]  # what is done, bytes so far, bytes in all

SECONDS_BETWEEN_LINES = 10.0


def silent(label: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[Progress]:
    """A Progress that writes to `stream`, the standard error where none is given."""
    stream = stream or sys.stderr
    if stream.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(file=stream)) as bars:
            yield _Bars(bars)
    else:
        yield _Lines(stream)


class _Bars:
    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    def __call__(self, label: str, done: int, total: int) -> None:
        task = next((task.id for task in self.bars.tasks if task.description == label), None)
        if task is None:
            task = self.bars.add_task(label, total=total)
        self.bars.update(task, completed=done)


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.label, self.since, self.last, self.complete = "", 0.0, 0.0, False

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if label != self.label:
            self.label, self.since = label, now
        elif self.complete or (now - self.last < SECONDS_BETWEEN_LINES and done < total):
            return
        self.last, self.complete = now, done >= total
        rate = done / max(now - self.since, 1e-3)
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total else ""
        print(
            f"{label}: {done / 1e6:.1f} of {total / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s{left}",
            file=self.stream,
            flush=True,
        )
