"""Prints dead letters: a table on a terminal, a line each on a pipe, JSON. Of an image that was erased, it prints only
where its record was.
"""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from facestream.terminal import Cell, escaped, print_rows, printable
from stream.dead_letters import Content, Letter
from stream.erase.erasures import Erasures

NARROW = ("id", "when", "code", "directory", "reason")  # on a narrow terminal; `show` has the others
WHOLE = ("id", "when", "code", "attempts")  # never broken
MOST_BYTES, MOST_HEADERS, MOST_HEADER_BYTES = 2_000, 30, 200  # of a record, as shown to people
LABEL = 10
ERASED = "it was erased after it came"
NO_VALUE = "none: the record had no value, or is of a kind that letters do not keep"


def print_list(letters: Sequence[Letter], erasures: Erasures, *, as_json: bool) -> None:
    row_of = _summary if as_json else _row
    print_rows([row_of(it, was_erased(it, erasures)) for it in letters], as_json=as_json, whole=WHOLE, narrow=NARROW)


def print_one(letter: Letter, content: Content, erasures: Erasures, *, as_json: bool) -> None:
    erased = was_erased(letter, erasures)
    if as_json:
        print(json.dumps(_summary(letter, erased) | _content_members(letter, content, erased)))
        return
    for name, value in _summary(letter, erased).items():
        _print_field(name, "" if value is None else printable(str(value)))
    if erased:
        return
    for name, header in content.headers[:MOST_HEADERS]:
        text = "null" if header is None else _shortened(header, MOST_HEADER_BYTES)
        _print_field("header", f"{_shortened(name.encode(), MOST_HEADER_BYTES)}: {text}")
    if len(content.headers) > MOST_HEADERS:
        _print_field("header", f"... of {len(content.headers):,} headers")
    if letter.event is not None:
        print(f"{'event':<{LABEL}} {json.dumps(letter.event.model_dump(exclude_none=True), indent=2)}")
    else:
        _print_field("record", NO_VALUE if content.value is None else _shortened(content.value, MOST_BYTES))


def was_erased(letter: Letter, erasures: Erasures) -> bool:
    """Whether the image was erased after it came. Of an event that does not fit its schema, only the image and the
    directory are known.
    """
    if letter.event is not None:
        return erasures.cover_image(letter.event)
    if letter.invalid is None:
        return False
    return erasures.cover_origin(letter.directory, None, letter.image_id, letter.origin)


def describe_count(letters: int, code: str | None = None, directory: str | None = None) -> str:
    """The number of dead letters, and the filter that they match."""
    count = f"{letters} dead letter{'' if letters == 1 else 's'}" if letters else "there are no dead letters"
    with_code = "" if code is None else f" with code '{printable(code)}'"
    of_directory = "" if directory is None else f" of directory '{printable(directory)}'"
    return f"{count}{with_code}{of_directory}"


def _summary(letter: Letter, erased: bool) -> dict[str, Cell]:
    failure, event = letter.failure, None if erased else letter.event
    return {
        "id": letter.id,
        "image_id": letter.image_id or None,
        "when": _when(letter),
        "code": failure.code,
        "reason": ERASED if erased else failure.reason,
        "attempts": failure.attempts,
        "topic": failure.topic,
        "partition": failure.partition,
        "offset": failure.offset,
        "stage": failure.stage or None,
        "exception": failure.exception or None,
        "purpose": None if event is None else event.purpose,
        "directory": None if erased else letter.directory,
    }


def _row(letter: Letter, erased: bool) -> dict[str, Cell]:
    facts = _summary(letter, erased)
    place = {"from": f"{facts['topic']} {facts['partition']}/{facts['offset']}"}
    first, last = ("id", "when", "code", "attempts"), ("purpose", "directory", "reason")
    return {it: facts[it] for it in first} | place | {it: facts[it] for it in last}


def _content_members(letter: Letter, content: Content, erased: bool) -> dict[str, object]:
    """The content of the record that failed, for a program: the value as base64, headers as text."""
    if erased:
        return {"erased": True, "event": None, "headers": [], "value": None}
    return {
        "erased": False,
        "event": letter.event and letter.event.model_dump(exclude_none=True),
        "headers": [(name, _header_text(header)) for name, header in content.headers],
        "value": None if content.value is None else base64.b64encode(content.value).decode(),
    }


def _header_text(header: bytes | None) -> str | None:
    return None if header is None else header.decode(errors="backslashreplace")


def _print_field(name: str, text: str) -> None:
    """Prints a field, and further lines of its text behind its label, so that no text looks like another field."""
    print(f"{name:<{LABEL}} {text}".rstrip().replace("\n", "\n" + " " * (LABEL + 1)))


def _shortened(data: bytes, most: int) -> str:
    return escaped(data[:most]) + (f"\n... of {len(data):,} bytes" if len(data) > most else "")


def _when(letter: Letter) -> str:
    return datetime.fromtimestamp(letter.timestamp / 1000, UTC).isoformat(timespec="seconds")
