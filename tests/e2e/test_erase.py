"""Erasing people, faces, images and directories through HTTP: on one service, with keys, and with a kill in the middle.
The long form is `make soak-erase`. test_roles.py does it with detect and embed apart.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.serving import Serving
from bench.soak.erase_round import KINDS, Round, RoundPhotos
from bench.soak.kills import SingleService
from schemas.ids import learned_face_id
from tests.conftest import ROOT
from tests.e2e.conftest import PATIENCE_S, Client

ASYNC = {"Prefer": "respond-async"}


def facestream(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    command = [sys.executable, "-m", "facestream.cli", *arguments, "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def pictures_of(small_photos: Path) -> RoundPhotos:
    portraits = [(small_photos / name).read_bytes() for name in ("obama.jpg", "obama2.jpg", "obama3.jpg")]
    return RoundPhotos(portraits, (small_photos / "biden.jpg").read_bytes())


@pytest.fixture
def directory() -> str:
    return f"erase-{uuid.uuid4()}"


async def delete(client: Client, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    async with client.session.delete(client.url + path, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def learned(client: Client, photo: Path | bytes, person: str, directory: str, **headers: str) -> dict[str, Any]:
    status, body, _ = await client.post("/learn", photo, person=person, directory=directory, headers=headers)
    assert status == 201, body
    return body


async def result(client: Client, image_id: str) -> tuple[int, dict[str, Any]]:
    """Waits for the answer of an image."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, body, _ = await client.get(f"/results/{image_id}")
            if status != 202:
                return status, body
            await asyncio.sleep(0.05)


async def erased_in_flight(client: Client, image_ids: list[str]) -> None:
    """Waits until each image is answered with 409 `erased`. Its picture is deleted first: until then the image is
    unknown.
    """
    async with asyncio.timeout(PATIENCE_S):
        for image_id in image_ids:
            while (answer := await client.get(f"/results/{image_id}"))[0] != 409:
                assert answer[0] in (202, 404)
                await asyncio.sleep(0.05)
            assert answer[1]["code"] == "erased"


async def people(client: Client, directory: str) -> dict[str, int]:
    _, body, _ = await client.get(f"/directories/{directory}/persons")
    return {it["id"]: it["faces"] for it in body["persons"]}


async def test_erasing_a_person_deletes_all_data_of_the_person(
    client: Client, serving: Serving, small_photos: Path, directory: str
) -> None:
    portraits = [await learned(client, small_photos / name, "obama", directory) for name in ("obama.jpg", "obama2.jpg")]
    other = await learned(client, small_photos / "biden.jpg", "biden", directory)
    _, photo, _ = await client.post("/recognize", small_photos / "obama3.jpg", directory=directory)
    assert photo["persons"][0]["id"] == "obama"
    status, body = await delete(client, f"/directories/{directory}/persons/obama")
    assert (status, body) == (
        200,
        {"status": "OK", "directory": directory, "person": "obama", "erased": {"faces": 2, "images": 2}},
    )
    assert await people(client, directory) == {"biden": 1}
    for portrait in portraits:
        assert (await client.get(portrait["url"]))[0] == 404
        assert (await client.get(f"/faces/{portrait['persons'][0]['face_id']}.jpg"))[0] == 404
        status, body = await result(client, portrait["image_id"])
        assert (status, body["code"]) == (409, "erased")
        assert "obama" not in json.dumps({**body, "filename": None})
    assert (await client.get(f"/directories/{directory}/persons/obama/faces"))[0] == 404
    status, left = await result(client, photo["image_id"])  # the photo's answer stays, without the name
    assert (status, left["persons"][0]["id"], left["persons"][0]["reason"]) == (200, None, "erased")
    assert [it["id"] for it in left["persons"][0]["candidates"]] == ["biden"]
    assert left["persons"][0]["similarity"] == left["persons"][0]["candidates"][0]["similarity"]
    assert (await client.get(left["url"]))[0] == 200
    _, again, _ = await client.post("/recognize", small_photos / "obama3.jpg", directory=directory, strangers="1")
    assert {it["id"] for it in again["persons"][0]["candidates"]} == {"biden"}
    assert (await client.get(other["url"]))[0] == 200
    done = await asyncio.to_thread(facestream, serving.data, "erase", "verify")
    assert done.returncode == 0, done.stdout
    status, body = await delete(client, f"/directories/{directory}/persons/obama")  # nobody is left to be erased
    assert (status, body["erased"]) == (200, {"faces": 0, "images": 0})


async def test_erasing_a_face_keeps_the_other_faces_of_the_person(
    client: Client, small_photos: Path, directory: str
) -> None:
    gone, stays = [
        await learned(client, small_photos / name, "obama", directory) for name in ("obama.jpg", "obama2.jpg")
    ]
    status, body = await delete(client, f"/faces/{gone['persons'][0]['face_id']}")
    assert (status, body["person"], body["erased"]) == (200, None, {"faces": 1, "images": 1})
    assert await people(client, directory) == {"obama": 1}
    assert ((await client.get(gone["url"]))[0], (await client.get(stays["url"]))[0]) == (404, 200)
    _, photo, _ = await client.post("/recognize", small_photos / "obama3.jpg", directory=directory)
    assert (photo["persons"][0]["id"], photo["persons"][0]["candidates"][0]["face_id"]) == (
        "obama",
        stays["persons"][0]["face_id"],
    )
    assert (await delete(client, f"/faces/{gone['persons'][0]['face_id']}"))[0] == 404


async def test_erasing_an_image_deletes_its_face(client: Client, small_photos: Path, directory: str) -> None:
    gone = await learned(client, small_photos / "obama.jpg", "obama", directory)
    status, body = await delete(client, f"/images/{gone['image_id']}")
    assert (status, body["erased"]) == (200, {"faces": 1, "images": 1})
    assert await people(client, directory) == {}
    assert (await client.get(f"/faces/{gone['persons'][0]['face_id']}.jpg"))[0] == 404
    assert (await delete(client, f"/images/{gone['image_id']}"))[0] == 404


@pytest.mark.parametrize("directory_named", [True, False])
async def test_erasing_a_probe_deletes_its_picture_and_its_answer(
    client: Client, small_photos: Path, directory: str, directory_named: bool
) -> None:
    fields = {"directory": directory} if directory_named else {}
    _, photo, _ = await client.post(
        "/recognize" if directory_named else "/detect", small_photos / "obama.jpg", **fields
    )
    status, body = await delete(client, f"/images/{photo['image_id']}")
    assert (status, body["erased"]) == (200, {"faces": 0, "images": 1})
    assert (await client.get(photo["url"]))[0] == 404
    if directory_named:
        assert (await result(client, photo["image_id"]))[0] == 409


async def test_erasing_a_directory_deletes_all_its_people_and_pictures(
    client: Client, small_photos: Path, directory: str
) -> None:
    one = await learned(client, small_photos / "obama.jpg", "obama", directory)
    elsewhere = await learned(client, small_photos / "obama.jpg", "obama", f"{directory}-other")
    await learned(client, small_photos / "biden.jpg", "biden", directory)
    _, photo, _ = await client.post("/recognize", small_photos / "obama3.jpg", directory=directory)
    status, body = await delete(client, f"/directories/{directory}")
    assert (status, body["person"], body["erased"]) == (200, None, {"faces": 2, "images": 2})
    assert await people(client, directory) == {}
    assert directory not in (await client.get("/directories"))[1]["directories"]
    for url in (one["url"], photo["url"]):
        assert (await client.get(url))[0] == 404
    for image_id in (one["image_id"], photo["image_id"]):
        assert (await result(client, image_id))[0] == 409
    assert (await client.get(elsewhere["url"]))[0] == 200
    assert await people(client, f"{directory}-other") == {"obama": 1}


@pytest.mark.parametrize("path", ["/faces/{}", "/images/{}"])
@pytest.mark.parametrize("identifier", [str(uuid.UUID(int=1, version=4)), "x", "..%2f..", "%00"])
async def test_erasing_something_unknown_is_a_404(client: Client, path: str, identifier: str) -> None:
    status, body = await delete(client, path.format(identifier))
    assert (status, body["code"]) == (404, "not_found")


async def test_an_erase_request_that_does_not_wait_is_answered_202(
    client: Client, small_photos: Path, directory: str
) -> None:
    await learned(client, small_photos / "obama.jpg", "obama", directory)
    status, body = await delete(client, f"/directories/{directory}/persons/obama", headers=ASYNC)
    assert (status, body["status"]) == (202, "working")
    assert (await delete(client, f"/directories/{directory}/persons/obama"))[0] == 200
    assert await people(client, directory) == {}


async def test_an_erased_person_can_be_learned_again_with_the_same_idempotency_key(
    client: Client, small_photos: Path, directory: str
) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = await learned(client, small_photos / "obama.jpg", "obama", directory, **key)
    assert (await client.post("/learn", small_photos / "obama.jpg", person="obama", directory=directory, headers=key))[
        1
    ] == first
    assert (await delete(client, f"/directories/{directory}/persons/obama"))[0] == 200
    again = await learned(client, small_photos / "obama.jpg", "obama", directory, **key)
    assert again["image_id"] != first["image_id"]
    _, photo, _ = await client.post("/recognize", small_photos / "obama2.jpg", directory=directory)
    assert photo["persons"][0]["id"] == "obama"
    assert await result(client, again["image_id"]) == (201, again)
    assert (await result(client, first["image_id"]))[0] == 409
    assert ((await client.get(again["url"]))[0], (await client.get(first["url"]))[0]) == (200, 404)
    assert (await client.post("/learn", small_photos / "obama.jpg", person="obama", directory=directory, headers=key))[
        1
    ] == again
    assert (await delete(client, f"/images/{again['image_id']}"))[0] == 200
    third = await learned(client, small_photos / "obama.jpg", "obama", directory, **key)
    assert third["image_id"] not in (first["image_id"], again["image_id"])


async def test_images_in_flight_are_erased_too(client: Client, small_photos: Path, directory: str) -> None:
    portrait = (small_photos / "obama.jpg").read_bytes()
    waiting = []
    for number in range(8):
        _, body, _ = await client.post(
            "/learn", portrait + bytes([number]), person="obama", directory=directory, headers=ASYNC
        )
        waiting.append(body["image_id"])
    assert (await delete(client, f"/directories/{directory}/persons/obama"))[0] == 200
    await erased_in_flight(client, waiting)
    for image_id in waiting:
        assert (await client.get(f"/files/{image_id}.jpg"))[0] == 404
        assert (await client.get(f"/faces/{learned_face_id(image_id)}.jpg"))[0] == 404
    assert await people(client, directory) == {}


async def test_no_answer_names_a_person_after_the_erase_request_was_answered(
    client: Client, serving: Serving, small_photos: Path
) -> None:
    """All four kinds of erasure at the same time. In test_roles.py each person is learned again afterwards."""
    served, pictures = SingleService(serving), pictures_of(small_photos)
    rounds = [Round(served, client.session, pictures, kind, False, random.Random(kind)) for kind in KINDS]
    await asyncio.gather(*(one.run(asyncio.Event()) for one in rounds))
    assert [line for one in rounds for line in one.wrong] == []
    assert [one.learned_again for one in rounds] == [None] * len(KINDS)


async def test_a_key_can_erase_only_what_its_scope_and_directory_allow(
    tmp_path: Path, weights_folder: Path, small_photos: Path
) -> None:
    data = tmp_path / "data"

    def key(*arguments: str) -> dict[str, str]:
        made = facestream(data, "keys", "create", *arguments)
        assert made.returncode == 0, made.stderr
        return {"x-api-key": made.stdout.strip()}

    admin = key("--scope", "admin")
    learner, recognizer = (
        key("--scope", "learn", "--directory", "acme"),
        key("--scope", "recognize", "--directory", "acme"),
    )
    stranger, owner = key("--scope", "learn", "--directory", "other"), key("--scope", "admin", "--directory", "acme")
    with Serving(data, weights_folder) as serving:
        async with aiohttp.ClientSession() as session:
            client = Client(session, serving.url)

            async def portrait() -> dict[str, Any]:
                return await learned(client, small_photos / "obama.jpg", "obama", "acme", **learner)

            body = await portrait()
            paths = {
                "person": "/directories/acme/persons/obama",
                "face": f"/faces/{body['persons'][0]['face_id']}",
                "image": f"/images/{body['image_id']}",
                "directory": "/directories/acme",
            }
            for what, path in paths.items():
                assert (await delete(client, path))[0] == 401
                assert (await delete(client, path, recognizer))[0] == 403
                assert (await delete(client, path, stranger))[0] == (404 if what in ("face", "image") else 403)
            assert (await delete(client, paths["directory"], learner))[0] == 403
            assert (await client.get(paths["person"] + "/faces", admin))[0] == 200  # still there
            assert (await delete(client, paths["person"], learner))[0] == 200
            for path in ("/faces/{face}", "/images/{image}"):
                made = await portrait()
                there = path.format(face=made["persons"][0]["face_id"], image=made["image_id"])
                assert (await delete(client, there, learner))[0] == 200
            await portrait()
            assert (await delete(client, paths["directory"], owner))[0] == 200
            assert (await client.get("/directories", admin))[1] == {"directories": []}


async def test_a_killed_service_finishes_the_erasure_after_its_restart(
    tmp_path: Path, weights_folder: Path, small_photos: Path, directory: str
) -> None:
    serving = Serving(tmp_path / "data", weights_folder)
    portrait = (small_photos / "obama.jpg").read_bytes()
    with serving:
        async with aiohttp.ClientSession() as session:
            client = Client(session, serving.url)
            await learned(client, small_photos / "obama.jpg", "obama", directory)
            waiting = []
            for number in range(4):
                _, body, _ = await client.post(
                    "/learn", portrait + bytes([number]), person="obama", directory=directory, headers=ASYNC
                )
                waiting.append(body["image_id"])
            status, _ = await delete(client, f"/directories/{directory}/persons/obama", headers=ASYNC)
            assert status == 202
            serving.kill()
            await asyncio.to_thread(serving.start)
            await erased_in_flight(client, waiting)
            async with asyncio.timeout(PATIENCE_S):
                while await people(client, directory):  # noqa: ASYNC110 - it asks another process
                    await asyncio.sleep(0.05)
            assert (await asyncio.to_thread(facestream, serving.data, "erase", "verify")).returncode == 0
