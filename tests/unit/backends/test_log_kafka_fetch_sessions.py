"""The partitions in fetch requests, and what happens when a server no longer knows the session.

The contract suite tests on the real server that records arrive.
"""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v11
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from backends.kafka.batches import readable_batches
from backends.kafka.fetch_sessions import FetchSessions

INITIAL = (0, 0)


class Server:
    """Has the `send` of a client, which answers as a test says and keeps the requests as they would be sent."""

    def __init__(self) -> None:
        self.session_id, self.error_code, self.away = 7, 0, False
        self.topics: list[Any] = []
        self.requests: list[Any] = []

    async def send(self, node: int, request: Any, *, group: Any) -> Any:
        if self.away:
            raise KafkaConnectionError("away")
        self.requests.append(request.build(FetchRequest_v11))
        return SimpleNamespace(error_code=self.error_code, session_id=self.session_id, topics=self.topics)

    @property
    def last(self) -> tuple[tuple[int, int], dict[tuple[str, int], int], list[tuple[str, list[int]]]]:
        """Session and epoch, the offsets that were asked for, and what is to be forgotten."""
        sent = self.requests[-1]
        topics: list[tuple[str, list[tuple[int, ...]]]] = sent.topics
        offsets = {(topic, part[0]): part[2] for topic, parts in topics for part in parts}
        return (sent.session_id, sent.session_epoch), offsets, sent.forgotten_topics_data


def fetch(**offsets: int) -> FetchRequest:
    return FetchRequest(
        250, 1, 1 << 20, 0, [("t", [(int(name[1:]), offset, 1 << 16) for name, offset in offsets.items()])]
    )


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def sessions(server: Server) -> FetchSessions:
    return FetchSessions(server)


async def test_later_requests_contain_only_changed_partitions(server: Server, sessions: FetchSessions) -> None:
    await sessions.send(1, fetch(p0=5, p1=6, p2=7))
    assert server.last == (INITIAL, {("t", 0): 5, ("t", 1): 6, ("t", 2): 7}, [])
    await sessions.send(1, fetch(p0=5, p1=9, p2=7))
    assert server.last == ((7, 1), {("t", 1): 9}, [])
    await sessions.send(1, fetch(p0=5, p1=9, p2=7))
    assert server.last == ((7, 2), {}, [])
    await sessions.send(1, fetch(p0=5, p3=1))
    assert server.last[:2] == ((7, 3), {("t", 3): 1})
    ((topic, parts),) = server.requests[-1].forgotten_topics_data
    assert (topic, sorted(parts)) == ("t", [1, 2])


async def test_each_server_has_a_session_of_its_own(server: Server, sessions: FetchSessions) -> None:
    await sessions.send(1, fetch(p0=5))
    await sessions.send(2, fetch(p1=6))
    assert server.last == (INITIAL, {("t", 1): 6}, [])
    await sessions.send(1, fetch(p0=5))
    assert server.last == ((7, 1), {}, [])


@pytest.mark.parametrize("how", ["refused", "not kept", "away"])
async def test_after_a_failure_a_request_contains_all_partitions(
    server: Server, sessions: FetchSessions, how: str
) -> None:
    await sessions.send(1, fetch(p0=5, p1=6))
    server.error_code, server.session_id, server.away = 70 * (how == "refused"), 7 * (how != "not kept"), how == "away"
    if how == "away":
        with pytest.raises(KafkaConnectionError):
            await sessions.send(1, fetch(p0=5, p1=6))
    else:
        await sessions.send(1, fetch(p0=5, p1=6))
    server.error_code, server.session_id, server.away = 0, 8, False
    await sessions.send(1, fetch(p0=5, p1=6))
    assert server.last == (INITIAL, {("t", 0): 5, ("t", 1): 6}, [])
    await sessions.send(1, fetch(p0=5, p1=7))
    assert server.last == ((8, 1), {("t", 1): 7}, [])


async def test_a_server_without_sessions_gets_the_whole_request(sessions: FetchSessions, server: Server) -> None:
    await sessions.send(1, fetch(p0=5, p1=6))
    seen: list[Any] = []

    async def send(node: int, request: Any, *, group: Any) -> Any:
        seen.append(request.build(FetchRequest_v4))
        return SimpleNamespace(topics=[])

    server.send = send  # type: ignore[method-assign]
    old = FetchSessions(server)
    for _ in range(2):
        await old.send(1, fetch(p0=5, p1=6))
    assert [dict(request.topics) for request in seen] == [{"t": [(0, 5, 1 << 16), (1, 6, 1 << 16)]}] * 2


class FakeConsumer:
    """Has what sessions use of a consumer: where it is in the partitions that it has."""

    def __init__(self, **positions: int) -> None:
        self.positions = {KafkaPartition("t", int(name[1:])): offset for name, offset in positions.items()}
        self.paused: list[KafkaPartition] = []

    def assignment(self) -> set[KafkaPartition]:
        return set(self.positions)

    async def position(self, partition: KafkaPartition) -> int:
        return self.positions[partition]

    def pause(self, partition: KafkaPartition) -> None:
        self.paused.append(partition)


async def test_partitions_are_paused_where_the_consumer_has_come_to_an_unreadable_batch(
    server: Server, sessions: FetchSessions
) -> None:
    server.topics = [("t", [(number, 0, 9, 9, 0, [], b"not a batch") for number in range(3)])]
    consumer = FakeConsumer(p0=5, p1=2)  # it was moved in partition 1, and lost partition 2
    await sessions.send(1, fetch(p0=5, p1=6, p2=7))
    found = await sessions.pause_unreadable(consumer)
    assert {at.partition: (batch.first, batch.cause) for at, batch in found.items()} == {0: (5, "it is not complete")}
    assert consumer.paused == [KafkaPartition("t", 0)]
    assert await sessions.pause_unreadable(consumer) == {}


@pytest.mark.parametrize("compressed", [False, True])
async def test_what_is_compressed_is_read_in_another_thread(
    server: Server, sessions: FetchSessions, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def reading(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return readable_batches(*arguments)

    monkeypatch.setattr("backends.kafka.fetch_sessions.readable_batches", reading)
    builder = DefaultRecordBatchBuilder(2, int(compressed), False, -1, -1, -1, 1 << 20)
    builder.append(0, 0, b"key", b"x" * 1_000, [])
    server.topics = [("t", [(0, 0, 9, 9, 0, [], bytes(builder.build()))])]
    await sessions.send(1, fetch(p0=0))
    assert [thread is threading.main_thread() for thread in threads] == [not compressed]
