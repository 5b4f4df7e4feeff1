"""Progress of long work: a bar on a terminal, a line now and then on a pipe, both on the standard error."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

SECONDS_BETWEEN_LINES = 15.0
MEGA = 1e6

Unit = Literal["items", "bytes"]


class Progress(ABC):
    """The progress of some work. Call it with the number of items or bytes that were done since the last call."""

    @abstractmethod
    def __call__(self, more: int) -> None: ...

    def paused(self) -> AbstractContextManager[None]:
        """Removes the bar from the terminal while something else is printed there."""
        return nullcontext()


@contextmanager
def progress_bar(label: str, total: int, *, unit: Unit = "items", always: bool = True) -> Iterator[Progress]:
    """Shows done, total, rate and time left until the block ends.

    On a pipe there is a line every 15 seconds and one at the end; with `always` False, work that ends before its first
    line prints none. A download prints its size first.
    """
    if sys.stderr.isatty():
        amounts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), _Rate())
        columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
        # Other output appears above the bar on a terminal, and unchanged on a pipe.
        bars = RichProgress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
        with bars:
            yield _Bar(bars, label, total)
    else:
        lines = _Lines(label, total, unit)
        if unit == "bytes":
            lines.print_line()
        yield lines
        if always or lines.printed:
            lines.print_line()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class _Bar(Progress):
    def __init__(self, bars: RichProgress, label: str, total: int) -> None:
        self._bars = bars
        self._task = bars.add_task(label, total=total)

    def __call__(self, more: int) -> None:
        self._bars.advance(self._task, more)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._bars.stop()
        yield
        self._bars.start()


class _Lines(Progress):
    def __init__(self, label: str, total: int, unit: Unit) -> None:
        self._label, self._total, self._unit, self._done = label, total, unit, 0
        self._begin = self._last = time.monotonic()
        self.printed = False

    def __call__(self, more: int) -> None:
        self._done += more
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self.print_line()

    def print_line(self) -> None:
        self._last, self.printed = time.monotonic(), True
        rate = self._done / max(self._last - self._begin, 1e-3)
        if self._unit == "bytes":
            parts = [f"{self._done / MEGA:.1f} of {self._total / MEGA:.1f} MB", f"{rate / MEGA:.1f} MB/s"]
        else:
            parts = [f"{self._done:,} of {self._total:,}", f"{rate:.1f}/s"]
        if 0 < self._done < self._total:
            parts.append(f"{(self._total - self._done) / rate:.0f} s left")
        print(f"{self._label}: {', '.join(parts if self._done else parts[:1])}", file=sys.stderr, flush=True)
