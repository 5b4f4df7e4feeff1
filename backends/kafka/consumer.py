"""Members of Kafka's consumer groups, and readers without one: membership and fetching put together as the port has
them.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping

from aiokafka import AIOKafkaClient

from backends.kafka.connect import KafkaServers
from backends.kafka.fetcher import Fetching
from backends.kafka.group import SESSION_S, GroupMember, Place
from backends.kafka.offsets import KafkaOffsets
from backends.log import Committed, Consumer, Reader, Record, TopicPartition, check_metadata
from schemas.errors import Fenced, OffsetGone, Unavailable


class KafkaConsumer(Consumer):
    """See Consumer. A commit goes out under the place that the caller knows, which the last poll has adopted, and the
    group's coordinator refuses it when the group has gone on: no timing here can make it count under another one.
    """

    def __init__(
        self,
        servers: KafkaServers,
        client: AIOKafkaClient,
        offsets: KafkaOffsets,
        *,
        group: str,
        topics: Collection[str],
        member: str,
        linger_s: float,
        closed: Callable[["KafkaConsumer"], None],
    ) -> None:
        self.epoch = 0
        self.assignment: Mapping[TopicPartition, Committed] = {}
        self._servers, self._client, self._offsets, self._group = servers, client, offsets, group
        self._name, self._tell_closed = f"the consumer '{member}' of group '{group}'", closed
        self._news = asyncio.Event()
        self._place: Place | None = None
        self._committing = asyncio.Lock()
        self._closed = False
        self._fetching = Fetching(servers, self._news.set, may_skip=False, linger_s=linger_s)
        self._member = GroupMember(servers, client, group, member, topics, self._news.set)

    async def poll(
        self,
        max_records: int,
        timeout_s: float,
        *,
        topics: Collection[str] | None = None,
        paused: Collection[TopicPartition] = (),
    ) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        await asyncio.sleep(0)  # a poll answered from memory must not starve the other tasks
        while True:
            self._news.clear()
            if self._closed:
                raise Unavailable(f"{self._name} is closed")
            if self._member.failure is not None:
                raise self._member.failure
            place = self._member.place
            if place is not None and place is not self._place:
                if await self._adopt(place):
                    return []
                continue
            if place is not None and self._member.heard():
                if self._fetching.gone is not None:
                    raise await self._offset_gone(*self._fetching.gone)
                _raise_failure(self._servers, self._fetching)
                if records := self._fetching.take(max_records, topics, paused):
                    return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                if not self._member.heard():
                    raise Unavailable(f"{self._name} has had no word from its coordinator for {SESSION_S:.0f} s")
                return []
            await _wait(self._news, left)

    async def _adopt(self, place: Place) -> bool:
        """Begins the epoch of a place; False when it is lost again."""
        async with self._committing:  # what is being committed under the old place may still count
            committed = await self._offsets.committed(self._group, place.partitions)
        earliest = await self._offsets.bounds("start", place.partitions - committed.keys())
        if self._member.place is not place or self._closed:
            return False
        # Nothing may wait from here on until poll returns: a commit in between would be under a place its caller does
        # not know.
        self._place = place
        self.epoch = max(self.epoch + 1, place.generation)
        self.assignment = {**committed, **{at: Committed(offset) for at, offset in earliest.items()}}
        self._fetching.go_on_at({at: start.offset for at, start in self.assignment.items()})
        return True

    async def _offset_gone(self, at: TopicPartition, offset: int) -> OffsetGone:
        earliest = (await self._offsets.bounds("start", [at]))[at]
        return OffsetGone(
            f"{self._name} has to go on in topic '{at.topic}', partition {at.partition}, at offset {offset}, which no longer"
            f" exists; the earliest is {earliest}: `facestream recover` shows what was lost and goes on from there"
        )

    async def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        place = self._place
        check_metadata(offsets)
        if self._closed or place is None or not self.assignment.keys() >= offsets.keys():
            raise Fenced(f"{self._name} commits for partitions that are not its own")
        async with self._committing:
            await self._servers.asked("committing", lambda: self._member.commit(place, offsets))

    def holds(self) -> bool:
        return self._place is not None and self._member.place is self._place and self._member.heard()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._news.set()
            self._tell_closed(self)
            await self._member.leave()
            await self._fetching.close()
            await self._client.close()


class KafkaReader(Reader):
    """See Reader. What retention deletes before it was read is passed over: a reader has promised nothing to anybody."""

    def __init__(
        self, servers: KafkaServers, offsets: Mapping[TopicPartition, int], *, closed: Callable[["KafkaReader"], None]
    ) -> None:
        self._servers, self._tell_closed = servers, closed
        self._closed = False
        self._news = asyncio.Event()
        self._fetching = Fetching(servers, self._news.set, may_skip=True)
        self._fetching.go_on_at(offsets)

    async def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        await asyncio.sleep(0)  # a poll answered from memory must not starve the other tasks
        while True:
            self._news.clear()
            if self._closed:
                raise Unavailable("the reader is closed")
            _raise_failure(self._servers, self._fetching)
            if records := self._fetching.take(max_records):
                return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            await _wait(self._news, left)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._news.set()
            self._tell_closed(self)
            await self._fetching.close()


def _raise_failure(servers: KafkaServers, fetching: Fetching) -> None:
    """Raises Unavailable, once, when fetching has failed; it is tried again all the time."""
    if (failure := fetching.failure) is not None:
        fetching.failure = None
        if isinstance(failure, Unavailable):
            raise failure
        raise servers.unavailable("fetching", failure) from failure


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
