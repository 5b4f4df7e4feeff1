"""A comparison of two generations as the command line shows it: a few lines, or JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from facestream.terminal import printable
from sink.evaluate.comparing import STRANGERS, Difference, Figures, First

if TYPE_CHECKING:
    from facestream.commands.models.compare import Comparison

MOST_SHOWN = 20  # differences; --json has all
NOTHING = "—"


def print_comparison(comparison: "Comparison", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(comparison)))
        return
    people = "directory" if len(comparison.directories) == 1 else "directories"
    print(f"{comparison.faces:,} faces in {len(comparison.directories):,} {people}")
    _say_left_out(comparison)
    out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    out.print(_table(comparison))
    if comparison.old_figures.portraits == 0:
        print("no person has two portraits: nothing says who is recognized rightly")
    for name, of_one in ((comparison.old, comparison.old_figures), (comparison.new, comparison.new_figures)):
        if of_one.strangers and of_one.strangers_named is None:
            print(f"{name} has no threshold yet: it gets one when its replay is complete")
    _print_differences(out, comparison)


def _say_left_out(comparison: "Comparison") -> None:
    left_out = comparison.left_out
    for count, has, lacks in (
        (left_out.only_old, comparison.old, comparison.new),
        (left_out.only_new, comparison.new, comparison.old),
    ):
        if count:
            print(f"{count:,} more that only {has} has were left out: `facestream reembed {lacks}` makes them")


def _table(comparison: "Comparison") -> Table:
    old, new = comparison.old_figures, comparison.new_figures
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in ("", comparison.old, comparison.new):
        table.add_column(Text(column), justify="left" if not column else "right", no_wrap=True)
    rows: list[tuple[str, str, str]] = [
        (f"own person first, of {old.portraits:,} portraits", _percent(old.right), _percent(new.right)),
        (f"and named, {STRANGERS:.0%} of strangers", _percent(old.named), _percent(new.named)),
        (f"strangers named, of {old.strangers:,}", _percent(old.strangers_named), _percent(new.strangers_named)),
        ("the median stranger below the threshold by", _below(old, 0), _below(new, 0)),
        ("1 stranger in 100 below the threshold by less than", _below(old, 1), _below(new, 1)),
    ]
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _print_differences(out: Console, comparison: "Comparison") -> None:
    right_old = sum(it.right == "old" for it in comparison.differences)
    right_new = len(comparison.differences) - right_old
    print(f"only {comparison.old} is right: {right_old:,}, only {comparison.new} is right: {right_new:,}")
    if not comparison.differences:
        return
    print("whom they say, with the similarity; in brackets where it is below the threshold:")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in ("directory", "person", "face_id", comparison.old, comparison.new):
        table.add_column(Text(column), no_wrap=column == "face_id", overflow="fold")
    some = of_both_kinds(comparison.differences, MOST_SHOWN)
    for it in some:
        table.add_row(*(Text(printable(cell)) for cell in _row(it)))
    out.print(table)
    if len(some) < len(comparison.differences):
        print(f"{len(comparison.differences) - len(some):,} more: --json has all")


def of_both_kinds(found: Sequence[Difference], most: int) -> list[Difference]:
    """At most so many, half of them where OLD is right, as far as there are as many."""
    old = [it for it in found if it.right == "old"]
    new = [it for it in found if it.right == "new"]
    of_old = min(len(old), max(most // 2, most - len(new)))
    return old[:of_old] + new[: most - of_old]


def person_of(first: First) -> str:
    """In brackets who would not be named."""
    return f"({first.person})" if first.named is False else first.person


def _row(it: Difference) -> tuple[str, ...]:
    named = [f"{person_of(first)} {first.similarity:.3f}" for first in (it.old, it.new)]
    return (it.directory, it.person, it.face_id, *named)


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.2%}"


def _below(of_one: Figures, at: int) -> str:
    return NOTHING if of_one.strangers_below is None else f"{of_one.strangers_below[at]:.3f}"
