"""What the commands print: a table on a terminal, JSON Lines on a pipe; on stderr errors, and progress when there are
many.
"""

import json
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from facestream.client.http import PhotoResult
from facestream.terminal import print_message, printable
from schemas.records import Purpose

MANY = 5  # more photos than this get a progress bar
LONGEST_PHOTO = 32  # cells of the terminal
WIDE = 100


class Report:
    """Takes outcomes in the order of the photos and prints each at once."""

    def __init__(self, purpose: Purpose, photos: Sequence[str]) -> None:
        self._purpose = purpose
        self._out = Console(highlight=False, markup=False, emoji=False) if sys.stdout.isatty() else None
        self._photo_cells = min(LONGEST_PHOTO, max(cell_len(printable(photo)) for photo in photos))
        self._begun = self._dirty = False
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (console.is_terminal and len(photos) > MANY),
        )
        self._task = self._progress.add_task(purpose, total=len(photos), rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, outcome: PhotoResult) -> None:
        self._progress.stop()  # it is on the same terminal as what is printed now
        if self._out is None:
            json_line({"photo": outcome.photo} | ({"error": outcome.body} if outcome.failed else outcome.body))
        elif not outcome.failed:
            self._out.print(self._table(outcome, self._out.width))
            self._begun = True
        if outcome.failed:
            print_message(f"{outcome.photo}: {outcome.body['detail']}{advice(outcome.body)}")
        if outcome.trouble is not None:
            print_message(f"{outcome.photo}: {outcome.trouble.message}")
        speed = self._progress.tasks[self._task].speed
        self._progress.update(self._task, advance=1, rate=f"{speed:.1f}/s" if speed else "")
        self._progress.start()

    def _table(self, outcome: PhotoResult, width: int) -> Table:
        """The rows of one photo. Widths are fixed, so that the tables of all photos are one."""
        wide, learned = width >= WIDE, self._purpose == "learn"
        table = Table(
            box=None,
            show_header=not self._begun,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            width=width,
            header_style="bold",
        )
        table.add_column("photo", width=self._photo_cells if wide else min(self._photo_cells, 16), no_wrap=True)
        table.add_column("face", width=4, justify="right", no_wrap=True)
        table.add_column("id", ratio=1, overflow="fold")
        if not learned:
            table.add_column("probability" if wide else "prob.", width=11 if wide else 5, justify="right", no_wrap=True)
            table.add_column("similarity" if wide else "sim.", width=10 if wide else 6, justify="right", no_wrap=True)
        table.add_column("box", width=19, no_wrap=True)
        table.add_column("reason", width=15, no_wrap=True)
        photo = Text(_end_of(printable(outcome.photo), self._photo_cells if wide else min(self._photo_cells, 16)))
        persons = outcome.body["persons"]
        if not persons:
            table.add_row(photo, "", "", *([] if learned else ["", ""]), "", "no-face")
        for number, person in enumerate(persons, 1):
            numbers = (
                [] if learned else [_number(person["probability"], "{:.0%}"), _number(person["similarity"], "{:.4f}")]
            )
            box = ",".join(str(edge) for edge in person["box"])
            name = Text("?", "yellow") if person["id"] is None else Text(printable(person["id"]), "green")
            table.add_row(photo, str(number), name, *numbers, box, _reason(outcome, person, learned))
        return table


def _reason(outcome: PhotoResult, person: dict[str, Any], learned: bool) -> str:
    if learned:
        return "learned" if outcome.status == 201 else "known already"
    return person.get("reason") or ("also-matched" if "also_matched" in person else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def advice(problem: dict[str, Any]) -> str:
    """What the service says in the words of its fields, in those of the command line."""
    if problem.get("code") in ("not_one_face", "no_face") and problem.get("faces"):
        points = [((x1 + x2) // 2, (y1 + y2) // 2) for x1, y1, x2, y2 in (face["box"] for face in problem["faces"][:3])]
        return "".join(f"{' or' if i else ': here'} --face {x},{y}" for i, (x, y) in enumerate(points))
    return " (--force)" if problem.get("code") == "face_too_small" else ""


def _end_of(text: str, cells: int) -> str:
    """Paths differ at their ends."""
    if cell_len(text) <= cells:
        return text
    while cell_len(text) > cells - 1:
        text = text[1:]
    return f"…{text}"


def json_line(line: dict[str, Any]) -> None:
    # A path need not be UTF-8: its stray bytes are lone surrogates here, which JSON can write as escapes.
    text = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
    sys.stdout.buffer.write(text + os.linesep.encode())
    sys.stdout.buffer.flush()
