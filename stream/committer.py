"""Commits what a worker has done: some times a second, and at once where a crash must not be repeated."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from backends.log import CommittedOffset, Consumer, TopicPartition
from schemas.errors import Fenced, StorageFull, Unavailable
from stream.commit_notes import CleanStop, CommitNote, offset_with_note
from stream.epoch import Epoch
from stream.stop_signal import StopSignal

log = structlog.get_logger(__name__)

COMMIT_EVERY_S = 0.2  # a commit costs as much as a record's hop; repeating work after a crash does no harm
COMMIT_RETRY_S = 0.1


class Committer:
    """Commits the offsets of epochs. stage: the name for the process's log; stop: ends retries."""

    def __init__(self, stage: str, stop: StopSignal) -> None:
        self._stage, self._stop = stage, stop
        self._more = asyncio.Event()

    def notice(self) -> None:
        """Has `run` commit soon."""
        self._more.set()

    async def run(self, consumer: Consumer, epoch: Callable[[], Epoch], note: CommitNote) -> None:
        """Commits until it is cancelled. epoch: returns the current one."""
        while True:
            await self._more.wait()
            await asyncio.sleep(COMMIT_EVERY_S)
            self._more.clear()
            await self.commit(consumer, epoch(), note)

    async def commit(self, consumer: Consumer, epoch: Epoch, note: CommitNote) -> None:
        """Commits what was done since the last commit. At a clean stop it commits every partition, so that the next
        start knows that the stop was clean. A failure is logged, and another commit follows.
        """
        offsets = epoch.committable_offsets() if note == CleanStop() else epoch.uncommitted_offsets()
        if not offsets:
            return
        commits = {at: offset_with_note(offset, note) for at, offset in offsets.items()}
        try:
            if await _commit_unless_fenced(consumer, commits):
                epoch.mark_committed(offsets)
            self._stop.failing.pop("commit", None)
        except (Unavailable, StorageFull) as error:
            self._stop.failing["commit"] = error.message
            log.warning("commit failed", stage=self._stage, reason=error.message)
            await asyncio.sleep(COMMIT_RETRY_S)
            self._more.set()

    async def commit_patiently(self, consumer: Consumer, offsets: Mapping[TopicPartition, CommittedOffset]) -> bool:
        """Commits; retries while the log is unavailable. False if the worker was stopped or the group rebalanced."""
        return bool(await self._stop.retry_until_set("commit", partial(_commit_unless_fenced, consumer, offsets)))


async def _commit_unless_fenced(consumer: Consumer, offsets: Mapping[TopicPartition, CommittedOffset]) -> bool:
    """Commits. Returns False if the group has rebalanced: the next poll begins the new epoch."""
    try:
        await consumer.commit(offsets)
    except Fenced:
        return False
    return True
