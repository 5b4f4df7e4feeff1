"""A caller that closes its connection while it waits: its place is free at once, and its image is processed."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from backends.log import Record
from facestream.config import Settings
from facestream.runtime.stores import open_stores
from facestream.runtime.system_state import follow_state
from schemas.records import ImageReceived
from sink.answers import AnswerStage
from stream.answers import answer_record
from stream.erase.guarded_store import GuardedStore
from stream.topics import FACES_EMBEDDED, IMAGES_RECEIVED, RESULTS
from tests.answers import detected
from tests.unit.ingest.served import Served, served

MOST = 4
FOR_LONG = "wait=30"  # three times as long as the tests wait


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Served]:
    """A service whose images are never processed."""
    async with served(tmp_path / "data", max_in_flight=MOST) as service:
        yield service


@pytest.fixture
def storing(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """The first event is set when the service begins to store an image; the second lets it go on."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    put_upload = GuardedStore.put_upload

    async def put_later(*arguments: Any, **options: Any) -> bool:
        begun.set()
        await go_on.wait()
        return await put_upload(*arguments, **options)

    monkeypatch.setattr(GuardedStore, "put_upload", put_later)
    return begun, go_on


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            pass


async def leave(*asking: asyncio.Task[Any]) -> None:
    """Closes the connections of these requests."""
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)


async def announced(service: Served, topic: str = IMAGES_RECEIVED) -> int:
    return sum((await service.stores.log.end_offsets(topic)).values())


async def nobody_waits(service: Served) -> bool:
    """Whether the request for the metrics is the only one."""
    return "\nfacestream_http_requests_in_flight 1.0\n" in (await service.get("/metrics"))[1]


def left(route: str) -> float:
    """How many callers have left, by the metrics."""
    return REGISTRY.get_sample_value("facestream_http_requests_total", {"route": route, "status": "499"}) or 0.0


async def test_callers_that_have_left_make_room_for_others(service: Served) -> None:
    before = left("POST /detect")
    asking = [asyncio.create_task(service.detect(Prefer=FOR_LONG)) for _ in range(MOST)]

    async def all_wait() -> bool:
        return await announced(service) == MOST

    await until(all_wait)
    assert (await service.detect(Prefer=FOR_LONG))[0] == 429
    await leave(*asking[1:])

    async def one_waits() -> bool:
        return "\nfacestream_http_requests_in_flight 2.0\n" in (await service.get("/metrics"))[1]

    await until(one_waits)
    assert (await service.detect(Prefer="wait=0.01"))[0] == 202
    assert left("POST /detect") == before + MOST - 1
    assert not asking[0].done()
    await leave(asking[0])
    await until(lambda: nobody_waits(service))


async def test_the_image_of_a_caller_that_has_left_is_answered_later(service: Served) -> None:
    images = await service.stores.log.reader(IMAGES_RECEIVED, at="end")
    results = await service.stores.log.reader(RESULTS, at="end")
    asking = asyncio.create_task(service.detect(Prefer=FOR_LONG))
    (event,) = await first_records(images.poll)
    received = ImageReceived.decode(event.value)
    await leave(asking)
    await until(lambda: nobody_waits(service))
    path = f"/results/{received.image_id}"
    assert (await service.get(path))[0] == 202
    body = detected(image_id=received.image_id)
    await service.stores.log.append([answer_record(received, 200, body)])
    stores = service.stores
    async with follow_state(stores.log) as state:
        store = GuardedStore(stores.objects, stores.vectors, state.erasures)
        stage = AnswerStage(stores.vectors, stores.objects, store, keep_probes=True)
        await stage.handle(await first_records(results.poll))
    status, text = await service.get(path)
    assert (status, json.loads(text)) == (200, body.members())
    await images.close()
    await results.close()


async def first_records(poll: Callable[[int, float], Awaitable[list[Record]]]) -> list[Record]:
    async with asyncio.timeout(10):
        while not (records := await poll(10, 1.0)):
            pass
    return records


async def test_an_image_whose_caller_leaves_while_it_is_stored_gets_its_event(
    service: Served, storing: tuple[asyncio.Event, asyncio.Event]
) -> None:
    begun, go_on = storing
    asking = asyncio.create_task(service.detect(Prefer=FOR_LONG))
    await begun.wait()
    await leave(asking)
    for _ in range(10):  # meanwhile the service sees that the connection is closed
        assert (await service.get("/healthz"))[0] == 200
    go_on.set()
    await until(lambda: nobody_waits(service))
    assert await announced(service) == 1
    assert len([info async for info in service.stores.objects.list()]) == 1


async def test_a_service_that_stops_finishes_the_image_of_a_caller_that_has_left(
    tmp_path: Path, storing: tuple[asyncio.Event, asyncio.Event]
) -> None:
    begun, go_on = storing
    async with served(tmp_path / "data") as service:
        asking = asyncio.create_task(service.detect(Prefer=FOR_LONG))
        await begun.wait()
        await leave(asking)
        for _ in range(10):
            assert (await service.get("/healthz"))[0] == 200
        asyncio.get_running_loop().call_later(2, go_on.set)  # the stores would be closed by then
    async with open_stores(Settings(data=tmp_path / "data")) as stores:
        assert sum((await stores.log.end_offsets(IMAGES_RECEIVED)).values()) == 1


async def test_a_caller_that_leaves_while_it_waits_for_an_erasure_frees_its_place_too(service: Served) -> None:
    async def erase() -> None:
        async with service.session.delete("/directories/acme", headers={"Prefer": FOR_LONG}):
            pass

    async def commanded() -> bool:
        return await announced(service, FACES_EMBEDDED) == MOST

    before = left("DELETE /directories/{directory}")
    asking = [asyncio.create_task(erase()) for _ in range(MOST)]
    await until(commanded)
    assert (await service.detect(Prefer=FOR_LONG))[0] == 429
    await leave(*asking)
    await until(lambda: nobody_waits(service))
    assert (await service.detect(Prefer="wait=0.01"))[0] == 202
    assert left("DELETE /directories/{directory}") == before + MOST
