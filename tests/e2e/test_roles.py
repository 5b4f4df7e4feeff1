"""Each role as separate processes, several of each, on the embedded stores in one data folder; also with separate
detect and embed processes.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backends.log import partition_of
from backends.sqlite.log import SqliteLog
from bench.serving import Serving
from bench.soak.erase_round import KINDS, Round
from bench.soak.kills import SingleService
from facestream.commands.trace import trace_image
from stream.topics import FACES_EMBEDDED, IMAGES_RECEIVED, PARTITIONS
from tests.e2e.conftest import PATIENCE_S, Client
from tests.e2e.test_erase import facestream, pictures_of

EVEN, ODD = (next(name for name in map(str, range(99)) if partition_of(name, PARTITIONS) % 2 == odd) for odd in (0, 1))


def init(data: Path) -> None:
    assert facestream(data, "init").returncode == 0


@dataclass(frozen=True, slots=True)
class Roles:
    """The processes by name; `role` makes another one on the same data folder."""

    data: Path
    weights: Path
    running: dict[str, Serving]

    def role(self, name: str, *command: str, **settings: str) -> Serving:
        return Serving(self.data, self.weights, command=command, name=name, **settings)


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path) -> Iterator[Roles]:
    data = tmp_path_factory.mktemp("roles") / "data"
    init(data)
    roles = Roles(data, weights_folder, {})
    for name, command in {
        "ingest-a": ("ingest",),
        "ingest-b": ("ingest",),
        "detect": ("process", "--stage", "detect"),
        "embed": ("process", "--stage", "embed"),
        "sink-a": ("sink",),
        "sink-b": ("sink",),
    }.items():
        roles.running[name] = roles.role(name, *command)
    with ThreadPoolExecutor() as threads:
        list(threads.map(Serving.start, roles.running.values()))
    yield roles
    with ThreadPoolExecutor() as threads:
        codes = dict(zip(roles.running, threads.map(Serving.stop, roles.running.values()), strict=True))
    assert codes == dict.fromkeys(roles.running, 0)


@pytest.fixture
async def session() -> Any:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def client(session: aiohttp.ClientSession, serving: Serving) -> Client:
    return Client(session, serving.url)


async def metrics(session: aiohttp.ClientSession, serving: Serving) -> dict[str, float]:
    async with session.get(f"{serving.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


async def handled(session: aiohttp.ClientSession, sink: Serving) -> float:
    return (await metrics(session, sink)).get('facestream_records_total{stage="sink",topic="faces.embedded"}', 0)


async def test_a_face_that_one_replica_learned_is_recognized_by_another(
    roles: Roles, session: aiohttp.ClientSession, small_photos: Path
) -> None:
    a, b = (client(session, roles.running[name]) for name in ("ingest-a", "ingest-b"))
    before = [await handled(session, roles.running[name]) for name in ("sink-a", "sink-b")]
    for directory in (EVEN, ODD):
        status, learned, _ = await a.post("/learn", small_photos / "obama.jpg", person="obama", directory=directory)
        assert status == 201
        status, seen, _ = await b.post("/recognize", small_photos / "obama2.jpg", directory=directory)
        assert (status, seen["persons"][0]["id"]) == (200, "obama")
        async with asyncio.timeout(PATIENCE_S):
            while (kept := await b.get(f"/results/{learned['image_id']}"))[0] == 202:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        assert kept[:2] == (201, learned)
        assert (await b.get(learned["url"]))[0] == 200
    after = [await handled(session, roles.running[name]) for name in ("sink-a", "sink-b")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 2]  # each sink has its directories
    log = SqliteLog(roles.data / "log.db")
    topics = [step.record.topic for step in await trace_image(log, learned["image_id"])]
    await log.close()
    assert topics == ["images.received", "faces.detected", "faces.embedded", "faces.learned", "results"]


async def test_every_role_is_ready_and_has_its_own_member_name(roles: Roles, session: aiohttp.ClientSession) -> None:
    stores = {"log", "objects", "vectors"}
    of_sink = {"sink", "answers", "bridge"}
    workers = {"detect": {"processors"}, "embed": {"embedders"}, "sink-a": of_sink, "sink-b": of_sink}
    others = {"ingest-a": {"uploads"}, "ingest-b": {"uploads"}}
    members = []
    for name, serving in roles.running.items():
        status, body, _ = await client(session, serving).get("/readyz")
        assert (status, body) == (200, {"status": "OK", "checks": dict.fromkeys(body["checks"], "OK")})
        assert set(body["checks"]) == stores | workers.get(name, set()) | others.get(name, set())
        assert (await client(session, serving).get("/healthz"))[0] == 200
        shown = await metrics(session, serving)
        for group in workers.get(name, ()):
            assert any(it.startswith(f'facestream_lag_records{{group="{group}"') for it in shown)
        said = [json.loads(line) for line in serving.log().splitlines() if line.startswith("{")]
        members += [it["member"] for it in said if it["event"] == "serving"]
    assert len(set(members)) == len(roles.running)


async def test_an_image_can_be_followed_through_the_logs_of_all_roles(
    roles: Roles, session: aiohttp.ClientSession, small_photos: Path
) -> None:
    _, body, _ = await client(session, roles.running["ingest-a"]).post(
        "/recognize", small_photos / "biden.jpg", directory=EVEN
    )
    events = set()
    for serving in roles.running.values():
        for line in serving.log().splitlines():
            if body["image_id"] in line:
                said = json.loads(line)
                assert said["image_id"] == body["image_id"]
                events.add((said["event"], said.get("stage")))
    assert {("accepted", None), ("handled", "processors"), ("handled", "embedders"), ("handled", "sink")} <= events
    assert ("answered", None) in events


async def test_a_killed_replica_does_not_affect_requests_to_others(
    roles: Roles, session: aiohttp.ClientSession, small_photos: Path
) -> None:
    b = client(session, roles.running["ingest-b"])
    dying = roles.role("ingest-dying", "ingest")
    await asyncio.to_thread(dying.start)
    directory = str(uuid.uuid4())
    waiting = [
        asyncio.create_task(
            client(session, ingest).post("/learn", small_photos / "obama.jpg", person=f"{i}", directory=directory)
        )
        for i, ingest in enumerate([roles.running["ingest-b"], dying] * 6)
    ]
    status, accepted, _ = await client(session, dying).post(
        "/learn", small_photos / "biden.jpg", person="biden", directory=directory, headers={"Prefer": "respond-async"}
    )
    assert status == 202
    dying.kill()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [it[0] for it in outcomes[::2] if not isinstance(it, BaseException)] == [201] * 6
    of_dying = [it[0] if isinstance(it, tuple) else it for it in outcomes[1::2]]
    assert any(isinstance(it, aiohttp.ClientError) for it in of_dying)
    assert all(it == 201 or isinstance(it, aiohttp.ClientError) for it in of_dying)
    # What it had accepted is processed all the same, and any other replica has the answer.
    async with asyncio.timeout(PATIENCE_S):
        while (kept := await b.get(accepted["location"]))[0] == 202:  # noqa: ASYNC110 - it is another process that we wait for
            await asyncio.sleep(0.05)
    assert (kept[0], kept[1]["persons"][0]["id"]) == (201, "biden")


async def test_sigterm_drains_each_role_while_others_go_on(
    roles: Roles, session: aiohttp.ClientSession, small_photos: Path
) -> None:
    """A sink and an ingest replica start and stop under load. Nothing is lost, and every request is answered."""
    leaving = [roles.role("sink-leaving", "sink"), roles.role("ingest-leaving", "ingest")]
    for serving in leaving:
        await asyncio.to_thread(serving.start)
    directories = [str(uuid.uuid4()) for _ in range(12)]
    ingests = [roles.running["ingest-a"], leaving[1]]
    learns = [
        asyncio.create_task(
            client(session, ingests[i % 2]).post("/learn", small_photos / "obama.jpg", person="obama", directory=it)
        )
        for i, it in enumerate(directories)
    ]
    async with asyncio.timeout(PATIENCE_S):
        while "accepted" not in leaving[1].log():  # noqa: ASYNC110 - it is another process that we wait for
            await asyncio.sleep(0.01)
    assert await asyncio.to_thread(lambda: [serving.stop() for serving in leaving]) == [0, 0]
    answers = await asyncio.gather(*learns, return_exceptions=True)
    answered = [it for it in answers if not isinstance(it, BaseException)]
    assert {status for status, _, _ in answered} == {201}
    assert len(answered) >= 6  # all of the replica that stays; the other may have stopped listening before some came
    a = client(session, roles.running["ingest-a"])
    for _, body, _ in answered:
        status, seen, _ = await a.post("/recognize", small_photos / "obama2.jpg", directory=body["directory"])
        assert (status, seen["persons"][0]["id"]) == (200, "obama")


async def test_a_role_commits_the_note_of_a_clean_stop_after_sigterm(tmp_path: Path) -> None:
    """The commits of a clean stop are marked as such. Otherwise the next start would handle the uncommitted records one
    by one.
    """
    data = tmp_path / "data"
    init(data)
    with Serving(data, tmp_path, command=("sink",)):
        pass
    log = SqliteLog(data / "log.db")
    looking = await log.consumer("sink", [FACES_EMBEDDED], member="looking")
    async with asyncio.timeout(PATIENCE_S):
        while not looking.assignment:
            await looking.poll(1, 0.1)
    assert [committed.metadata for committed in looking.assignment.values()] == ["stopped"] * PARTITIONS
    await log.close()


async def test_requests_are_refused_before_anything_is_stored_while_images_are_not_processed(
    tmp_path: Path, session: aiohttp.ClientSession, small_photos: Path
) -> None:
    data = tmp_path / "data"
    init(data)

    async def count_announced_and_stored() -> tuple[int, int]:
        log = SqliteLog(data / "log.db")
        announced = sum((await log.end_offsets(IMAGES_RECEIVED)).values())
        await log.close()
        return announced, sum(path.is_file() for path in (data / "objects").rglob("*"))

    with Serving(data, tmp_path, command=("ingest",), max_age="0.5") as ingest:
        alone = Client(session, ingest.url, patient=False)
        status, _, _ = await alone.post("/detect", small_photos / "obama.jpg", headers={"Prefer": "respond-async"})
        assert status == 202
        async with asyncio.timeout(PATIENCE_S):
            while True:
                before = await count_announced_and_stored()
                status, body, headers = await alone.post(
                    "/detect", small_photos / "obama.jpg", headers={"Prefer": "wait=0.1"}
                )
                if status == 429:
                    break
                assert status == 202
        assert await count_announced_and_stored() == before
        assert body["code"] == "too_much_in_flight"
        assert int(headers["Retry-After"]) >= 1
        status, _, _ = await alone.post("/detect", small_photos / "obama.jpg", headers={"Prefer": "respond-async"})
        assert status == 202
        assert await count_announced_and_stored() > before


async def test_erasing_works_with_separate_detect_and_embed_stages(
    roles: Roles, session: aiohttp.ClientSession, small_photos: Path
) -> None:
    pictures = pictures_of(small_photos)
    served = SingleService(roles.running["ingest-a"])
    rounds = [Round(served, session, pictures, kind, True, random.Random(kind)) for kind in KINDS]
    await asyncio.gather(*(one.run(asyncio.Event()) for one in rounds))
    assert [line for one in rounds for line in one.wrong] == []
    assert None not in [one.learned_again for one in rounds]
    done = await asyncio.to_thread(facestream, roles.data, "erase", "verify")
    assert done.returncode == 0, done.stdout
