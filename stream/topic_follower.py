"""Follows a topic of one partition that represents a state (`models`, `erasures`): from its start, then each new
record.
"""

import asyncio
from abc import ABC, abstractmethod

import structlog

from backends.log import EventLog, Reader, Record
from schemas.errors import Unavailable

log = structlog.get_logger(__name__)

RECORDS_PER_POLL = 1_000
WAIT_S = 1.0
LOG_AWAY_S = 1.0


class TopicFollower(ABC):
    """Passes each record of a topic to `apply`. Call `start` before use, keep `run` running, and call `close` at the
    end.

    The topic is compacted and never has tombstones.
    """

    def __init__(self, log_: EventLog, topic: str) -> None:
        self._log, self._topic = log_, topic
        self._reader: Reader | None = None
        self._reading = asyncio.Lock()
        self._next_offset = 0

    @abstractmethod
    def apply(self, record: Record) -> None:
        """Applies a record to the state. A record that cannot be read changes nothing."""

    async def start(self) -> None:
        """Takes all records that the topic has now. Raises Unavailable."""
        self._reader = await self._log.reader(self._topic, at="start")
        await self.refresh()

    async def refresh(self) -> None:
        """Takes all records that the topic has now; may be called while `run` is running. Raises Unavailable."""
        end = (await self._log.end_offsets(self._topic)).get(0, 0)
        while self._next_offset < end:
            async with self._reading:
                if self._next_offset < end:
                    await self._read()

    async def run(self) -> None:
        while True:
            try:
                async with self._reading:
                    await self._read()
            except Unavailable as error:
                log.warning("following failed", topic=self._topic, reason=error.message)
                await asyncio.sleep(LOG_AWAY_S)

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()

    async def _read(self) -> None:
        assert self._reader is not None
        for record in await self._reader.poll(RECORDS_PER_POLL, WAIT_S):
            self.apply(record)
        self._next_offset = self._reader.next_offsets()[0]
