"""Prints dead letters: a table on a terminal, a line each on a pipe, JSON."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from facestream.terminal import Cell, print_rows, printable
from stream.dead_letters import Letter

NARROW = ("id", "when", "code", "directory", "reason")  # on a narrow terminal; `show` has the others
WHOLE = ("id", "when", "code", "attempts")  # never broken


def print_list(letters: Sequence[Letter], *, as_json: bool) -> None:
    rows = [_summary(letter) if as_json else _row(letter) for letter in letters]
    print_rows(rows, as_json=as_json, whole=WHOLE, narrow=NARROW)


def print_one(letter: Letter, *, as_json: bool) -> None:
    event = letter.content.event and letter.content.event.model_dump(exclude_none=True)
    if as_json:
        print(json.dumps(_summary(letter) | {"event": event}))
        return
    for name, value in _summary(letter).items():
        print(f"{name:<10} {'' if value is None else printable(str(value))}".rstrip())
    text = "none: the record is no image, or cannot be read" if event is None else json.dumps(event, indent=2)
    print(f"{'event':<10} {text}")


def describe_count(letters: int, code: str | None = None, directory: str | None = None) -> str:
    """The number of dead letters, and the filter that they match."""
    count = f"{letters} dead letter{'' if letters == 1 else 's'}" if letters else "there are no dead letters"
    with_code = "" if code is None else f" with code '{printable(code)}'"
    of_directory = "" if directory is None else f" of directory '{printable(directory)}'"
    return f"{count}{with_code}{of_directory}"


def _summary(letter: Letter) -> dict[str, Cell]:
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
        "purpose": None if event is None else event.purpose,
        "directory": None if event is None else event.directory,
    }


def _row(letter: Letter) -> dict[str, Cell]:
    content, event = letter.content, letter.content.event
    return {
        "id": letter.id,
        "when": _when(letter),
        "code": content.code,
        "attempts": content.attempts,
        "from": f"{content.topic} {content.partition}/{content.offset}",
        "purpose": None if event is None else event.purpose,
        "directory": None if event is None else event.directory,
        "reason": content.reason,
    }


def _when(letter: Letter) -> str:
    return datetime.fromtimestamp(letter.record.timestamp / 1000, UTC).isoformat(timespec="seconds")
