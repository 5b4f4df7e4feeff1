"""Requests that would wait too long are refused before anything is accepted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingest.backpressure import Backpressure
from schemas.errors import TooMuchInFlight
from stream.topics import IMAGES_RECEIVED
from tests.unit.ingest.served import Served, served

MAX_AGE_S = 0.2


@pytest.mark.parametrize("age", [0.0, 29.9, 30.0])
def test_a_request_that_would_not_wait_too_long_is_accepted(age: float) -> None:
    Backpressure(lambda: age, 30.0).check()


@pytest.mark.parametrize(
    ("age", "max_age", "seconds"),
    [(31.0, 30.0, 16), (60.0, 30.0, 45), (10_000.0, 30.0, 60), (0.3, 0.2, 1), (2.0, 0.001, 2)],
)
def test_a_refused_request_is_told_when_to_try_again(age: float, max_age: float, seconds: int) -> None:
    with pytest.raises(TooMuchInFlight, match=rf"in {seconds} s, or send Prefer: respond-async") as refused:
        Backpressure(lambda: age, max_age).check()
    assert refused.value.details == {"retry_after": seconds}


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A service whose images are never processed."""
    monkeypatch.setattr("facestream.runtime.roles.ingest.LOOK_EVERY_S", 0.01)
    async with served(tmp_path / "data", max_age=MAX_AGE_S) as service:
        yield service


async def count_announced_and_stored(service: Served) -> tuple[int, int]:
    """How many images were announced, and how many stored."""
    announced = sum((await service.stores.log.end_offsets(IMAGES_RECEIVED)).values())
    return announced, len([info async for info in service.stores.objects.list()])


async def test_while_an_old_image_waits_a_waiting_request_is_refused_and_nothing_is_stored(service: Served) -> None:
    assert (await service.detect(Prefer="respond-async"))[0] == 202
    async with asyncio.timeout(10):
        while True:
            before = await count_announced_and_stored(service)
            status, body, headers = await service.detect(Prefer="wait=0.01")
            if status == 429:
                break
            assert status == 202  # the first is not old enough yet
    assert await count_announced_and_stored(service) == before
    assert body["code"] == "too_much_in_flight"
    assert int(headers["Retry-After"]) == body["retry_after"] >= 1


async def test_while_an_old_image_waits_a_request_that_does_not_wait_is_accepted(service: Served) -> None:
    await service.detect(Prefer="respond-async")
    async with asyncio.timeout(10):
        while True:
            if (await service.detect(Prefer="wait=0.01"))[0] == 429:
                break
    announced, stored = await count_announced_and_stored(service)
    for prefer in ("respond-async", "wait=0"):
        status, body, _ = await service.detect(Prefer=prefer)
        assert (status, body["status"]) == (202, "working")
        assert (await service.get(body["location"]))[0] == 202
    assert await count_announced_and_stored(service) == (announced + 2, stored + 2)
