"""Prints a comparison of two generations: tables on a terminal, the same lines with tabs on a pipe, or JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from facestream.admin.comparison import Comparison, select_differences
from facestream.terminal import printable
from sink.evaluate.comparing import FPIR, Accuracy, BestMatch, Difference

MOST_PRINTED = 20  # differences; --json has all
NOTHING = "—"


def print_comparison(comparison: Comparison, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(comparison)))
        return
    directories = "directory" if len(comparison.directories) == 1 else "directories"
    print(f"{comparison.faces:,} faces in {len(comparison.directories):,} {directories}")
    _print_not_compared(comparison)
    _print_table(("", comparison.old, comparison.new), _figures(comparison), right=(1, 2), whole=(0, 1, 2))
    if comparison.old_figures.portraits == 0:
        print("no person has two portraits: nothing shows how often the right person is found")
    for name, of_one in ((comparison.old, comparison.old_figures), (comparison.new, comparison.new_figures)):
        if of_one.strangers and of_one.strangers_named is None:
            print(f"{name} has no threshold yet: it gets one when its replay is complete")
    _print_differences(comparison)


def predicted_person(best: BestMatch) -> str:
    """The predicted person, in brackets if the similarity is below the threshold."""
    return f"({best.person})" if best.named is False else best.person


def _print_not_compared(comparison: Comparison) -> None:
    left_out = comparison.left_out
    for count, has, lacks in (
        (left_out.only_old, comparison.old, comparison.new),
        (left_out.only_new, comparison.new, comparison.old),
    ):
        if count:
            print(f"{count:,} more that only {has} has were left out: `facestream reembed {lacks}` makes them")


def _figures(comparison: Comparison) -> list[tuple[str, ...]]:
    old, new = comparison.old_figures, comparison.new_figures
    return [
        (f"own person first, of {old.portraits:,} portraits", _percent(old.right), _percent(new.right)),
        (f"own person first and named, at an FPIR of {FPIR:.0%}", _percent(old.named), _percent(new.named)),
        (f"strangers named, of {old.strangers:,}", _percent(old.strangers_named), _percent(new.strangers_named)),
        (
            "the median stranger is below the threshold by",
            _distance_below_threshold(old, 0),
            _distance_below_threshold(new, 0),
        ),
        (
            "1 stranger in 100 is below it by less than",
            _distance_below_threshold(old, 1),
            _distance_below_threshold(new, 1),
        ),
    ]


def _print_differences(comparison: Comparison) -> None:
    right_old = sum(it.right == "old" for it in comparison.differences)
    right_new = len(comparison.differences) - right_old
    print(f"only {comparison.old} is right: {right_old:,}, only {comparison.new} is right: {right_new:,}")
    if not comparison.differences:
        return
    print("the predicted person of each, with the similarity; in brackets where it is below the threshold:")
    printed = select_differences(comparison.differences, MOST_PRINTED)
    columns = ("directory", "person", "face_id", comparison.old, comparison.new)
    _print_table(columns, [_row(it) for it in printed], whole=(2,))
    if len(printed) < len(comparison.differences):
        print(f"{len(comparison.differences) - len(printed):,} more: --json has all")


def _row(difference: Difference) -> tuple[str, ...]:
    predicted = [f"{predicted_person(first)} {first.similarity:.3f}" for first in (difference.old, difference.new)]
    return (difference.directory, difference.person, difference.face_id, *predicted)


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), whole: Sequence[int]
) -> None:
    """right: columns that are aligned to the right. whole: columns that are never wrapped."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(map(printable, row)))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(
            Text(column), justify="right" if index in right else "left", no_wrap=index in whole, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False, markup=False, emoji=False).print(table)


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.2%}"


def _distance_below_threshold(accuracy: Accuracy, index: int) -> str:
    return NOTHING if accuracy.strangers_below is None else f"{accuracy.strangers_below[index]:.3f}"
