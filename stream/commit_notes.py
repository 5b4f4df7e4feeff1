"""The note that a worker stores with a committed offset. It tells the next worker how this one ended.

The log keeps the note as the metadata of the commit. Only this file writes and reads that text. The text must not
change, because existing consumer groups have it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from backends.log import CommittedOffset, TopicPartition

CLEAN_STOP = "stopped"
RUN_BY = "run by "
ATTEMPT = "attempt "


@dataclass(frozen=True, slots=True)
class CleanStop:
    """The worker was stopped while it was handling nothing."""


@dataclass(frozen=True, slots=True)
class Owner:
    """This member has the partition and may be handling records from it."""

    member: str


@dataclass(frozen=True, slots=True)
class SuspectAttempt:
    """The record at the committed offset is being tried, because it may have ended a process: the number of this
    attempt, from 1.
    """

    number: int


CommitNote = CleanStop | Owner | SuspectAttempt


def offset_with_note(offset: int, note: CommitNote) -> CommittedOffset:
    """A commit of an offset with a note."""
    match note:
        case CleanStop():
            return CommittedOffset(offset, CLEAN_STOP)
        case Owner(member):
            return CommittedOffset(offset, f"{RUN_BY}{member}")
        case SuspectAttempt(number):
            return CommittedOffset(offset, f"{ATTEMPT}{number}")


def note_of(committed: CommittedOffset) -> CommitNote | None:
    """The note of a committed offset; None if no worker has left one."""
    text = committed.metadata
    if text == CLEAN_STOP:
        return CleanStop()
    if text.startswith(RUN_BY):
        return Owner(text.removeprefix(RUN_BY))
    if match := re.fullmatch(f"{ATTEMPT}([0-9]+)", text):
        return SuspectAttempt(int(match[1]))
    return None


def notes_of_new_owner(
    assignment: Mapping[TopicPartition, CommittedOffset], member: str
) -> dict[TopicPartition, CommittedOffset]:
    """The commits that a member makes for newly assigned partitions: its own note, unless it is there already. The note
    of an attempt stays until the record is tried again.
    """
    mine = Owner(member)
    notes = {at: note_of(committed) for at, committed in assignment.items()}
    return {
        at: offset_with_note(committed.offset, mine)
        for at, committed in assignment.items()
        if notes[at] != mine and not isinstance(notes[at], SuspectAttempt)
    }
