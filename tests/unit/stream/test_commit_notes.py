"""The notes of committed offsets: the text that existing consumer groups have, and its meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.log import Committed, TopicPartition
from stream.commit_notes import Attempt, CleanStop, CommitNote, RunBy, note_of, noted, notes_of_new_owner

NOTES = [
    (CleanStop(), "stopped"),
    (RunBy("host-process-1"), "run by host-process-1"),
    (RunBy(""), "run by "),
    (RunBy("run by stopped"), "run by run by stopped"),
    (Attempt(1), "attempt 1"),
    (Attempt(12), "attempt 12"),
]


@pytest.mark.parametrize(("note", "text"), NOTES)
def test_the_text_of_a_note_never_changes(note: CommitNote, text: str) -> None:
    assert noted(7, note) == Committed(7, text)
    assert note_of(Committed(7, text)) == note


@given(st.text())
def test_a_member_of_any_name_finds_its_own_note(member: str) -> None:
    assert note_of(noted(0, RunBy(member))) == RunBy(member)


@pytest.mark.parametrize(
    "text", ["", "stopped ", "Stopped", "run by", "attempt", "attempt ", "attempt -1", "attempt 1 "]
)
def test_what_no_worker_has_written_is_no_note(text: str) -> None:
    assert note_of(Committed(7, text)) is None


def test_a_new_owner_writes_its_name_everywhere_but_where_a_record_is_being_tried() -> None:
    at = [TopicPartition("images", partition) for partition in range(5)]
    left = ["", "stopped", "run by two", "run by one", "attempt 2"]
    assignment = {each: Committed(10 + each.partition, text) for each, text in zip(at, left, strict=True)}
    assert notes_of_new_owner(assignment, "one") == {
        each: Committed(10 + each.partition, "run by one") for each in at[:3]
    }
