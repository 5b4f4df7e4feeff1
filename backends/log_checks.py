"""Checks of commits and of topics, the same for every log."""

from collections.abc import Mapping

from backends.log import CommittedOffset, TopicPartition, TopicSpec
from schemas.errors import InvalidRequest, TopicMismatch

METADATA_CHARACTERS = 4_000


def partition_count_mismatch(spec: TopicSpec, partitions: int) -> TopicMismatch:
    """The error of a topic that has fewer partitions than its spec."""
    return TopicMismatch(
        f"topic '{spec.name}' has {partitions} partitions, not {spec.partitions}, and they decide where a key goes:"
        " `facestream init` adds the missing ones to a topic that never had a record; otherwise delete the topic if"
        " nobody needs its records, or use a new log, and run it again"
    )


def check_metadata(offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
    """Raises InvalidRequest when a commit's metadata is longer than METADATA_CHARACTERS."""
    if any(len(committed.metadata) > METADATA_CHARACTERS for committed in offsets.values()):
        raise InvalidRequest(f"the metadata of a commit may have {METADATA_CHARACTERS} characters")
