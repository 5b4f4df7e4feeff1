"""Progress of long work: a bar on a terminal, a line now and then on a pipe, both on the standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress_bar(label: str, total: int, *, always: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many more are done. A pipe gets a last line too, with `always` False only after
    others: short work then says nothing.
    """
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda more: bars.advance(task, more)
    else:
        lines = _Lines(label, total)
        yield lines
        if always or lines.said:
            lines.say()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class _Lines:
    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._begin = self._last = time.monotonic()
        self.said = False

    def __call__(self, more: int) -> None:
        self._done += more
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self.say()

    def say(self) -> None:
        self._last, self.said = time.monotonic(), True
        rate = self._done / max(self._last - self._begin, 1e-3)
        left = f", {(self._total - self._done) / rate:.0f} s left" if 0 < self._done < self._total else ""
        print(f"{self._label}: {self._done:,} of {self._total:,}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)
