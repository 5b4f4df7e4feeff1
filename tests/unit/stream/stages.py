"""Shared parts of the worker's tests: images, a stage that a test controls, and ways to run, end and watch a worker."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

import pytest
import structlog.testing

from backends.log import CommittedOffset, EventLog, NewRecord, Record, TopicPartition
from schemas.errors import Unavailable
from schemas.records import Answer, ImageReceived
from stream import committer as committer_module
from stream import failures as failures_module
from stream import lanes as lanes_module
from stream import stop_signal as stop_signal_module
from stream.answers import answer_record
from stream.dead_letters import Letter, read_letter
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, RESULTS
from stream.worker import Worker
from tests.answers import recognized
from tests.records import image_received

PATIENCE_S = 20.0


def image(name: str) -> ImageReceived:
    """An image whose file name tells the stage what to do with it."""
    return image_received(name, filename=name)


class Stage:
    """Answers every image with its name. `script`: by name, the errors that the first tries raise. `blocked`: by name,
    what the stage waits for before it handles the image.
    """

    name = "stage"

    def __init__(self, script: Mapping[str, Sequence[Exception]] | None = None) -> None:
        self.script = {name: list(errors) for name, errors in (script or {}).items()}
        self.blocked: dict[str, asyncio.Event] = {}
        self.calls: list[list[str]] = []
        self.running: list[str] = []
        self.most_running = 0
        self.assignments: list[Mapping[TopicPartition, CommittedOffset]] = []
        self.store_away = False
        self.probes = 0

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        self.assignments.append(dict(assignment))

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        images = [ImageReceived.decode(record.value) for record in records]
        names = [it.filename for it in images]
        self.calls.append(names)
        self.running += names
        self.most_running = max(self.most_running, len(self.running))
        try:
            for name in names:
                if name in self.blocked:
                    await self.blocked[name].wait()
                if self.script.get(name):
                    raise self.script[name].pop(0)
            return [answer_record(it, 200, recognized(image_id=it.image_id, filename=it.filename)) for it in images]
        finally:
            for name in names:
                self.running.remove(name)

    def event_of(self, record: Record) -> ImageReceived:
        return ImageReceived.decode(record.value)

    async def check_stores(self) -> None:
        self.probes += 1
        if self.store_away:
            raise Unavailable("the store is away")

    @property
    def handled(self) -> list[str]:
        return [name for names in self.calls for name in names]

    def tries(self, name: str) -> int:
        return self.handled.count(name)


@contextmanager
def quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers wait a hundredth of their time; tracebacks are not drawn, which takes a second each."""
    monkeypatch.setattr(failures_module, "BACKOFF_FIRST_S", 0.005)
    monkeypatch.setattr(failures_module, "BACKOFF_MOST_S", 0.02)
    monkeypatch.setattr(stop_signal_module, "LOG_AWAY_S", 0.02)
    monkeypatch.setattr(lanes_module, "POLL_S", 0.05)
    monkeypatch.setattr(committer_module, "COMMIT_EVERY_S", 0.005)
    with structlog.testing.capture_logs():
        yield


async def send(log: EventLog, *names: str, topic: str = IMAGES_RECEIVED, partition_key: str | None = None) -> None:
    await log.append([NewRecord(topic, image(name).image_id, image(name).encode(), partition_key) for name in names])


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.005)


async def commit_all(log: EventLog, group: str, topic: str) -> None:
    """Commits all that is in the topic, as if the group had handled it."""
    ends = await log.end_offsets(topic)
    consumer = await log.consumer(group, [topic], member="test")
    async with asyncio.timeout(10):
        while not consumer.assignment:
            await consumer.poll(1, 0.1)
    await consumer.commit({at: CommittedOffset(ends[at.partition]) for at in consumer.assignment})
    await consumer.close()


async def read_all(log: EventLog, topic: str) -> list[Record]:
    """All records of the topic."""
    reader = await log.reader(topic, at="start")
    expected = sum((await log.end_offsets(topic)).values())
    records: list[Record] = []
    while len(records) < expected:
        records += await reader.poll(1_000, 1.0)
    await reader.close()
    return records


async def dead_letters(log: EventLog) -> list[Letter]:
    """All dead letters, also closed ones."""
    contents = [read_letter(record) for record in await read_all(log, DEAD_LETTERS)]
    return [it for it in contents if isinstance(it, Letter)]


async def answers(log: EventLog) -> list[Answer]:
    return [Answer.decode(record.value) for record in await read_all(log, RESULTS)]


async def answered(log: EventLog) -> dict[str, int]:
    """The status that each image was answered with."""
    return {it.image_id: it.status for it in await answers(log)}


def statuses(*names: str, status: int = 200) -> dict[str, int]:
    return {image(name).image_id: status for name in names}


@asynccontextmanager
async def running(it: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """A worker that has joined its group. It is stopped cleanly at the end, unless the test has ended it before; a
    failure of its own fails the test.
    """
    task = asyncio.create_task(it.run())
    try:
        await asyncio.wait_for(it.ready.wait(), PATIENCE_S)
        yield task
    except BaseException:
        await kill(task)
        raise
    it.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE_S)


async def kill(task: asyncio.Task[None]) -> None:
    """Ends a worker as a crash does: nothing more is handled, appended or committed."""
    task.cancel()
    await asyncio.wait([task])
