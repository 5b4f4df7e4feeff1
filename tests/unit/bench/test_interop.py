"""The comparison of what SDKs have sent with what was read finds what is wrong."""

import json

import pytest

from backends.log import Record
from bench.interop.cases import KINDS, Case, make_cases, table_of, wrong_answers, wrong_records
from schemas.cloudevents import TYPES

SDK = "javascript"


@pytest.fixture
def cases() -> list[Case]:
    return make_cases(SDK, "photos", "prefix.")


def record_of(case: Case, **changes: object) -> Record:
    attributes = {name: case.event[name] for name in ("id", "source", "type", "data")}
    value = json.dumps(attributes | {"specversion": "1.0"} | changes).encode()
    return Record(case.event["topic"], 0, 0, 0, "", value)


def test_the_cases_have_everything_in_them(cases: list[Case]) -> None:
    assert len(cases) == len({case.image.image_id for case in cases}) == 2 * 3 * 5 * 3
    assert {case.event["mode"] for case in cases} == {"binary", "structured"}
    assert {case.event["kind"] for case in cases} == set(KINDS[SDK])
    assert {case.event["type"] for case in cases} == set(TYPES) - {"facestream.image.detect"}
    assert {case.event["topic"] for case in cases} == {"prefix.images.received", "prefix.images.received.bulk"}
    assert {case.event["id"] == case.image.image_id for case in cases} == {True, False}
    assert [line.split()[1:] for line in table_of(cases).splitlines()] == [["binary", "45"], ["structured", "45"]]


def test_events_that_are_lost_repeated_changed_refused_or_not_sent_are_found(cases: list[Case]) -> None:
    records = [record_of(case) for case in cases]
    assert wrong_records(cases, records) == []
    lost, repeated, changed, refused, *_ = cases
    other = record_of(cases[4], id="nobody sent it")
    data = changed.event["data"] | {"filename": "other.jpg"}
    records = [record_of(repeated), record_of(changed, data=data), record_of(refused, specversion="0.3"), *records[4:]]
    wrong = wrong_records(cases, [record_of(repeated), *records, other])
    assert len(wrong) == 6  # the refused one is missing too
    for case in (lost, repeated, changed, refused):
        assert [line for line in wrong if line.startswith(f"{case.name} is read as")]
    assert [line for line in wrong if "specversion" in line]
    assert [line for line in wrong if line.startswith("nobody sent")]


def test_missing_different_and_wrong_answers_are_found(cases: list[Case]) -> None:
    answers = {case.image.image_id: {"201 {}" if case.image.purpose == "learn" else "200 {}"} for case in cases}
    assert wrong_answers(cases, answers) == []
    missing, failed, several, *_ = cases
    del answers[missing.image.image_id]
    answers |= {failed.image.image_id: {"422 {}"}, several.image.image_id: {"201 {}", '201 {"a": 1}'}}
    wrong = wrong_answers(cases, answers)
    assert len(wrong) == 3
    for case in (missing, failed, several):
        assert [line for line in wrong if line.startswith(f"{case.name} is answered")]
