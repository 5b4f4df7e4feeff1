"""Output of commands for people: messages on the standard error, tables, and text that cannot control a terminal."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.errors import ConfigurationError, FacestreamError

ZERO_WIDTH_JOINER = "\u200d"  # holds emoji together
WIDE = 120  # cells of a terminal that shows every column

Cell = str | int | float | bool | None


def print_message(message: str) -> None:
    """Prints one message to the standard error. If it cannot be written, the command goes on."""
    with suppress(OSError):
        print(f"facestream: {printable(message)}", file=sys.stderr, flush=True)


def print_failure(failure: BaseException) -> set[str]:
    """Prints a message for each error: a group of tasks raises several. Returns their codes. failure: a
    FacestreamError, or a group of them.
    """
    if isinstance(failure, BaseExceptionGroup):
        return {code for each in failure.exceptions for code in print_failure(each)}
    assert isinstance(failure, FacestreamError)
    print_message(failure.message)
    return {failure.code}


def confirm(question: str, effect: str) -> bool:
    """Asks the person at the terminal. Without a terminal it raises ConfigurationError, which says the effect and that
    --yes confirms it.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{effect}: add --yes to confirm it")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def printable(text: str) -> str:
    """The text, with every character replaced that could control a terminal or that no terminal can show."""
    return "".join(it if it.isprintable() or it == ZERO_WIDTH_JOINER else "\ufffd" for it in text)


def escaped(data: bytes) -> str:
    """The bytes as text that cannot control a terminal: lines of readable characters, and everything else escaped as in
    Python, for example \\x1b.
    """
    text = data.decode(errors="backslashreplace")
    return "".join(it if it.isprintable() or it == "\n" else it.encode("unicode_escape").decode() for it in text)


def print_rows(
    rows: Sequence[Mapping[str, Cell]], *, as_json: bool, whole: Sequence[str] = (), narrow: Sequence[str] = ()
) -> None:
    """Prints rows with the same columns: as JSON Lines, as a table on a terminal, or on a pipe as one line each, with
    tabs between the columns and no header.

    whole: columns that are never wrapped on a terminal. narrow: the only columns that a terminal under 120 cells shows.
    """
    if as_json:
        for row in rows:
            print(json.dumps(row))
    elif not sys.stdout.isatty():
        for row in rows:
            print("\t".join(map(_cell, row.values())))
    elif rows:
        console = Console(highlight=False, markup=False, emoji=False)
        columns = [name for name in rows[0] if not narrow or console.width >= WIDE or name in narrow]
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for name in columns:
            is_number = all(isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows)
            table.add_column(name, no_wrap=name in whole, overflow="fold", justify="right" if is_number else "left")
        for row in rows:
            table.add_row(*(Text(_cell(row[name])) for name in columns))
        console.print(table)


def _cell(value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else printable(str(value))


def log_warnings_only() -> None:
    """Limits the log to warnings: the command itself prints the rest."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
