"""Dead letters as the command line shows them: a row of a table, a line on a pipe, JSON."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from facestream.terminal import printable
from stream.dead_letters import Letter

COLUMNS = ("id", "when", "code", "attempts", "from", "purpose", "directory", "reason")
NARROW = ("id", "when", "code", "directory", "reason")  # on a terminal below WIDE; `show` has the others
WHOLE = ("id", "when", "code", "attempts")  # never broken
WIDE = 120


def print_list(letters: Sequence[Letter], *, as_json: bool) -> None:
    """JSON Lines, a table on a terminal, or lines of columns between tabs."""
    if as_json:
        for letter in letters:
            print(json.dumps(_summary(letter)))
    elif sys.stdout.isatty():
        _print_table(letters)
    else:
        for letter in letters:
            print("\t".join(_row(letter)))


def print_one(letter: Letter, *, as_json: bool) -> None:
    event = letter.content.event and letter.content.event.model_dump(exclude_none=True)
    if as_json:
        print(json.dumps(_summary(letter) | {"event": event}))
        return
    for name, value in _summary(letter).items():
        print(f"{name:<10} {'' if value is None else printable(str(value))}".rstrip())
    print(
        f"{'event':<10} {'none: the record is no image, or cannot be read' if event is None else json.dumps(event, indent=2)}"
    )


def count_of(letters: int, code: str | None = None, directory: str | None = None) -> str:
    """How many, and which are meant."""
    count = f"{letters} dead letter{'' if letters == 1 else 's'}" if letters else "there are no dead letters"
    with_code = "" if code is None else f" with code '{printable(code)}'"
    of_directory = "" if directory is None else f" of directory '{printable(directory)}'"
    return f"{count}{with_code}{of_directory}"


def _summary(letter: Letter) -> dict[str, Any]:
    content, event = letter.content, letter.content.event
    return {
        "id": letter.id,
        "image_id": letter.record.key,
        "when": _when(letter),
        "code": content.code,
        "reason": content.reason,
        "attempts": content.attempts,
        "topic": content.topic,
        "partition": content.partition,
        "offset": content.offset,
        "purpose": event and event.purpose,
        "directory": event and event.directory,
    }


def _when(letter: Letter) -> str:
    return datetime.fromtimestamp(letter.record.timestamp / 1000, UTC).isoformat(timespec="seconds")


def _row(letter: Letter) -> list[str]:
    content, event = letter.content, letter.content.event
    place = f"{content.topic} {content.partition}/{content.offset}"
    purpose, directory = (event.purpose, event.directory or "") if event else ("", "")
    cells = (letter.id, _when(letter), content.code, str(content.attempts), place, purpose, directory, content.reason)
    return [printable(cell) for cell in cells]


def _print_table(letters: Sequence[Letter]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    columns = [index for index, name in enumerate(COLUMNS) if console.width >= WIDE or name in NARROW]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in (COLUMNS[index] for index in columns):
        table.add_column(
            name, no_wrap=name in WHOLE, overflow="fold", justify="right" if name == "attempts" else "left"
        )
    for cells in map(_row, letters):
        table.add_row(*(Text(cells[index]) for index in columns))
    console.print(table)
