"""Questions about offsets in Kafka: where partitions begin and end, where a group has committed, when a record was
appended.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Literal

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupLoadInProgressError

from backends.kafka.connect import ASK_S, KafkaServers, Lazily
from backends.log import Committed, TopicPartition

NEVER_COMMITTED = -1


class KafkaOffsets:
    def __init__(self, servers: KafkaServers, admin: Lazily[AIOKafkaAdminClient]) -> None:
        self._servers = servers
        self._admin = admin
        self._consumer: Lazily[AIOKafkaConsumer] = Lazily(servers.consumer)
        # Of each partition only the first batch is wanted.
        self._peeker: Lazily[AIOKafkaConsumer] = Lazily(
            lambda: servers.consumer(auto_offset_reset="earliest", max_partition_fetch_bytes=4096)
        )
        self._peeking = asyncio.Lock()
        self._times: dict[tuple[str, TopicPartition], tuple[int, int]] = {}

    async def bounds(
        self, at: Literal["start", "end"], partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """At "start" the offset of the first record, or of the next where there is none; at "end" that of the next."""
        wanted = [self._servers.theirs(each) for each in partitions]

        async def ask() -> dict[TopicPartition, int]:
            consumer = await self._consumer()
            offsets = await (consumer.beginning_offsets if at == "start" else consumer.end_offsets)(wanted)
            return {self._servers.ours(partition): offset for partition, offset in offsets.items()}

        return await self._servers.asked("reading offsets", ask)

    async def committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Committed]:
        """Where the group has committed; partitions where it never has are left out."""
        wanted = [self._servers.theirs(at) for at in partitions]

        async def ask() -> dict[TopicPartition, Committed]:
            found = await (await self._admin()).list_consumer_group_offsets(
                self._servers.prefix + group, partitions=wanted
            )
            if len(found) < len(wanted):  # aiokafka does not look at the error of the answer as a whole
                raise GroupLoadInProgressError
            return {
                self._servers.ours(partition): Committed(offset, metadata)
                for partition, (offset, metadata) in found.items()
                if offset != NEVER_COMMITTED
            }

        return await self._servers.asked("reading committed offsets", ask) if wanted else {}

    async def waiting(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """For each partition the first offset that the group has not committed past, and the offset of the next record."""
        committed, starts, ends = await asyncio.gather(
            self.committed(group, partitions), self.bounds("start", partitions), self.bounds("end", partitions)
        )
        return {at: (max(starts[at], committed[at].offset if at in committed else 0), ends[at]) for at in partitions}

    async def oldest(self, group: str, partitions: Collection[TopicPartition]) -> int | None:
        """When the oldest record was appended that the group has not committed past. What was read before is
        remembered.
        """
        firsts = {at: first for at, (first, end) in (await self.waiting(group, partitions)).items() if first < end}
        known = {at: self._times.get((group, at), (NEVER_COMMITTED, 0)) for at in firsts}
        read = await self._servers.asked(
            "reading records",
            lambda: self._read_times({at: first for at, first in firsts.items() if known[at][0] != first}),
        )
        self._times |= {(group, at): (firsts[at], timestamp) for at, timestamp in read.items()}
        return min((read[at] if at in read else known[at][1] for at in firsts), default=None)

    async def _read_times(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The append times of the records at these offsets, or of the next ones where compaction has left holes."""
        times: dict[TopicPartition, int] = {}
        if not offsets:
            return times
        peeker = await self._peeker()
        async with self._peeking:
            peeker.assign([self._servers.theirs(at) for at in offsets])
            for at, offset in offsets.items():
                peeker.seek(self._servers.theirs(at), offset)
            while len(times) < len(offsets):
                for partition, records in (await peeker.getmany(timeout_ms=int(ASK_S * 1000))).items():
                    times[self._servers.ours(partition)] = records[0].timestamp
                    peeker.pause(partition)
        return times

    async def close(self) -> None:
        for consumer in (self._consumer.made, self._peeker.made):
            if consumer is not None:
                await consumer.stop()
