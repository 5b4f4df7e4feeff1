"""Progress of a measurement: a bar on a terminal, a line now and then on a pipe, both on the standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def counted(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many more are done."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda more: bars.advance(task, more)
    else:
        lines = _Lines(label, total)
        yield lines
        lines.say()


class _Lines:
    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._begin = self._last = time.monotonic()

    def __call__(self, more: int) -> None:
        self._done += more
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self.say()

    def say(self) -> None:
        self._last = time.monotonic()
        rate = self._done / max(self._last - self._begin, 1e-3)
        left = f", {(self._total - self._done) / rate:.0f} s left" if 0 < self._done < self._total else ""
        print(f"{self._label}: {self._done:,} of {self._total:,}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)
