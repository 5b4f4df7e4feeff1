"""The port `EventLog`: topics with partitions, consumer groups with committed offsets.

The docstrings state the promises; every adapter keeps them, and tests/contracts/ checks it. Nothing here knows what a
record means.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from schemas.errors import InvalidRequest
from schemas.event import Header

LARGEST_RECORD = 8_000_000  # bytes of key, value and headers
HEADER_OVERHEAD = 10  # bytes of one header beside its name and value, at most


class TopicPartition(NamedTuple):
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """The required properties of a topic. If `retention_s` is None, records are kept for ever. `compacted` keeps the
    last record of each key.
    """

    name: str
    partitions: int
    retention_s: float | None = None
    compacted: bool = False


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append. A `value` of None is a tombstone. The partition follows from `partition_key`, or from `key`
    where that is None. A key is text; only one that was copied from another record may be None, or bytes that are not
    UTF-8. If key and value are both None, the key may come back empty.
    """

    topic: str
    key: str | bytes | None
    value: bytes | None
    partition_key: str | bytes | None = None
    headers: Sequence[Header] = ()

    @property
    def key_bytes(self) -> bytes | None:
        return self.key.encode() if isinstance(self.key, str) else self.key

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        of_headers = sum(len(name.encode()) + len(value or b"") + HEADER_OVERHEAD for name, value in self.headers)
        return len(self.key_bytes or b"") + len(self.value or b"") + of_headers


@dataclass(frozen=True, slots=True)
class Record:
    """A record as the log returns it. `timestamp` is the log's append time in milliseconds since the epoch, never a
    producer's. `original_key`: other systems may append without a key, or with bytes that are not UTF-8.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    original_key: str | bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()

    @property
    def key(self) -> str:
        """The key as text: empty without a key."""
        key = self.original_key
        return key if isinstance(key, str) else (key or b"").decode(errors="replace")

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True)
class UnreadableBatch:
    """The records of a partition from offset `first` to `last`, which were appended together and cannot be read, for
    the reason `cause`.
    """

    first: int
    last: int
    cause: str

    def __str__(self) -> str:
        return f"the batch of offsets {self.first} to {self.last} cannot be read: {self.cause}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a consumer group and the partitions that it has: none while the group rebalances. `foreign` says that
    it is another program; `client` is what the program calls itself, and its address.
    """

    name: str
    partitions: frozenset[TopicPartition]
    client: str = ""
    foreign: bool = False


class CommittedOffset(NamedTuple):
    """Where a group continues in a partition: the next offset to handle, and metadata that the group has stored with it
    (at most 4,000 characters).
    """

    offset: int
    metadata: str = ""


def partition_of(partition_key: str | bytes, partitions: int) -> int:
    """The partition of a key: CRC-32 of its UTF-8 bytes, modulo the count. The same in every adapter, for ever."""
    return zlib.crc32(partition_key.encode() if isinstance(partition_key, str) else partition_key) % partitions


def partition_of_record(record: NewRecord, partitions: int) -> int:
    """The partition that a record goes to. Raises InvalidRequest for a record that no log takes."""
    try:
        size = record.size
        key = record.key if record.partition_key is None else record.partition_key
        partition = partition_of(key or b"", partitions)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"a record's key or the name of a header is not valid text: {error.reason}") from None
    if size > LARGEST_RECORD:
        raise InvalidRequest(
            f"a record of {size:,} bytes for topic '{record.topic}': the largest may have {LARGEST_RECORD:,}"
        )
    return partition


def fair_shares(available: Sequence[int], limit: int) -> list[int]:
    """Divides `limit` among partitions with that many `available` records: equal shares, and what one partition does
    not need goes to the others.
    """
    shares = [0] * len(available)
    open_shares = [index for index, count in enumerate(available) if count > 0]
    while limit > 0 and open_shares:
        equal_share = max(1, limit // len(open_shares))
        for index in open_shares:
            more = min(equal_share, available[index] - shares[index], limit)
            shares[index] += more
            limit -= more
        open_shares = [index for index in open_shares if shares[index] < available[index]]
    return shares


class Consumer(ABC):
    """A member of a consumer group. One task uses it at a time, except that `commit` may run beside `poll`.

    `epoch` is 0 until this member has joined the group. It grows with each rebalance that this member has seen, and
    only inside `poll`. `assignment` has the partitions of this member in this epoch, each with what the group had
    committed when the epoch began (offset 0 or the earliest record, and metadata "", if it has committed nothing).
    Rebalances are eager: in a new epoch every partition starts again at the committed offset.

    `unreadable` has the partitions that stop at a batch that cannot be read, as far as this member knows yet. The
    records before it are polled, and the other partitions go on.

    Not every offset has a record: there are markers of transactions, records of aborted transactions, which nobody
    sees, and what compaction has removed. A poll moves past them.
    """

    epoch: int
    assignment: Mapping[TopicPartition, CommittedOffset]
    unreadable: Mapping[TopicPartition, UnreadableBatch] = MappingProxyType({})

    @abstractmethod
    async def poll(
        self,
        max_records: int,
        timeout_s: float,
        *,
        topics: Collection[str] | None = None,
        paused: Collection[TopicPartition] = (),
    ) -> list[Record]:
        """The next records of the assigned partitions, in order of offset within each partition. The next poll
        continues after them.

        Waits up to `timeout_s` for the first record; returns [] when there was none, or when the assignment changed
        meanwhile (so a caller sees the new epoch at once). `topics` limits the poll to some of the subscribed topics;
        partitions in `paused` are not read. If several partitions have records, each gets a fair share. The membership
        is kept alive meanwhile. Raises OffsetGone when a committed offset no longer exists, Fenced when another process
        has joined under this member's name, Unavailable when the log cannot be read.
        """

    @abstractmethod
    def next_offsets(self) -> Mapping[TopicPartition, int]:
        """The offset at which the next poll continues, for each partition of the assignment. All records below it have
        been polled.
        """

    @abstractmethod
    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commits; durable on return. Raises Fenced when the group has rebalanced since this member's epoch began,
        Unavailable or StorageFull if it is not certain that the commit has succeeded.
        """

    @abstractmethod
    def holds_partitions(self) -> bool:
        """Whether the group has confirmed this member so recently that no other member can have its partitions. False
        for a process that was suspended for a long time, until it has asked the group again.
        """

    @abstractmethod
    async def close(self) -> None:
        """Leaves the group, so that other members take over at once. Commits nothing."""


class Reader(ABC):
    """Reads partitions without a group: it commits nothing and shares the partitions with nobody."""

    @abstractmethod
    async def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, in order of offset within each partition; [] after `timeout_s` without one. Raises
        Unavailable in place of [] if a partition stops at a batch that cannot be read.
        """

    @abstractmethod
    def next_offsets(self) -> Mapping[int, int]:
        """The offset at which the next poll continues, by partition; see Consumer.next_offsets."""

    @abstractmethod
    async def close(self) -> None: ...


class EventLog(ABC):
    """A durable partitioned log. Records of other systems' transactions are read once these are committed."""

    @abstractmethod
    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Creates the topics that are missing, and gives the others the retention of their spec; safe when several
        processes do it at once. Where other programs may create topics, one without any record gets the partitions that
        it lacks.

        Raises TopicMismatch, with nothing done, when another topic has fewer partitions than its spec.
        """

    @abstractmethod
    async def require_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Raises TopicMismatch when a topic is missing or differs from its spec in what cannot be changed. Changes
        nothing.
        """

    @abstractmethod
    async def append(self, records: Sequence[NewRecord]) -> list[TopicPartition]:
        """Appends records, durable on return. The records of one call keep their order within a partition. Returns the
        partition of each.

        Raises StorageFull when there is no room (nothing was appended), Unavailable when the outcome is unknown,
        InvalidRequest for an unknown topic or a record above 8 MB (nothing was appended). A caller that tries again may
        append twice.
        """

    @abstractmethod
    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        """Joins a group. A group that never committed in a partition starts at its earliest record. `member` is this
        member's stable name: a process that joins under the name of a crashed member takes its place. Records may be
        held back for `linger_s`, so that a consumer that can wait gets more of them at a time.
        """

    @abstractmethod
    async def reader(
        self, topic: str, *, at: Literal["start", "end"] | Mapping[int, int], partitions: Collection[int] | None = None
    ) -> Reader:
        """A reader, positioned when this returns: from "end" it sees every record that is appended afterwards. at: with
        offsets, by partition, it reads these partitions from there.
        """

    @abstractmethod
    async def partitions(self, topic: str) -> int:
        """How many partitions are used, from partition 0 on. Keys are distributed over these, and only these are read
        and counted. Raises InvalidRequest for an unknown topic.
        """

    @abstractmethod
    async def unused_partitions(self) -> dict[TopicPartition, int]:
        """The partitions beyond those that are used, because somebody has added them, each with its number of records.
        Nobody reads them.
        """

    @abstractmethod
    async def start_offsets(self, topic: str) -> dict[int, int]:
        """For each partition, the offset of its earliest record, or of its next record if it has none."""

    @abstractmethod
    async def end_offsets(self, topic: str) -> dict[int, int]:
        """For each partition, the offset that its next record will get."""

    @abstractmethod
    async def held_offsets(self, topic: str) -> dict[int, int]:
        """The partitions in which a transaction that another system has not finished holds back records, each with the
        offset of the first of them. They are read when the transaction ends.
        """

    @abstractmethod
    async def group_members(self, group: str) -> list[Member]:
        """The members of a group now; [] for a group that nobody has joined. Those whose session has ended are not
        among them.
        """

    @abstractmethod
    async def group_offsets(self, group: str, topic: str) -> dict[int, int]:
        """For each partition, the offset at which the group continues: what it has committed, or the start."""

    @abstractmethod
    async def lag(self, group: str, topic: str) -> dict[int, int]:
        """For each partition, how many offsets the group has not committed past, without those that are held back."""

    @abstractmethod
    async def oldest_uncommitted_ms(self, group: str, topic: str) -> int | None:
        """The append time, in ms since the epoch, of the oldest record that the group has not committed past; None
        if there is none. Leaves out records that are held back, and partitions where that record cannot be
        read: they wait for an operator, and the records of other partitions do not wait for them. Needs a few reads,
        not one for each record.
        """

    @abstractmethod
    async def enforce_retention(self) -> None:
        """Deletes records past their topic's retention that every group of the partition has committed past (an engine
        that deletes on its own may not wait for the groups), and compacts compacted topics: the last record of each key
        stays, a tombstone for a day. Offsets never change. Does nothing if the engine does this on its own.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Raises Unavailable when the log cannot be reached."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes the appends under way and releases everything."""
