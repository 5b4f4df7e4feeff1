"""The roles as separate processes on the real servers: short forms of bench.soak.same_answers and .faults."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image

from bench.cluster import Cluster, unique
from bench.commands import Commands
from bench.serving import Serving
from bench.soak import erase, erase_round, faults, same_answers
from bench.stores import temporary_stores
from scripts.services import Services
from tests.e2e.conftest import Client, jpeg

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTS = {"ingest": 2, "process": 2, "sink": 2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stores(services: dict[str, str]) -> AsyncIterator[dict[str, str]]:
    async with temporary_stores("test", services) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, dtype: str
) -> AsyncIterator[Cluster]:
    """One cluster for all tests of this file, because its start takes as long as a test. Each test has its own
    directories.
    """
    data = tmp_path_factory.mktemp("distributed") / "data"
    async with Cluster(stores, data, weights_folder, COUNTS, decoders="1", dtype=dtype) as running:
        yield running


@pytest.fixture
def portraits(small_photos: Path, tmp_path: Path) -> list[Path]:
    """Portraits of two people, in a folder for each person."""
    found = []
    for name, person in [
        ("obama.jpg", "obama"),
        ("obama2.jpg", "obama"),
        ("obama3.jpg", "obama"),
        ("biden.jpg", "biden"),
    ]:
        target = tmp_path / person / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(small_photos / name, target)
        found.append(target)
    with Image.open(small_photos / "biden.jpg") as picture:
        for side in (300, 350, 450, 500):
            picture.convert("RGB").resize((side, side)).save(tmp_path / "biden" / f"{side}.jpg")
            found.append(tmp_path / "biden" / f"{side}.jpg")
    return found


async def test_the_answers_are_those_of_one_process(cluster: Cluster, serving: Serving, portraits: list[Path]) -> None:
    expected = await same_answers.collect_answers([serving.url], portraits, 32)
    assert {status for status, _ in expected.values()} <= {200, 201}
    found = await same_answers.collect_answers(cluster.urls, portraits, 32)
    assert [
        line for key, answer in expected.items() for line in same_answers.differences(answer, found.get(key), key)
    ] == []


async def test_replicas_share_learned_faces_and_answers(cluster: Cluster, photos: Path) -> None:
    async with aiohttp.ClientSession() as session:
        one, other = (Client(session, url) for url in cluster.urls)
        status, learned, _ = await one.post("/learn", photos / "obama.jpg", person="obama", directory="d")
        assert status == 201
        status, body, _ = await other.post("/recognize", photos / "obama2.jpg", directory="d")
        assert (status, body["persons"][0]["id"]) == (200, "obama")
        status, waiting, _ = await one.post(
            "/recognize", photos / "obama2.jpg", directory="d", headers={"Prefer": "respond-async"}
        )
        assert status == 202
        for client in (one, other):
            while (answer := await client.get(waiting["location"]))[0] == 202:  # noqa: ASYNC110 - it asks another process
                await asyncio.sleep(0.05)
            assert answer[0] == 200
            assert answer[1]["persons"][0]["id"] == "obama"
        face = learned["persons"][0]["face_id"]
        assert (await other.get(f"/faces/{face}.jpg"))[0] == 200
        key = {"Idempotency-Key": unique("k")}
        both = await asyncio.gather(
            *(
                client.post("/learn", photos / "biden.jpg", person="biden", directory="d", headers=key)
                for client in (one, other)
            )
        )
        assert {status for status, _, _ in both} == {201}
        assert both[0][1] == both[1][1]
        status, body, _ = await other.post("/learn", photos / "obama.jpg", person="biden", directory="d", headers=key)
        assert (status, body["code"]) == (422, "idempotency_key_reused")


async def test_a_killed_replica_does_not_affect_requests_to_others(cluster: Cluster, photos: Path) -> None:
    dying, living = cluster.running["ingest"]
    async with aiohttp.ClientSession() as session:
        lost = asyncio.create_task(Client(session, dying.url).post("/recognize", photos / "obama.jpg", directory="d"))
        kept = [
            asyncio.create_task(Client(session, living.url).post("/recognize", photos / "obama.jpg", directory="d"))
            for _ in range(6)
        ]
        await asyncio.sleep(0.2)
        dying.kill()
        assert {status for status, _, _ in await asyncio.gather(*kept)} == {200}
        await asyncio.gather(lost, return_exceptions=True)
    await asyncio.to_thread(dying.start)


async def test_a_photo_with_a_thousand_faces_is_answered(cluster: Cluster, photos: Path) -> None:
    tile, columns, rows = 80, 40, 25
    with Image.open(photos / "obama.jpg") as first:
        face = first.convert("RGB").crop((300, 30, 690, 480)).resize((tile, tile))
    canvas = Image.new("RGB", (columns * tile, rows * tile))
    for i in range(columns * rows):
        canvas.paste(face, (i % columns * tile, i // columns * tile))
    async with aiohttp.ClientSession() as session:
        client = Client(session, cluster.urls[0])
        status, body, _ = await client.post(
            "/recognize", jpeg(canvas), directory="crowd", headers={"Prefer": "wait=120"}
        )
    assert status == 200
    assert len(body["persons"]) == 1_000


async def test_erased_people_stay_erased_when_a_suspended_sink_continues(
    cluster: Cluster, stores: dict[str, str], small_photos: Path, weights_folder: Path, dtype: str
) -> None:
    """The long form is `make soak-erase`."""
    portraits = [(small_photos / name).read_bytes() for name in ("obama.jpg", "obama2.jpg", "obama3.jpg")]
    pictures = erase_round.RoundPhotos(portraits, (small_photos / "biden.jpg").read_bytes())
    commands = Commands(stores | {"data": str(cluster.data), "weights": str(weights_folder), "dtype": dtype})
    held = {"held sink": erase.hold_one(cluster, "sink", 14)}
    assert await erase.erase_under_fire(cluster, commands, pictures, held, rounds=4, together=4, seed=1, rate=20) == []


@pytest.mark.stops_servers
async def test_results_are_right_while_processes_and_servers_stop_and_start(
    cluster: Cluster, stores: dict[str, str], servers: Services, small_photos: Path
) -> None:
    """Under load; the long form is `make soak-services`."""
    pictures = [(small_photos / name).read_bytes() for name in ("obama.jpg", "obama2.jpg", "biden.jpg")]
    some = {
        "kill": faults.kill_roles(2),
        "kafka": faults.stop_server(servers, "kafka", 2, kill=True),
        "cassandra": faults.stop_server(servers, "cassandra", 2, kill=False),
        "minio": faults.stop_server(servers, "minio", 3, kill=False),
        "held sink": faults.hold_role("sink", 14),
    }
    assert await faults.run(cluster, stores, pictures, some, seed=1) == []
