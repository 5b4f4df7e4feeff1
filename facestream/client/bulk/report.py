"""Prints the answers of a bulk command as they arrive, and at the end the failures with their reasons."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facestream.client.bulk.source import PictureFile
from facestream.client.report import advice, json_line
from facestream.terminal import print_message, printable
from schemas.answers import Body, Problem, RecognizedBody, RecognizedPerson
from schemas.errors import ConfigurationError
from schemas.records import Purpose

LISTED = 20  # failures of each code; the file of --report has all


@dataclass(frozen=True, slots=True)
class Failure:
    photo: str
    person: str | None
    status: int
    body: Problem


class BulkReport:
    """Prints and counts answers. file: the failures are written to it as JSON Lines; it is empty if there are none."""

    def __init__(self, purpose: Purpose, file: Path | None, *, as_json: bool) -> None:
        self._purpose, self._file, self._as_json = purpose, file, as_json
        self._counts: Counter[str] = Counter()
        self._failures: list[Failure] = []

    @property
    def failed(self) -> bool:
        return bool(self._failures)

    @property
    def service_failed(self) -> bool:
        """Whether the service, rather than a picture, was the cause of a failure."""
        return any(it.status >= 500 for it in self._failures)

    def check(self) -> None:
        """Raises ConfigurationError when the file cannot be written. Call it before the work."""
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                open(self._file, "ab").close()
            except OSError as error:
                raise ConfigurationError(f"--report: {self._file} cannot be written: {error.strerror}") from None

    def add(self, item: PictureFile, status: int, body: Body) -> None:
        person = {} if item.person is None else {"person": item.person}
        if isinstance(body, Problem):
            self._failures.append(Failure(item.photo, item.person, status, body))
            line = {"photo": item.photo} | person | {"error": body.members()}
        else:
            self._count(status, body)
            line = {"photo": item.photo} | body.members()
        if self._as_json:
            json_line(line)
        elif isinstance(body, RecognizedBody):
            print(f"{printable(item.photo)}: {describe_people(body)}")

    def close(self, unanswered: int) -> None:
        """Prints the totals and the failures. unanswered: the number of pictures without an answer."""
        parts = [f"{count:,} {what}" for what, count in self._counts.items()]
        if self._failures:
            parts.append(f"{len(self._failures):,} failed")
        if unanswered:
            parts.append(f"{unanswered:,} left")
        print_message(", ".join(parts) or "nothing to do")
        for code, failures in _group_by_code(self._failures):
            print_message(f"{len(failures):,} × {code}")
            for it in failures[:LISTED]:
                print_message(f"  {it.photo}: {it.body.detail}{advice(it.body)}")
            if len(failures) > LISTED:
                more = f"they are in {self._file}" if self._file else "--report FILE keeps all"
                print_message(f"  and {len(failures) - LISTED:,} more: {more}")
        if self._file is not None:
            self._write(self._file)
        if unanswered:
            print_message("the same command again goes on where this one ended")

    def _count(self, status: int, body: Body) -> None:
        if isinstance(body, RecognizedBody):
            self._counts["pictures"] += 1
            self._counts["faces"] += len(body.persons)
            self._counts["with a name"] += sum(person.id is not None for person in body.persons)
        else:
            self._counts["learned" if status == 201 else "known already"] += 1

    def _write(self, file: Path) -> None:
        lines = []
        for it in self._failures:
            person = {} if it.person is None else {"person": it.person}
            lines.append(json.dumps({"photo": it.photo} | person | {"error": it.body.members()}) + "\n")
        file.write_text("".join(lines))


def _group_by_code(failures: Sequence[Failure]) -> list[tuple[str, list[Failure]]]:
    """The failures by code, the most frequent code first."""
    groups: dict[str, list[Failure]] = {}
    for it in failures:
        groups.setdefault(it.body.code, []).append(it)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def describe_people(body: RecognizedBody) -> str:
    """Everybody in a photo, on one line."""
    return ", ".join(map(_describe_person, body.persons)) or "no face"


def _describe_person(person: RecognizedPerson) -> str:
    if person.id is None:
        return "?"
    return printable(person.id) if person.probability is None else f"{printable(person.id)} {person.probability:.0%}"
