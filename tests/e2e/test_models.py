"""A better model without downtime: add, reembed, activate, roll back, retire. With one process, and on the real
servers.
"""

import asyncio
import io
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image

from bench.cluster import Cluster
from bench.commands import Commands
from bench.serving import Serving
from bench.stores import temporary_stores
from tests.e2e.conftest import PATIENCE_S, Client
from tests.onnx_files import write_resnet29

pytestmark = pytest.mark.asyncio(loop_scope="module")

OLD = "dlib-resnet29-mirror"
PEOPLE = 24  # enough for a threshold


class System:
    """A running system, and the command line on its stores."""

    def __init__(self, url: str, data: Path, weights: Path, settings: dict[str, str]) -> None:
        self.url = url
        self._commands = Commands(settings | {"data": str(data), "weights": str(weights)})

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return self._commands.start(*arguments)

    async def facestream(self, *arguments: str, code: int = 0) -> str:
        """The output of the command."""
        returned, said = await self._commands.run(*arguments)
        assert returned == code, f"{arguments}: {said}"
        return said

    async def generations(self) -> dict[str, dict[str, Any]]:
        rows = [json.loads(line) for line in (await self.facestream("models", "list", "--json")).splitlines()]
        return {row["name"]: row for row in rows}


EMBEDDED, DISTRIBUTED = "embedded", pytest.param("distributed", marks=pytest.mark.servers)
# A replay is the same for a model and for a detector. So one runs in each setting.
in_one_process = pytest.mark.parametrize("system", [EMBEDDED], indirect=True)
on_the_real_servers = pytest.mark.parametrize("system", [DISTRIBUTED], indirect=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[EMBEDDED, DISTRIBUTED])
async def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, dtype: str
) -> AsyncIterator[System]:
    data = tmp_path_factory.mktemp(f"models-{request.param}") / "data"
    if request.param == "embedded":
        with Serving(data, weights_folder, dtype=dtype) as serving:
            yield System(serving.url, data, weights_folder, {"dtype": dtype})
        return
    counts = {"ingest": 1, "process": 1, "sink": 1}
    async with (
        temporary_stores("test", request.getfixturevalue("services")) as stores,
        Cluster(stores, data, weights_folder, counts, decoders="1", dtype=dtype) as cluster,
    ):
        yield System(cluster.urls[0], data, weights_folder, stores | {"dtype": dtype})


@pytest_asyncio.fixture(loop_scope="module")
async def client(system: System) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session, system.url)


def portrait_of(path: Path, number: int) -> bytes:
    """The same face, smaller and darker each time."""
    with Image.open(path) as picture:
        side = 600 - 8 * number
        changed = picture.convert("RGB").resize((side, side)).point(lambda value: value * (40 - number) // 40)
    file = io.BytesIO()
    changed.save(file, "JPEG", quality=92)
    return file.getvalue()


async def learn_people(client: Client, photos: Path, directory: str) -> None:
    """Learns PEOPLE people, from pictures of two faces."""
    for number in range(PEOPLE):
        picture = portrait_of(photos / ("obama3.jpg" if number % 2 else "biden.jpg"), number)
        fields = {"person": f"person {number}", "directory": directory, "face": "largest"}
        status, body, _ = await client.post("/learn", picture, **fields)
        assert status == 201, body


async def generation_and_candidates(client: Client, picture: Path, directory: str) -> tuple[str, set[str]]:
    """The generation of the answer, and the people among the candidates."""
    status, body, _ = await client.post("/recognize", picture, directory=directory, strangers="1", top="10")
    assert status == 200, body
    return body["models"]["generation"], {it["id"] for person in body["persons"] for it in person["candidates"]}


async def until_active(client: Client, picture: Path, directory: str, generation: str) -> set[str]:
    """Waits until processors know that the generation is active; returns the people among the candidates."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found, people = await generation_and_candidates(client, picture, directory)
            if found == generation:
                return people
            await asyncio.sleep(0.1)


@on_the_real_servers
async def test_switching_to_another_model_and_back(
    system: System, client: Client, small_photos: Path, tmp_path: Path, weights_folder: Path
) -> None:
    await learn_people(client, small_photos, "d")
    assert (await client.post("/learn", small_photos / "obama.jpg", person="obama", directory="d"))[0] == 201

    file = write_resnet29(tmp_path / "mine.onnx", weights_folder)
    assert "no generation 'mine'" in await system.facestream("reembed", "mine", code=1)
    wanted = ("--input", "150", "--template", "dlib", "--range", "0..255")
    await system.facestream("models", "add", "mine", str(file), *wanted)
    assert "make its vectors first" in await system.facestream("models", "activate", "mine", code=2)

    replay = system.begin("reembed", "mine", "--rate", "1")
    async with asyncio.timeout(PATIENCE_S):
        while (await system.generations())["mine"]["state"] != "candidate":  # noqa: ASYNC110 - first of all
            await asyncio.sleep(0.1)
    for number in range(3):
        picture = portrait_of(small_photos / "obama2.jpg", number)
        assert (await client.post("/learn", picture, person=f"beside {number}", directory="d"))[0] == 201
    replay.kill()  # -9
    await asyncio.to_thread(replay.communicate)
    assert (await system.generations())["mine"]["state"] == "candidate"
    assert "is complete" in await system.facestream("reembed", "mine")
    generations = await system.generations()
    assert (generations["mine"]["state"], generations[OLD]["state"]) == ("complete", "active")
    assert generations["mine"]["faces"] == generations[OLD]["faces"] == PEOPLE + 4
    assert generations["mine"]["dimension"] == 128
    assert generations["mine"]["threshold"] is True
    await system.facestream("models", "compare", OLD, "mine")

    await system.facestream("models", "activate", "mine")
    assert "obama" in await until_active(client, small_photos / "obama2.jpg", "d", "mine")
    assert (await client.post("/learn", small_photos / "obama2.jpg", person="later", directory="d"))[0] == 201
    assert "later" in (await generation_and_candidates(client, small_photos / "obama2.jpg", "d"))[1]

    assert "is active" in await system.facestream("models", "retire", "mine", code=2)
    await system.facestream("models", "activate", OLD)
    assert "later" in await until_active(client, small_photos / "obama2.jpg", "d", OLD)  # nothing is lost
    assert f"{PEOPLE + 5} vectors deleted" in await system.facestream("models", "retire", "mine")
    generations = await system.generations()
    assert (generations["mine"]["state"], generations["mine"]["faces"]) == ("retired", 0)
    for arguments in (
        ("reembed", "mine"),
        ("models", "activate", "mine"),
        ("models", "add", "mine", str(file), *wanted),
    ):
        assert "mine" in await system.facestream(*arguments, code=2)
    assert (await client.post("/learn", portrait_of(small_photos / "obama.jpg", 9), person="last", directory="d"))[
        0
    ] == 201
    assert (await system.generations())["mine"]["faces"] == 0


@in_one_process
async def test_switching_to_another_detector_and_back(system: System, client: Client, small_photos: Path) -> None:
    new, people = f"{OLD}.centerface-mirror", {"obama.jpg": "one", "biden.jpg": "two"}
    for name, person in people.items():
        assert (await client.post("/learn", small_photos / name, person=person, directory="redetected"))[0] == 201
    assert "there are centerface, centerface-mirror" in await system.facestream("redetect", "nothing", code=1)
    assert "already" in await system.facestream("redetect", "centerface", code=2)
    assert "another generation" in await system.facestream(
        "redetect", "centerface-mirror", "--name", "dlib-resnet29", code=2
    )

    await learn_people(client, small_photos, "others")
    before = (await system.generations())[OLD]["faces"]
    replay = system.begin("redetect", "centerface-mirror", "--rate", "1")
    async with asyncio.timeout(PATIENCE_S):
        while new not in await system.generations():  # noqa: ASYNC110 - it is announced first of all
            await asyncio.sleep(0.2)
    picture = portrait_of(small_photos / "obama2.jpg", 1)
    assert (await client.post("/learn", picture, person="beside", directory="redetected"))[0] == 201
    replay.kill()  # -9
    await asyncio.to_thread(replay.communicate)
    assert "is complete" in await system.facestream("redetect", "centerface-mirror")
    done = (await system.generations())[new]
    assert (done["state"], done["detector"], done["faces"]) == ("complete", "centerface-mirror", before + 1)
    assert (done["threshold"], done["calibration"]) == (True, True)
    await system.facestream("models", "compare", OLD, new)

    await system.facestream("models", "activate", new)
    assert {"one", "beside"} <= await until_active(client, small_photos / "obama2.jpg", "redetected", new)
    status, body, _ = await client.post("/recognize", small_photos / "obama2.jpg", directory="redetected")
    assert (status, body["models"]["detector"]) == (200, "centerface-mirror")
    assert body["persons"][0]["id"] in ("one", "beside")
    picture = portrait_of(small_photos / "obama3.jpg", 2)
    assert (await client.post("/learn", picture, person="later", directory="redetected"))[0] == 201
    assert "already" in await system.facestream("redetect", "centerface-mirror", code=2)

    await system.facestream("models", "activate", OLD)
    assert "later" in await until_active(client, small_photos / "obama3.jpg", "redetected", OLD)  # nothing is lost
    assert f"{before + 2} vectors deleted" in await system.facestream("models", "retire", new)


async def test_a_directory_is_exported_and_imported_under_another_name(
    system: System, client: Client, small_photos: Path, tmp_path: Path
) -> None:
    for name in ("obama", "biden"):
        assert (await client.post("/learn", small_photos / f"{name}.jpg", person=name, directory="from"))[0] == 201
    file = tmp_path / "from.tar"
    await system.facestream("export", str(file), "--directory", "from")
    assert "has no faces" in await system.facestream("export", str(file), "--directory", "nobody", code=1)
    await system.facestream("import", str(file), "--directory", "to")
    await system.facestream("import", str(file), "--directory", "to")  # twice has one effect
    async with asyncio.timeout(PATIENCE_S):
        while len((await client.get("/directories/to/persons"))[1]["persons"]) < 2:  # noqa: ASYNC110 - the sink writes them
            await asyncio.sleep(0.1)
    status, body, _ = await client.post("/recognize", small_photos / "obama2.jpg", directory="to")
    assert (status, body["persons"][0]["id"]) == (200, "obama")
    people = (await client.get("/directories/to/persons"))[1]["persons"]
    assert people == [{"id": "biden", "faces": 1}, {"id": "obama", "faces": 1}]
    face = (await client.get("/directories/to/persons/obama/faces"))[1]["faces"][0]
    for path in (f"/faces/{face['face_id']}.jpg", f"/files/{face['image_id']}.jpg"):
        assert (await client.get(path))[0] == 200
    async with client.session.delete(f"{client.url}/directories/from") as response:
        assert response.status == 200
    assert (await client.post("/recognize", small_photos / "obama2.jpg", directory="to"))[1]["persons"][0][
        "id"
    ] == "obama"
    await system.facestream("import", str(file))  # learned again after the erase
    async with asyncio.timeout(PATIENCE_S):
        while len((await client.get("/directories/from/persons"))[1]["persons"]) < 2:  # noqa: ASYNC110 - the sink writes them
            await asyncio.sleep(0.1)
    assert "nothing left" in await system.facestream("erase", "verify")
