"""Who is in the consumer groups of the real Kafka: rebalances are no alarm, and another program is one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from backends.kafka.log import KafkaLog
from backends.log import Consumer, TopicSpec
from ingest import flow as flow_module
from ingest.flow import Flow
from schemas.errors import Unavailable
from stream.topics import FACES_DETECTED, FACES_EMBEDDED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, RESULTS, TOPICS
from stream.unused_partitions import UnusedPartitions
from stream.worker import Worker
from tests.servers.topics import server_and_prefix
from tests.unit.stream.stages import Stage, running

TOPICS_OF_FLOW = (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, FACES_DETECTED, FACES_EMBEDDED, RESULTS)
REBALANCES = 20
PATIENCE_S = 60.0


@pytest.fixture
async def log(url: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(url)
    await log.create_topics([it for it in TOPICS if it.name in TOPICS_OF_FLOW])
    yield log
    await log.close()


@asynccontextmanager
async def polling(log: KafkaLog, group: str, topics: list[str], member: str) -> AsyncIterator[Consumer]:
    """A member that polls all the time."""
    consumer = await log.consumer(group, topics, member=member)

    async def poll() -> None:
        while True:
            with suppress(Unavailable):  # servers that were just started have no coordinator yet
                await consumer.poll(1, 0.1)

    task = asyncio.create_task(poll())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not consumer.assignment:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.02)
        yield consumer
    finally:
        task.cancel()
        await asyncio.wait([task])
        await consumer.close()


async def test_members_that_come_and_go_are_no_alarm(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 rebalances. A member that leaves while the servers are slow is missed only after its session, 6 s."""
    monkeypatch.setattr(flow_module, "LOOK_EVERY_S", 0.05)
    flow, seen = Flow(log, "ingest-1", UnusedPartitions(log)), set[str]()
    both = [IMAGES_RECEIVED, IMAGES_RECEIVED_BULK]
    async with polling(log, "processors", both, "one"), polling(log, "sink", [FACES_EMBEDDED], "one"):
        looking = asyncio.create_task(flow.run())
        for number in range(REBALANCES // 2):
            async with polling(log, "processors", both, f"other {number}"):
                seen |= set(flow.degraded().values())
            seen |= set(flow.degraded().values())
        looking.cancel()
    assert seen == set()


async def reason(worker: Worker) -> str:
    """Why the worker is not ready; "" if it is."""
    try:
        await worker.check()
    except Unavailable as error:
        return error.message
    return ""


async def test_a_role_is_not_ready_while_another_program_has_its_partitions(log: KafkaLog, url: str) -> None:
    server, prefix = server_and_prefix(url)
    await log.create_topics([TopicSpec(RESULTS, 64)])
    worker = Worker(log, Stage(), [IMAGES_RECEIVED], member="one", max_in_flight=10)
    async with running(worker):
        await worker.check()
        foreign = AIOKafkaConsumer(
            prefix + IMAGES_RECEIVED,
            bootstrap_servers=server,
            group_id=f"{prefix}stage",
            client_id="another program",
            partition_assignment_strategy=[type("Assignor", (StickyPartitionAssignor,), {})],
        )
        await foreign.start()
        async with asyncio.timeout(PATIENCE_S):
            while "another program (another program at" not in await reason(worker):
                pass
            await foreign.stop()
            while await reason(worker):
                pass
