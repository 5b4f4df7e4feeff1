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
        """A consumer that reads only the first batch of each partition, and the last stable offsets."""
        consumer = await self._servers.consumer(
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4096,
            check_crcs=False,
            isolation_level="read_committed",
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

    async def stable_ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The last stable offset of each partition: the end of what is read. It is below the end offset while a
        transaction is open.
        """
        wanted = [self._servers.to_cluster(each) for each in partitions]

        async def read() -> dict[TopicPartition, int]:
            consumer, _ = await self._first_batch_reader()
            offsets = await consumer.end_offsets(wanted)
            return {self._servers.from_cluster(partition): offset for partition, offset in offsets.items()}

        return await self._servers.call("reading offsets", read)

    async def held_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """See EventLog.held_offsets."""
        stable = await self.stable_ends(partitions)
        ends = await self.bounds("end", partitions)
        held = {at: offset for at, offset in stable.items() if offset < ends[at]}
        if not held:
            return {}
        # Records may have been appended between the two requests. Then the stable ends have moved too.
        now = await self.stable_ends(held)
        return {at: offset for at, offset in held.items() if now[at] == offset}

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

        right = f"Describe on group '{self._servers.prefix + group}'"
        return await self._servers.call("reading committed offsets", read, right=right) if wanted else {}

    async def group_offsets(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """See EventLog.group_offsets."""
        committed, starts = await asyncio.gather(
            self.committed_offsets(group, partitions), self.bounds("start", partitions)
        )
        return {at: max(starts[at], committed[at].offset if at in committed else 0) for at in partitions}

    async def uncommitted_ranges(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """For each partition the first offset that the group has not committed past, and the last stable offset, or the
        first one again if that is larger.
        """
        firsts, ends = await asyncio.gather(self.group_offsets(group, partitions), self.stable_ends(partitions))
        return {at: (first, max(first, ends[at])) for at, first in firsts.items()}

    async def oldest_uncommitted_ms(self, group: str, partitions: Collection[TopicPartition]) -> int | None:
        """See EventLog.oldest_uncommitted_ms. Append times are cached, by the offset of the record."""
        ranges = {
            at: (first, end)
            for at, (first, end) in (await self.uncommitted_ranges(group, partitions)).items()
            if first < end
        }
        known = {
            at: self._append_times[group, at][1]
            for at, (first, _) in ranges.items()
            if self._append_times.get((group, at), (NEVER_COMMITTED, None))[0] == first
        }
        read = await self._servers.call(
            "reading records",
            lambda: self._read_times({at: it for at, it in ranges.items() if at not in known}),
            right="Read on the topic",
        )
        self._append_times |= {(group, at): (ranges[at][0], timestamp) for at, timestamp in read.items()}
        return min((each for each in (known | read).values() if each is not None), default=None)

    async def _read_times(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> dict[TopicPartition, int | None]:
        """The append times of the first records of these ranges of offsets; None where they cannot be read. Without
        ranges that have no records, but only markers of transactions, for example.
        """
        times: dict[TopicPartition, int | None] = {}
        if not ranges:
            return times
        consumer, sessions = await self._first_batch_reader()
        async with self._reading_times:
            consumer.assign([self._servers.to_cluster(at) for at in ranges])
            for at, (first, _) in ranges.items():
                consumer.seek(self._servers.to_cluster(at), first)
            left = set(ranges)
            while left:
                for partition, records in (await consumer.getmany(timeout_ms=READ_MS)).items():
                    times[self._servers.from_cluster(partition)] = records[0].timestamp
                    consumer.pause(partition)
                for partition in await sessions.pause_unreadable(consumer):
                    times.setdefault(self._servers.from_cluster(partition), None)
                left -= times.keys()
                for partition, position in (await sessions.positions(consumer)).items():
                    at = self._servers.from_cluster(partition)
                    if position >= ranges[at][1]:
                        left.discard(at)
        return times

    async def close(self) -> None:
        if self._consumer.made is not None:
            await self._consumer.made.stop()
        if self._first_batch_reader.made is not None:
            await self._first_batch_reader.made[0].stop()
