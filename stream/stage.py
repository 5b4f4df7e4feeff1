"""The interface of a stage, which a worker runs. A stage knows nothing of offsets."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from backends.log import CommittedOffset, NewRecord, Record, TopicPartition
from schemas.records import EraseRequested, ImageReceived


class Stage(Protocol):
    """A stage of the stream. `name` is its consumer group."""

    name: str

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Called when a new epoch begins. State that the stage keeps in memory is valid only if it belongs to the
        committed offset.
        """

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        """The outputs of these records. Effects must be idempotent, because records may be handled again. Raises
        FacestreamError.
        """

    def event_of(self, record: Record) -> ImageReceived | EraseRequested:
        """The event from which a record was made. If the record is not the event itself, `received_at` tells when the
        event was received. Raises UnreadableRecord.
        """

    async def check_stores(self) -> None:
        """Raises Unavailable while a store that `handle` needs is unavailable."""
