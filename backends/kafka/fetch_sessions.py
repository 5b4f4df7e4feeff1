"""Incremental fetch sessions (KIP-227), which aiokafka does not use.

In a session, a request names only the partitions that changed since the previous request, and an answer contains only
those with new records. With all 64 partitions of two topics in every request and answer, a hop takes 2 ms longer,
mostly for encoding and decoding.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaClient, AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.fetch import FetchRequest

from backends.kafka.batches import Partition, any_compressed, readable_batches
from backends.kafka.private_parts import client_of, fetch_arguments
from backends.log import UnreadableBatch

SESSIONS_SINCE = 7  # version of the request
LAST_EPOCH = 2**31 - 1


@dataclass(slots=True)
class _Session:
    """What one server knows about the session: for each partition the requested offset and number of bytes.

    Epoch 0 asks for a new session.
    """

    id: int = 0
    epoch: int = 0
    partitions: dict[Partition, tuple[int, int]] = field(default_factory=dict)


class _SessionRequest(FetchRequest):  # type: ignore[misc]  # aiokafka has no types
    """The changes since the last request, or the full request for a server without sessions."""

    def __init__(self, full: FetchRequest, session: _Session) -> None:
        super().__init__(**fetch_arguments(full))
        self._full = full
        self._session = (session.id, session.epoch)
        wanted = {
            (topic, number): (offset, size) for topic, of_topic in full.topics for number, offset, size in of_topic
        }
        changed: dict[str, list[tuple[int, int, int]]] = {}
        for (topic, number), position in wanted.items():
            if session.partitions.get((topic, number)) != position:
                changed.setdefault(topic, []).append((number, *position))
        forgotten: dict[str, list[int]] = {}
        for topic, number in session.partitions.keys() - wanted.keys():
            forgotten.setdefault(topic, []).append(number)
        self._topics, self._forgotten = list(changed.items()), list(forgotten.items())
        session.partitions = wanted

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class.API_VERSION < SESSIONS_SINCE:
            return self._full.build(request_struct_class)
        request: Any = super().build(request_struct_class)
        request.session_id, request.session_epoch = self._session
        request.forgotten_topics_data = self._forgotten
        return request


class FetchSessions:
    """Sends the requests of aiokafka's fetcher in sessions. The fetcher has one request at a time for each server.

    Of what is fetched, only the readable batches reach aiokafka, up to the first of a partition that cannot be read.
    """

    def __init__(self, client: AIOKafkaClient) -> None:
        self._unreadable: dict[Partition, tuple[int, UnreadableBatch]] = {}
        self._ends: dict[Partition, int] = {}
        self._send = client.send
        self._sessions: dict[int, _Session] = {}

    async def send(self, node: int, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        if not isinstance(request, FetchRequest):
            return await self._send(node, request, group=group)
        session = self._sessions.setdefault(node, _Session())
        try:
            response = await self._send(node, _SessionRequest(request, session), group=group)
        except BaseException:  # whether the server has handled the request is unknown
            self._sessions.pop(node, None)
            raise
        if getattr(response, "error_code", 0) or not getattr(response, "session_id", 0):
            self._sessions.pop(node, None)  # the server does not know this session, or keeps none
        else:
            session.id, session.epoch = response.session_id, session.epoch % LAST_EPOCH + 1
        offsets = {(topic, number): offset for topic, parts in request.topics for number, offset, _ in parts}
        if any_compressed(response.topics):
            checked = await asyncio.to_thread(readable_batches, response.topics, offsets)
        else:
            checked = readable_batches(response.topics, offsets)
        response.topics = checked.topics
        self._ends |= checked.ends
        self._unreadable |= checked.unreadable
        return response

    async def positions(self, consumer: AIOKafkaConsumer) -> dict[KafkaPartition, int]:
        """The consumer's positions in the partitions that batches have come for, until it is past these. It moves past
        batches that have no records to return.
        """
        positions = {}
        for at, end in list(self._ends.items()):
            partition = KafkaPartition(*at)
            if partition not in consumer.assignment():
                del self._ends[at]
                continue
            positions[partition] = await consumer.position(partition)
            if positions[partition] >= end:
                del self._ends[at]
        return positions

    async def pause_unreadable(self, consumer: AIOKafkaConsumer) -> dict[KafkaPartition, UnreadableBatch]:
        """Pauses the partitions whose next batch cannot be read, and returns these batches. It forgets the others that
        were found, which will be found again: they come after records that were not taken yet, or the consumer was
        moved.
        """
        found, self._unreadable = self._unreadable, {}
        paused = {}
        for at, (position, batch) in found.items():
            partition = KafkaPartition(*at)
            if partition in consumer.assignment() and await consumer.position(partition) == position:
                consumer.pause(partition)
                paused[partition] = batch
        return paused


def fetch_in_sessions(consumer: AIOKafkaConsumer) -> FetchSessions:
    """Has the consumer fetch in these sessions from now on. It must not check checksums, which are checked here."""
    client = client_of(consumer)
    sessions = FetchSessions(client)
    client.send = sessions.send
    return sessions
