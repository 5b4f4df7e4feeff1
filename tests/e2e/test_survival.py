"""The service survives kill -9, SIGTERM, restarts, a full disk, a crowd, too many requests and broken files."""

import asyncio
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from bench.serving import Serving
from bench.soak.kills import soak
from tests import hostile
from tests.e2e.conftest import PATIENCE_S, Client, jpeg


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(
    tmp_path: Path, weights_folder: Path, small_photos: Path
) -> None:
    pictures = [(small_photos / name).read_bytes() for name in ("obama.jpg", "obama2.jpg", "biden.jpg")]
    outcome = await soak(Serving(tmp_path / "data", weights_folder), pictures, kills=3, seed=1)
    assert outcome.wrong == []
    assert outcome.learned


async def test_accepted_requests_are_answered_after_sigterm_and_known_after_a_restart(
    tmp_path: Path, weights_folder: Path, small_photos: Path
) -> None:
    serving = Serving(tmp_path / "data", weights_folder)
    serving.start()
    async with aiohttp.ClientSession() as session:
        client = Client(session, serving.url)
        learns = [
            asyncio.create_task(client.post("/learn", small_photos / "obama.jpg", person=f"p{i}", directory="drain"))
            for i in range(12)
        ]
        async with asyncio.timeout(PATIENCE_S):
            while serving.log().count('"accepted"') < len(learns):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        assert await asyncio.to_thread(serving.stop) == 0
        outcomes = await asyncio.gather(*learns, return_exceptions=True)
        answered = [it for it in outcomes if not isinstance(it, BaseException)]
        assert {status for status, _, _ in answered} == {201}
        assert len(answered) == 12
        await asyncio.to_thread(serving.start)
        client = Client(session, serving.url)
        _, listing, _ = await client.get("/directories/drain/persons")
        assert len(listing["persons"]) == 12
        _, body, _ = await client.post("/recognize", small_photos / "obama2.jpg", directory="drain", strangers="1")
        assert body["persons"][0]["id"] in {it["id"] for it in listing["persons"]}
        image_id = answered[0][1]["image_id"]
        async with asyncio.timeout(PATIENCE_S):  # after a restart too, once the log's last answers are stored
            while (stored := await client.get(f"/results/{image_id}"))[0] == 202:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        assert stored[:2] == (201, answered[0][1])
    assert await asyncio.to_thread(serving.stop) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_is_said_and_survived(small_disk: Path, weights_folder: Path, small_photos: Path) -> None:
    async with aiohttp.ClientSession() as session:
        with Serving(small_disk / "data", weights_folder) as serving:
            client = Client(session, serving.url)
            assert (await client.post("/learn", small_photos / "obama.jpg", person="before", directory="d"))[0] == 201
            filler = small_disk / "filler"
            with pytest.raises(OSError, match="No space"):
                fill(filler)
            status, body, _ = await client.post("/learn", small_photos / "biden.jpg", person="during", directory="d")
            assert (status, body["code"]) in {(507, "storage_full"), (503, "unavailable")}
            assert (await client.get("/healthz"))[0] == 200
            filler.unlink()
            deadline = time.monotonic() + PATIENCE_S
            while True:
                status, body, _ = await client.post("/learn", small_photos / "biden.jpg", person="after", directory="d")
                if status in (200, 201) or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.5)
            assert status in (200, 201), body
            _, body, _ = await client.post("/recognize", small_photos / "obama2.jpg", directory="d")
            assert body["persons"][0]["id"] == "before"


async def test_erasing_makes_room_on_a_full_disk(small_disk: Path, weights_folder: Path, small_photos: Path) -> None:
    """Also after a restart. What fills the disk stays."""
    data = small_disk / "data"

    async def until(client: Client, wanted: set[int], person: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status, body, _ = await client.post("/learn", small_photos / "biden.jpg", person=person, directory="d")
                if status in wanted:
                    return body
                await asyncio.sleep(0.2)

    async with aiohttp.ClientSession() as session:
        with Serving(data, weights_folder) as serving:
            client = Client(session, serving.url)
            for person in ("one", "two"):
                assert (await client.post("/learn", small_photos / "obama.jpg", person=person, directory="d"))[0] == 201
            files = {it for it in data.rglob("objects/**/*") if it.is_file()}
            assert files
            with pytest.raises(OSError, match="No space"):
                fill(small_disk / "filler")
            for person in ("one", "two"):
                assert (await until(client, {507}, "refused"))["code"] == "storage_full"
                async with session.delete(f"{client.url}/directories/d/persons/{person}") as response:
                    assert (response.status, (await response.json())["erased"]["faces"]) == (200, 1)
                await until(client, {201}, person)
                with pytest.raises(OSError, match="No space"):
                    fill(small_disk / f"filler {person}")
                serving.kill()
                await asyncio.to_thread(serving.start)
            assert not any(it.exists() for it in files)
            _, listing, _ = await client.get("/directories/d/persons")
            assert {"one", "two"} <= {it["id"] for it in listing["persons"]}


async def test_a_photo_with_a_thousand_faces_is_answered(client: Client, photos: Path) -> None:
    tile, columns, rows = 80, 40, 25
    with Image.open(photos / "obama.jpg") as first, Image.open(photos / "biden.jpg") as second:
        faces = [
            first.convert("RGB").crop((300, 30, 690, 480)).resize((tile, tile)),
            second.convert("RGB").crop((350, 100, 820, 640)).resize((tile, tile)),
        ]
    canvas = Image.new("RGB", (columns * tile, rows * tile))
    for i in range(columns * rows):
        canvas.paste(faces[i % 2], (i % columns * tile, i // columns * tile))
    await client.post("/learn", photos / "obama.jpg", person="obama", directory="crowd")
    status, body, _ = await client.post("/recognize", jpeg(canvas), directory="crowd", headers={"Prefer": "wait=120"})
    assert status == 200
    assert len(body["persons"]) == 1_000
    named = Counter(person["id"] for person in body["persons"])
    assert named["obama"] >= 480
    assert set(named) == {"obama", None}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, dtype: str) -> Iterator[Serving]:
    """A service that takes few requests at a time and keeps no probes."""
    data = tmp_path_factory.mktemp("limited") / "data"
    with Serving(data, weights_folder, dtype=dtype, max_in_flight="4", keep_probes="0") as serving:
        yield serving


async def test_too_many_requests_get_429_with_retry_after(limited: Serving, small_photos: Path) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = Client(session, limited.url, patient=False)
        answers = await asyncio.gather(*(client.post("/detect", small_photos / "obama.jpg") for _ in range(40)))
    statuses = Counter(status for status, _, _ in answers)
    assert statuses[200] >= 4
    assert statuses[429] > 0
    assert set(statuses) == {200, 429}
    assert all(int(headers["Retry-After"]) >= 1 for status, _, headers in answers if status == 429)


async def test_a_thousand_at_once_are_all_answered(client: Client, photos: Path) -> None:
    with Image.open(photos / "obama_partial_face.jpg") as picture:
        small = jpeg(picture.resize((160, 120)))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        impatient = Client(session, client.url, patient=False)
        answers = await asyncio.gather(*(impatient.post("/detect", small) for _ in range(1_000)))
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) <= {200, 202, 429}
    assert statuses[200] >= 200
    async with asyncio.timeout(PATIENCE_S):
        for location in (body["location"] for status, body, _ in answers if status == 202):
            while (answer := await client.get(location))[0] == 202:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
            assert answer[0] == 200


async def test_with_keep_probes_0_the_pictures_of_probes_are_deleted(limited: Serving, small_photos: Path) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(session, limited.url)
        await client.post("/learn", small_photos / "obama.jpg", person="obama", directory="d")
        _, body, _ = await client.post("/recognize", small_photos / "obama2.jpg", directory="d")
        async with asyncio.timeout(PATIENCE_S):
            while (await client.get(body["url"]))[0] != 404:  # noqa: ASYNC110 - it is another process that we wait for
                await asyncio.sleep(0.05)
        assert (await client.get(f"/results/{body['image_id']}"))[0] == 200
        _, listing, _ = await client.get("/directories/d/persons/obama/faces")
        assert (await client.get(listing["faces"][0]["url"]))[0] == 200


async def test_hostile_files_get_an_answer_and_do_not_affect_good_ones(
    tmp_path: Path, weights_folder: Path, small_photos: Path
) -> None:
    """With PHOTOS=FOLDER every file of that folder must get an answer as well."""
    bad = dict(list(hostile.broken().items())[::4])
    names = sorted(small_photos.iterdir())  # noqa: ASYNC240 - six files
    good = {f"{number} {path.name}": path.read_bytes() for number in range(3) for path in names}
    further = {str(path): path.read_bytes() for path in hostile.further_photos()}
    order = [*bad.items(), *further.items()]
    for place, each in enumerate(good.items()):
        order.insert(place * len(bad) // len(good), each)
    slots, peak = asyncio.Semaphore(16), 0
    with Serving(tmp_path / "data", weights_folder) as serving:

        async def one(client: Client, name: str, data: bytes) -> int:
            async with slots:
                while True:
                    async with asyncio.timeout(PATIENCE_S):
                        status, _, _ = await client.post("/recognize", data, directory="hostile", filename=name)
                    if status != 429:
                        break
                    await asyncio.sleep(0.5)
                nonlocal peak
                peak = max(peak, serving.rss())
                return status

        async with aiohttp.ClientSession() as session:
            client = Client(session, serving.url)
            statuses = await asyncio.gather(*(one(client, name, data) for name, data in order))
        found = dict(zip((name for name, _ in order), statuses, strict=True))
        assert serving.alive()
    assert [name for name in good if found[name] != 200] == []
    assert [(name, status) for name, status in found.items() if not 200 <= status < 500] == []
    assert peak < 3 << 30
    print(Counter(found[name] for name in bad), f"peak memory {peak >> 20} MiB")


async def test_every_request_gets_its_own_answer(client: Client, small_photos: Path) -> None:
    """Answers are not mixed up among requests that wait at the same time."""
    directory = f"mix-{uuid.uuid4()}"
    for name in ("obama", "biden"):
        await client.post("/learn", small_photos / f"{name}.jpg", person=name, directory=directory)
    pictures = {"obama": small_photos / "obama2.jpg", "biden": small_photos / "biden.jpg"}
    wanted = ["obama", "biden"] * 10
    answers = await asyncio.gather(
        *(client.post("/recognize", pictures[name], directory=directory, filename=name) for name in wanted)
    )
    assert [(body["filename"], body["persons"][0]["id"]) for _, body, _ in answers] == [(name, name) for name in wanted]
    assert len({body["image_id"] for _, body, _ in answers}) == len(wanted)


async def test_truncated_uploads_do_no_harm(client: Client, small_photos: Path) -> None:
    """A client that disconnects during its upload does not block others."""
    host, port = client.url.removeprefix("http://").split(":")
    for _ in range(20):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n")
        writer.write(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b")
        await writer.drain()
        writer.close()
    await asyncio.sleep(0.2)
    status, _, _ = await client.post("/recognize", small_photos / "biden.jpg", directory="cut")
    assert status == 200
