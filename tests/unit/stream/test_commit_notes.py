"""The notes of committed offsets: the text that existing consumer groups have, and its meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.log import CommittedOffset, TopicPartition
from stream.commit_notes import (
    CleanStop,
    CommitNote,
    Owner,
    SuspectAttempt,
    note_of,
    notes_of_new_owner,
    offset_with_note,
)

NOTES = [
    (CleanStop(), "stopped"),
    (Owner("host-process-1"), "run by host-process-1"),
    (Owner(""), "run by "),
    (Owner("run by stopped"), "run by run by stopped"),
    (SuspectAttempt(1), "attempt 1"),
    (SuspectAttempt(12), "attempt 12"),
]


@pytest.mark.parametrize(("note", "text"), NOTES)
def test_the_text_of_a_note_never_changes(note: CommitNote, text: str) -> None:
    assert offset_with_note(7, note) == CommittedOffset(7, text)
    assert note_of(CommittedOffset(7, text)) == note


@given(st.text())
def test_the_name_of_a_member_may_be_any_text(member: str) -> None:
    assert note_of(offset_with_note(0, Owner(member))) == Owner(member)


@pytest.mark.parametrize(
    "text", ["", "stopped ", "Stopped", "run by", "attempt", "attempt ", "attempt -1", "attempt 1 "]
)
def test_texts_that_no_worker_writes_are_not_notes(text: str) -> None:
    assert note_of(CommittedOffset(7, text)) is None


def test_a_new_owner_writes_its_name_everywhere_but_where_a_record_is_being_tried() -> None:
    at = [TopicPartition("images", partition) for partition in range(5)]
    left = ["", "stopped", "run by two", "run by one", "attempt 2"]
    assignment = {each: CommittedOffset(10 + each.partition, text) for each, text in zip(at, left, strict=True)}
    assert notes_of_new_owner(assignment, "one") == {
        each: CommittedOffset(10 + each.partition, "run by one") for each in at[:3]
    }
