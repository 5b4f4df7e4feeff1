"""Prints the results of photos: a table on a terminal or JSON Lines; errors and progress go to the standard error."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any, Self

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facestream.client.http import PhotoResult
from facestream.progress import Progress, progress_bar
from facestream.terminal import print_message, printable
from schemas.answers import LearnedBody, LearnedPerson, Problem, RecognizedBody, RecognizedPerson
from schemas.records import Purpose

MANY = 5  # more photos than this get a progress bar
LONGEST_PHOTO = 32  # cells of a terminal
WIDE = 100


class Report:
    """Gets the results in the order of the photos and prints each one immediately."""

    def __init__(self, purpose: Purpose, photos: Sequence[str], *, as_json: bool) -> None:
        self._purpose, self._count = purpose, len(photos)
        self._out = None if as_json else Console(highlight=False, markup=False, emoji=False)
        self._photo_cells = min(LONGEST_PHOTO, max(cell_len(printable(photo)) for photo in photos))
        self._has_header = False
        self._stack = ExitStack()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        if self._count > MANY:
            self._progress = self._stack.enter_context(progress_bar(self._purpose, self._count, always=False))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, outcome: PhotoResult) -> None:
        with self._progress.paused() if self._progress else nullcontext():
            self._print(outcome)
        if self._progress:
            self._progress(1)

    def _print(self, outcome: PhotoResult) -> None:
        if self._out is None:
            members = outcome.body.members()
            json_line({"photo": outcome.photo} | ({"error": members} if outcome.failed else members))
        elif isinstance(outcome.body, LearnedBody | RecognizedBody):
            self._out.print(self._table(outcome, outcome.body.persons, self._out.width))
            self._has_header = True
        if isinstance(outcome.body, Problem):
            print_message(f"{outcome.photo}: {outcome.body.detail}{advice(outcome.body)}")
        if outcome.drawing_error is not None:
            print_message(f"{outcome.photo}: {outcome.drawing_error.message}")

    def _table(self, outcome: PhotoResult, persons: Sequence[LearnedPerson | RecognizedPerson], width: int) -> Table:
        """The rows of one photo. All photos have the same widths, so that their tables look like one."""
        wide, learned = width >= WIDE, self._purpose == "learn"
        table = Table(
            box=None,
            show_header=not self._has_header,
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
        if not persons:
            table.add_row(photo, "", "", *([] if learned else ["", ""]), "", "no-face")
        for number, person in enumerate(persons, 1):
            numbers = (
                [_number(person.probability, "{:.0%}"), _number(person.similarity, "{:.4f}")]
                if isinstance(person, RecognizedPerson)
                else []
            )
            box = ",".join(str(edge) for edge in person.box)
            name = Text("?", "yellow") if person.id is None else Text(printable(person.id), "green")
            table.add_row(photo, str(number), name, *numbers, box, _reason(outcome, person))
        return table


def _reason(outcome: PhotoResult, person: LearnedPerson | RecognizedPerson) -> str:
    if isinstance(person, LearnedPerson):
        return "learned" if outcome.status == 201 else "known already"
    return person.reason or ("also-matched" if person.also_matched else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def advice(problem: Problem) -> str:
    """The flags that would solve the problem, to be put after its detail."""
    if problem.code in ("not_one_face", "no_face") and problem.faces:
        points = [((x1 + x2) // 2, (y1 + y2) // 2) for x1, y1, x2, y2 in (face.box for face in problem.faces[:3])]
        return "".join(f"{' or' if i else ': here'} --face {x},{y}" for i, (x, y) in enumerate(points))
    return " (--force)" if problem.code == "face_too_small" else ""


def _end_of(text: str, cells: int) -> str:
    """The end of a path that is too long: most paths differ at the end."""
    if cell_len(text) <= cells:
        return text
    while cell_len(text) > cells - 1:
        text = text[1:]
    return f"…{text}"


def json_line(line: dict[str, Any]) -> None:
    # A path need not be UTF-8: its other bytes are lone surrogates here, which JSON writes as escapes. On a terminal
    # everything but ASCII is escaped, because it could control the terminal.
    text = json.dumps(line, ensure_ascii=sys.stdout.isatty()).encode("utf-8", "backslashreplace")
    sys.stdout.buffer.write(text + os.linesep.encode())
    sys.stdout.buffer.flush()
