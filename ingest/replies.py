"""Passes answers to the requests that wait for them: reads this replica's partition of `results` from the end."""

import asyncio
import time
import uuid
from collections import deque

import structlog

from backends.log import EventLog, Reader, partition_of
from schemas.errors import Unavailable, UnreadableRecord
from schemas.records import Answer
from stream.topics import RESULTS

log = structlog.get_logger(__name__)

RATE_WINDOW = 64
LOG_AWAY_S = 1.0
RECENT_S = 5.0  # after this time the stage `answers` has stored an answer


class Replies:
    """The waiting requests of this replica. `reply_to` is its address: each event carries it, and the answers come back
    in its partition.
    """

    def __init__(self, log_: EventLog) -> None:
        self._log = log_
        self._reader: Reader | None = None
        self._waiting: dict[str, list[asyncio.Future[Answer]]] = {}
        self._answered_at: deque[float] = deque(maxlen=RATE_WINDOW)
        self._recent: dict[str, tuple[float, Answer]] = {}  # by image_id, with the time of the answer; the oldest first
        self.reply_to = f"ingest-{uuid.uuid4()}"

    async def start(self) -> None:
        """Positions the reader, so that it sees the answers to all later events."""
        partitions = await self._log.partitions(RESULTS)
        self._reader = await self._log.reader(RESULTS, at="end", partitions=[partition_of(self.reply_to, partitions)])

    async def run(self) -> None:
        assert self._reader is not None
        while True:
            try:
                records = await self._reader.poll(1_000, 1.0)
            except Unavailable as error:  # waiting requests keep waiting, or get their answer from the store later
                log.warning("reading answers failed", reason=error.message)
                await asyncio.sleep(LOG_AWAY_S)
                continue
            for record in records:
                waiting = self._waiting.pop(record.key, ())
                if waiting:
                    try:
                        answer = Answer.decode(record.value)
                    except UnreadableRecord as error:  # of another release, perhaps: the requests get 202
                        log.error("unreadable answer", image_id=record.key, reason=error.message)
                        continue
                    self._answered_at.append(time.monotonic())
                    self._remember(answer)
                    for future in waiting:
                        if not future.done():
                            future.set_result(answer)

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()

    def expect(self, image_id: str) -> asyncio.Future[Answer]:
        """A future for the answer. Call this before the event is appended, and pass the future to `forget` at the
        end.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(image_id, []).append(future)
        return future

    def forget(self, image_id: str, future: asyncio.Future[Answer]) -> None:
        waiting = self._waiting.get(image_id, [])
        if future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[image_id]

    def recent_answer(self, image_id: str) -> Answer | None:
        """An answer of the last seconds, which the store may not have yet."""
        since, answer = self._recent.get(image_id, (0.0, None))
        return answer if time.monotonic() - since < RECENT_S else None

    def _remember(self, answer: Answer) -> None:
        now = time.monotonic()
        for image_id, (since, _) in list(self._recent.items()):
            if now - since < RECENT_S:
                break
            del self._recent[image_id]
        self._recent.pop(answer.image_id, None)
        self._recent[answer.image_id] = now, answer

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def seconds_until_free(self) -> int:
        """The seconds for Retry-After: half the time that the waiting requests will take at the rate of the last
        answers.
        """
        if len(self._answered_at) < 2:
            return 1
        pace = (time.monotonic() - self._answered_at[0]) / len(self._answered_at)
        return max(1, min(60, round(pace * self.in_flight / 2)))
