"""The data folder of an older version is opened, and everything in it still works."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.serving import Serving
from tests.compatibility.recorded import unpack
from tests.e2e.conftest import Client
from tests.portraits import jpeg, portrait

SIMILAR = 0.002  # bfloat16 is not used; float32 kernels differ a little from processor to processor


async def facestream(data: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "facestream.cli", *arguments, "--data", str(data)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.parametrize("version", ["0.1.0"])
async def test_the_data_folder_of_an_older_version_still_works(
    version: str, tmp_path: Path, weights_folder: Path
) -> None:
    data = tmp_path / "data"
    then = unpack(version, data)
    with Serving(data, weights_folder, dtype="float32", member="recorded") as serving:
        headers = {"x-api-key": then["key"]}
        async with aiohttp.ClientSession(headers=headers) as session:
            client = Client(session, serving.url)
            await answers_are_as_they_were(client, then)
            await people_are_as_they_were(client, then)
            await what_was_accepted_is_answered(client, then)
            await what_was_erased_stays_erased(client, data)
            await it_goes_on_learning(client)
        assert "dlib-resnet29" in await facestream(data, "models", "list")
        assert "unreadable_record" in await facestream(data, "dead-letters", "list")
    assert "Traceback" not in serving.log()


async def answers_are_as_they_were(client: Client, then: dict[str, Any]) -> None:
    for name in ("recognized", "unknown", "detected"):
        status, body, _ = await client.get(f"/results/{then[name]['image_id']}")
        assert (status, body) == (200, then[name])
    status, body, _ = await client.get(f"/results/{then['no_face']['image_id']}")
    assert (status, body) == (422, then["no_face"])
    # The same request again is answered from the store.
    status, body, _ = await client.post(
        "/learn",
        jpeg(portrait(2)),
        headers={"Idempotency-Key": "ann-1"},
        filename="drawn.jpg",
        directory="acme",
        person="ann",
    )
    assert (status, body) == (201, then["learned"]["ann"])


async def people_are_as_they_were(client: Client, then: dict[str, Any]) -> None:
    status, body, _ = await client.get("/directories/acme/persons")
    assert (status, body["persons"]) == (200, [{"id": "ann", "faces": 1}, {"id": "ben", "faces": 1}])
    ann = then["learned"]["ann"]
    assert (await client.get(f"/faces/{ann['persons'][0]['face_id']}.jpg"))[0] == 200
    status, picture, _ = await client.get(ann["url"])
    assert (status, hashlib.sha256(picture).hexdigest()) == (200, then["sha256"]["ann"])
    status, body, _ = await client.post("/recognize", jpeg(portrait(2, light=0.4)), directory="acme")
    assert status == 200
    (person,), (was,) = body["persons"], then["recognized"]["persons"]
    assert person["id"] == was["id"] == "ann"
    assert person["similarity"] == pytest.approx(was["similarity"], abs=SIMILAR)


async def what_was_accepted_is_answered(client: Client, then: dict[str, Any]) -> None:
    """The older version was killed with an accepted image in its log."""
    async with asyncio.timeout(60):
        while (answer := await client.get(f"/results/{then['waiting']}"))[0] == 202:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
    status, body, _ = answer
    assert status == 200
    assert [it["id"] for it in body["persons"]] == ["ann"]


async def what_was_erased_stays_erased(client: Client, data: Path) -> None:
    assert (await client.get("/directories"))[1] == {"directories": ["acme"]}
    assert "carl" not in json.dumps((await client.get("/directories/former/persons"))[1])
    await facestream(data, "erase", "verify")


async def it_goes_on_learning(client: Client) -> None:
    assert (await client.post("/learn", jpeg(portrait(5)), directory="acme", person="eve"))[0] == 201
    status, body, _ = await client.post("/recognize", jpeg(portrait(5, light=0.3)), directory="acme")
    assert (status, body["persons"][0]["id"]) == (200, "eve")
    async with client.session.delete(f"{client.url}/directories/acme/persons/ben") as response:
        assert response.status == 200
    assert (await client.get("/directories/acme/persons"))[1]["persons"][-1] == {"id": "eve", "faces": 1}
