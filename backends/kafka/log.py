"""The event log on Kafka, through aiokafka.

This file implements the port with the others of this folder: connect.py reads the URL and makes clients, topics.py
creates and checks topics, producer.py appends, offsets.py reads offsets, and consumer.py reads records, with group.py
for the membership and fetcher.py for the fetching, with fetch_sessions.py and batches.py. private_parts.py has what is
used of aiokafka beyond its documented interface.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from backends.kafka.connect import KafkaServers, LazyClient
from backends.kafka.consumer import KafkaConsumer, KafkaReader
from backends.kafka.group import JOIN_REQUEST_S
from backends.kafka.group_members import read_group_members
from backends.kafka.offsets import KafkaOffsets
from backends.kafka.producer import KafkaProducer, RoutedRecord
from backends.kafka.topics import KafkaTopics
from backends.log import Consumer, EventLog, Member, NewRecord, Reader, TopicPartition, TopicSpec, partition_of_record
from schemas.errors import InvalidRequest, Unavailable

PING_S = 3.0


class KafkaLog(EventLog):
    """See EventLog. `kafka://[user[:password]@]host:port,host:port?options`. It belongs to one event loop, and connects
    at its first use.

    Options: `prefix` of every topic and group, so that several installations can share a cluster; `replication` and
    `min_insync_replicas` of the topics that are created; `tls=true` and `ca_file`; `sasl`, the mechanism;
    `password_file`. used_partitions: see open_log.
    """

    def __init__(self, url: str, used_partitions: Mapping[str, int] = MappingProxyType({})) -> None:
        self._servers = KafkaServers(url)
        self._admin = LazyClient(self._servers.admin)
        self._offsets = KafkaOffsets(self._servers, self._admin)
        self._topics = KafkaTopics(self._servers, self._admin, self._offsets, used_partitions)
        self._producer = KafkaProducer(self._servers)
        self._open_readers: set[KafkaConsumer | KafkaReader] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"KafkaLog({str(self._servers)!r})"

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        self._check_open()
        await self._topics.create(specs)

    async def require_topics(self, specs: Sequence[TopicSpec]) -> None:
        self._check_open()
        await self._topics.require(specs)

    async def append(self, records: Sequence[NewRecord]) -> list[TopicPartition]:
        routed = [
            RoutedRecord(
                record, TopicPartition(record.topic, partition_of_record(record, await self.partitions(record.topic)))
            )
            for record in records
        ]
        if routed:
            await self._producer.append(routed)
        return [each.topic_partition for each in routed]

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        used_partitions = {topic: await self.partitions(topic) for topic in topics}
        client = await self._servers.client(request_timeout_ms=int(JOIN_REQUEST_S * 1000))
        consumer = KafkaConsumer(
            self._servers,
            client,
            self._offsets,
            group=group,
            used_partitions=used_partitions,
            member=member,
            linger_s=linger_s,
            on_close=self._open_readers.discard,
        )
        self._open_readers.add(consumer)
        return consumer

    async def reader(
        self, topic: str, *, at: Literal["start", "end"] | Mapping[int, int], partitions: Collection[int] | None = None
    ) -> Reader:
        every = await self._partitions_of(topic)
        if not isinstance(at, str):
            partitions = at.keys()
        wanted = (
            every if partitions is None else [TopicPartition(topic, partition) for partition in sorted(set(partitions))]
        )
        if not set(wanted) <= set(every):
            named = ", ".join(str(each.partition) for each in wanted)
            raise InvalidRequest(f"topic '{topic}' has partitions 0 to {len(every) - 1}, not {named}")
        offsets = (
            await self._offsets.bounds(at, wanted) if isinstance(at, str) else {it: at[it.partition] for it in wanted}
        )
        reader = KafkaReader(self._servers, offsets, on_close=self._open_readers.discard)
        self._open_readers.add(reader)
        return reader

    async def partitions(self, topic: str) -> int:
        self._check_open()
        return await self._topics.count(topic)

    async def unused_partitions(self) -> dict[TopicPartition, int]:
        self._check_open()
        unused = await self._topics.unused()
        starts, ends = [await self._offsets.bounds(at, unused) if unused else {} for at in ("start", "end")]
        return {it: ends[it] - starts[it] for it in unused}

    async def start_offsets(self, topic: str) -> dict[int, int]:
        offsets = await self._offsets.bounds("start", await self._partitions_of(topic))
        return {at.partition: offset for at, offset in offsets.items()}

    async def end_offsets(self, topic: str) -> dict[int, int]:
        offsets = await self._offsets.bounds("end", await self._partitions_of(topic))
        return {at.partition: offset for at, offset in offsets.items()}

    async def held_offsets(self, topic: str) -> dict[int, int]:
        held = await self._offsets.held_offsets(await self._partitions_of(topic))
        return {at.partition: offset for at, offset in held.items()}

    async def group_members(self, group: str) -> list[Member]:
        self._check_open()
        return await read_group_members(self._servers, self._admin, group)

    async def group_offsets(self, group: str, topic: str) -> dict[int, int]:
        offsets = await self._offsets.group_offsets(group, await self._partitions_of(topic))
        return {at.partition: offset for at, offset in offsets.items()}

    async def lag(self, group: str, topic: str) -> dict[int, int]:
        uncommitted = await self._offsets.uncommitted_ranges(group, await self._partitions_of(topic))
        return {at.partition: end - first for at, (first, end) in uncommitted.items()}

    async def oldest_uncommitted_ms(self, group: str, topic: str) -> int | None:
        return await self._offsets.oldest_uncommitted_ms(group, await self._partitions_of(topic))

    async def enforce_retention(self) -> None:
        """Does nothing: Kafka deletes and compacts on its own."""

    async def ping(self) -> None:
        self._check_open()

        async def describe() -> None:
            await (await self._admin()).describe_topics([])

        await self._servers.call("ping", describe, PING_S)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._producer.close()
        await asyncio.gather(*(each.close() for each in list(self._open_readers)))
        await asyncio.gather(self._offsets.close(), self._topics.close())
        if self._admin.made is not None:
            await self._admin.made.close()

    async def _partitions_of(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for partition in range(await self.partitions(topic))]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the log is closed")
