"""Reads offsets from Kafka: where partitions start and end, what a group has committed, when a record was appended."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Literal

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupLoadInProgressError

from backends.kafka.connect import KafkaServers, LazyClient
from backends.kafka.fetch_sessions import FetchSessions, fetch_in_sessions
from backends.log import CommittedOffset, TopicPartition

NEVER_COMMITTED = -1
READ_MS = 250  # until unreadable batches are looked for


class KafkaOffsets:
    """Reads offsets, in terms of the port, with clients that are made at their first use."""

    def __init__(self, servers: KafkaServers, admin: LazyClient[AIOKafkaAdminClient]) -> None:
        self._servers = servers
        self._admin = admin
        self._consumer: LazyClient[AIOKafkaConsumer] = LazyClient(servers.consumer)
        self._first_batch_reader: LazyClient[tuple[AIOKafkaConsumer, FetchSessions]] = LazyClient(
            self._new_first_batch_reader
        )
        self._reading_times = asyncio.Lock()
        self._append_times: dict[tuple[str, TopicPartition], tuple[int, int | None]] = {}

    async def _new_first_batch_reader(self) -> tuple[AIOKafkaConsumer, FetchSessions]:
        """A consumer that reads only the first batch of each partition."""
        consumer = await self._servers.consumer(
            auto_offset_reset="earliest", max_partition_fetch_bytes=4096, check_crcs=False
        )
        return consumer, fetch_in_sessions(consumer)

    async def bounds(
        self, at: Literal["start", "end"], partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The offset of the earliest record at "start", or the next offset if there is none; the next offset at
        "end".
        """
        wanted = [self._servers.to_cluster(each) for each in partitions]

        async def read() -> dict[TopicPartition, int]:
            consumer = await self._consumer()
            offsets = await (consumer.beginning_offsets if at == "start" else consumer.end_offsets)(wanted)
            return {self._servers.from_cluster(partition): offset for partition, offset in offsets.items()}

        return await self._servers.call("reading offsets", read)

    async def committed_offsets(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        """What the group has committed, without the partitions in which it has committed nothing."""
        wanted = [self._servers.to_cluster(at) for at in partitions]

        async def read() -> dict[TopicPartition, CommittedOffset]:
            found = await (await self._admin()).list_consumer_group_offsets(
                self._servers.prefix + group, partitions=wanted
            )
            if len(found) < len(wanted):  # aiokafka does not raise the error of the answer as a whole
                raise GroupLoadInProgressError
            return {
                self._servers.from_cluster(partition): CommittedOffset(offset, metadata)
                for partition, (offset, metadata) in found.items()
                if offset != NEVER_COMMITTED
            }

        return await self._servers.call("reading committed offsets", read) if wanted else {}

    async def uncommitted_ranges(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """For each partition the first offset that the group has not committed past, and the end offset."""
        committed, starts, ends = await asyncio.gather(
            self.committed_offsets(group, partitions), self.bounds("start", partitions), self.bounds("end", partitions)
        )
        return {at: (max(starts[at], committed[at].offset if at in committed else 0), ends[at]) for at in partitions}

    async def oldest_uncommitted_ms(self, group: str, partitions: Collection[TopicPartition]) -> int | None:
        """See EventLog.oldest_uncommitted_ms. Append times are cached, by the offset of the record."""
        oldest_offsets = {
            at: first for at, (first, end) in (await self.uncommitted_ranges(group, partitions)).items() if first < end
        }
        known = {at: self._append_times.get((group, at), (NEVER_COMMITTED, None)) for at in oldest_offsets}
        read = await self._servers.call(
            "reading records",
            lambda: self._read_times({at: first for at, first in oldest_offsets.items() if known[at][0] != first}),
        )
        self._append_times |= {(group, at): (oldest_offsets[at], timestamp) for at, timestamp in read.items()}
        times = [read[at] if at in read else known[at][1] for at in oldest_offsets]
        return min((timestamp for timestamp in times if timestamp is not None), default=None)

    async def _read_times(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """The append times of the records at these offsets, or of the next ones where compaction has left gaps; None
        where they cannot be read.
        """
        times: dict[TopicPartition, int | None] = {}
        if not offsets:
            return times
        consumer, sessions = await self._first_batch_reader()
        async with self._reading_times:
            consumer.assign([self._servers.to_cluster(at) for at in offsets])
            for at, offset in offsets.items():
                consumer.seek(self._servers.to_cluster(at), offset)
            while len(times) < len(offsets):
                for partition, records in (await consumer.getmany(timeout_ms=READ_MS)).items():
                    times[self._servers.from_cluster(partition)] = records[0].timestamp
                    consumer.pause(partition)
                for partition in await sessions.pause_unreadable(consumer):
                    times.setdefault(self._servers.from_cluster(partition), None)
        return times

    async def close(self) -> None:
        if self._consumer.made is not None:
            await self._consumer.made.stop()
        if self._first_batch_reader.made is not None:
            await self._first_batch_reader.made[0].stop()
