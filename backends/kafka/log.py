"""The distributed log: Kafka, through aiokafka.

This module is the port's face. What happens where: log_kafka_connect reads the URL and makes clients, log_kafka_topics
looks after topics, log_kafka_producer appends, log_kafka_offsets answers questions, log_kafka_consumer reads, put
together from log_kafka_group (who has which partitions) and log_kafka_fetching (their records).
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Literal

from backends.kafka.connect import KafkaServers, Lazily
from backends.kafka.consumer import KafkaConsumer, KafkaReader
from backends.kafka.group import REQUEST_S
from backends.kafka.offsets import KafkaOffsets
from backends.kafka.producer import Appends, Placed
from backends.kafka.topics import KafkaTopics
from backends.log import Consumer, EventLog, NewRecord, Reader, TopicPartition, TopicSpec, partition_of_record
from schemas.errors import InvalidRequest, Unavailable

PING_S = 3.0


class KafkaLog(EventLog):
    """See EventLog. `kafka://[user[:password]@]host:port,host:port?options`; used from one event loop, connects when
    first used.

    Options: `prefix` before every topic and group, so that several installations share a cluster; `replication` and
    `min_insync_replicas` of the topics that are created; `tls=true` and `ca_file`; `sasl`, the mechanism;
    `password_file`.
    """

    def __init__(self, url: str) -> None:
        self._servers = KafkaServers(url)
        self._admin = Lazily(self._servers.admin)
        self._topics = KafkaTopics(self._servers, self._admin)
        self._offsets = KafkaOffsets(self._servers, self._admin)
        self._appends = Appends(self._servers)
        self._reading: set[KafkaConsumer | KafkaReader] = set()
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
        placed = [
            Placed(
                record, TopicPartition(record.topic, partition_of_record(record, await self.partitions(record.topic)))
            )
            for record in records
        ]
        if placed:
            await self._appends.append(placed)
        return [each.at for each in placed]

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        for topic in topics:
            await self.partitions(topic)
        client = await self._servers.client(request_timeout_ms=int(REQUEST_S * 1000))
        consumer = KafkaConsumer(
            self._servers,
            client,
            self._offsets,
            group=group,
            topics=topics,
            member=member,
            linger_s=linger_s,
            closed=self._reading.discard,
        )
        self._reading.add(consumer)
        return consumer

    async def reader(
        self, topic: str, *, at: Literal["start", "end"], partitions: Collection[int] | None = None
    ) -> Reader:
        every = await self._partitions_of(topic)
        wanted = (
            every if partitions is None else [TopicPartition(topic, partition) for partition in sorted(set(partitions))]
        )
        if not set(wanted) <= set(every):
            named = ", ".join(str(each.partition) for each in wanted)
            raise InvalidRequest(f"topic '{topic}' has partitions 0 to {len(every) - 1}, not {named}")
        offsets = await self._offsets.bounds(at, wanted)
        reader = KafkaReader(self._servers, offsets, closed=self._reading.discard)
        self._reading.add(reader)
        return reader

    async def partitions(self, topic: str) -> int:
        self._check_open()
        return await self._topics.count(topic)

    async def start_offsets(self, topic: str) -> dict[int, int]:
        offsets = await self._offsets.bounds("start", await self._partitions_of(topic))
        return {at.partition: offset for at, offset in offsets.items()}

    async def end_offsets(self, topic: str) -> dict[int, int]:
        offsets = await self._offsets.bounds("end", await self._partitions_of(topic))
        return {at.partition: offset for at, offset in offsets.items()}

    async def lag(self, group: str, topic: str) -> dict[int, int]:
        waiting = await self._offsets.waiting(group, await self._partitions_of(topic))
        return {at.partition: end - first for at, (first, end) in waiting.items()}

    async def oldest(self, group: str, topic: str) -> int | None:
        return await self._offsets.oldest(group, await self._partitions_of(topic))

    async def enforce_retention(self) -> None:
        """Kafka does by itself."""

    async def ping(self) -> None:
        self._check_open()

        async def ask() -> None:
            await (await self._admin()).describe_topics([])

        await self._servers.asked("ping", ask, PING_S)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._appends.close()
        await asyncio.gather(*(each.close() for each in list(self._reading)))
        await asyncio.gather(self._offsets.close(), self._topics.close())
        if self._admin.made is not None:
            await self._admin.made.close()

    async def _partitions_of(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for partition in range(await self.partitions(topic))]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the log is closed")
