"""The HTTP service as its users see it, with real models and real photos."""

import asyncio
import io
import unicodedata
import uuid
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from bench.serving import Serving
from tests.e2e.conftest import Client, jpeg, side_by_side


def plain_picture(width: int = 400, height: int = 300) -> bytes:
    picture = Image.new("RGB", (width, height), (90, 140, 200))
    ImageDraw.Draw(picture).rectangle((50, 60, 180, 200), fill=(200, 60, 30))
    return jpeg(picture)


async def learn(client: Client, photo: Path | bytes, person: str, directory: str, **fields: str) -> str:
    status, body, _ = await client.post("/learn", photo, person=person, directory=directory, **fields)
    assert status == 201, body
    face_id: str = body["persons"][0]["face_id"]
    return face_id


async def test_learn_then_recognize_names_the_person_and_nobody_else(client: Client, photos: Path) -> None:
    status, body, _ = await client.post(
        "/learn", photos / "obama.jpg", filename="me.jpg", person="obama", directory="first"
    )
    assert status == 201
    assert body["status"] == "OK"
    assert body["filename"] == "me.jpg"
    assert body["directory"] == "first"
    assert body["url"] == f"/files/{body['image_id']}.jpg"
    assert body["ignored"] == []
    assert body["models"] == {
        "detector": "centerface",
        "embedder": "dlib-resnet29",
        "generation": "dlib-resnet29-mirror",
    }
    (learned,) = body["persons"]
    assert learned["id"] == "obama"
    assert learned["score"] > 0.99
    assert all(isinstance(side, int) for side in learned["box"])

    status, body, _ = await client.post("/recognize", photos / "obama2.jpg", directory="first")
    assert status == 200
    (seen,) = body["persons"]
    assert seen["id"] == "obama"
    assert seen["similarity"] >= seen["threshold"]
    assert seen["probability"] > 0.9
    assert seen["candidates"][0]["face_id"] == learned["face_id"]

    status, body, _ = await client.post("/recognize", photos / "biden.jpg", directory="first")
    (stranger,) = body["persons"]
    assert stranger["id"] is None
    assert stranger["reason"] == "below-threshold"
    assert [candidate["id"] for candidate in stranger["candidates"]] == ["obama"]

    _, body, _ = await client.post("/recognize", photos / "biden.jpg", directory="first", strangers="1")
    assert body["persons"][0]["id"] == "obama"  # as the replaced system did: the nearest always


async def test_an_empty_directory_knows_nobody(client: Client, photos: Path) -> None:
    status, body, _ = await client.post("/recognize", photos / "biden.jpg", directory="nobody-here")
    assert status == 200
    assert [(person["id"], person["reason"], person["candidates"]) for person in body["persons"]] == [
        (None, "empty-directory", [])
    ]


async def test_fields_may_come_after_the_file_or_in_the_query(client: Client, photos: Path) -> None:
    boundary = "frontier"
    parts = [
        b'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + (photos / "obama.jpg").read_bytes(),
        b'Content-Disposition: form-data; name="person"\r\n\r\nobama',
    ]
    body = b"".join(b"--frontier\r\n" + part + b"\r\n" for part in parts) + b"--frontier--\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    async with client.session.post(f"{client.url}/learn?directory=after", data=body, headers=headers) as response:
        assert response.status == 201
        assert (await response.json())["persons"][0]["id"] == "obama"


async def test_the_same_picture_of_the_same_person_is_learned_once(client: Client, photos: Path) -> None:
    face_id = await learn(client, photos / "obama.jpg", "obama", "once")
    status, body, _ = await client.post("/learn", photos / "obama.jpg", person="obama", directory="once")
    assert status == 200
    assert body["persons"][0]["face_id"] == face_id
    _, body, _ = await client.get("/directories/once/persons/obama/faces")
    assert [face["face_id"] for face in body["faces"]] == [face_id]
    assert await learn(client, photos / "obama.jpg", "somebody else", "once") != face_id


async def test_learn_wants_exactly_one_face(client: Client, photos: Path, two_people: bytes) -> None:
    status, body, headers = await client.post("/learn", two_people, person="who", directory="two")
    assert (status, body["code"]) == (422, "not_one_face")
    assert headers["Content-Type"].startswith("application/problem+json")
    assert len(body["faces"]) == 2
    left = min(body["faces"], key=lambda face: face["box"][0])["box"]

    face_id = await learn(
        client, two_people, "obama", "two", face=f"{(left[0] + left[2]) / 2},{(left[1] + left[3]) / 2}"
    )
    _, body, _ = await client.post("/recognize", photos / "obama2.jpg", directory="two")
    assert body["persons"][0]["candidates"][0]["face_id"] == face_id
    assert body["persons"][0]["id"] == "obama"

    status, body, _ = await client.post("/learn", two_people, person="who", directory="two", face="2,2")
    assert (status, body["code"]) == (422, "not_one_face")

    status, body, _ = await client.post("/learn", two_people, person="largest", directory="two", face="largest")
    assert status == 201
    assert len(body["ignored"]) == 1

    status, body, _ = await client.post("/learn", plain_picture(), person="who", directory="two")
    assert (status, body["code"]) == (422, "no_face")


async def test_small_faces_beside_a_portrait_are_ignored(client: Client, photos: Path) -> None:
    with Image.open(photos / "obama.jpg") as portrait, Image.open(photos / "biden.jpg") as other:
        canvas = Image.new("RGB", (portrait.width + 200, portrait.height))
        canvas.paste(portrait, (0, 0))
        canvas.paste(other.resize((140, 140 * other.height // other.width)), (portrait.width + 20, 20))
    status, body, _ = await client.post("/learn", jpeg(canvas), person="obama", directory="ignored")
    assert status == 201, body
    assert [it["box"][0] > portrait.width for it in body["ignored"]] == [True]


async def test_a_face_too_small_to_learn_needs_force(client: Client, photos: Path) -> None:
    with Image.open(photos / "obama.jpg") as picture:
        small = jpeg(picture.resize((picture.width // 9, picture.height // 9)))
    status, body, _ = await client.post("/learn", small, person="tiny", directory="tiny")
    assert (status, body["code"]) == (422, "face_too_small")
    assert await learn(client, small, "tiny", "tiny", force="true")


async def test_a_photo_without_a_face_is_an_empty_list(client: Client) -> None:
    status, body, _ = await client.post("/recognize", plain_picture(), directory="empty")
    assert (status, body["persons"]) == (200, [])


async def test_the_second_face_of_a_person_in_a_photo_has_also_matched(client: Client, photos: Path) -> None:
    await learn(client, photos / "obama.jpg", "obama", "twice")
    double = side_by_side([photos / "obama.jpg", photos / "obama2.jpg"])
    _, body, _ = await client.post("/recognize", double, directory="twice")
    first, second = sorted(body["persons"], key=lambda person: -person["similarity"])
    assert (first["id"], second["id"]) == ("obama", "obama")
    assert "also_matched" not in first
    assert second["also_matched"] == first["face_id"]
    assert [person["score"] for person in body["persons"]] == sorted(
        (it["score"] for it in body["persons"]), reverse=True
    )


async def test_options_of_recognize_are_applied_and_wrong_ones_refused(
    client: Client, photos: Path, two_people: bytes
) -> None:
    for name in ("obama", "biden"):
        await learn(client, photos / f"{name}.jpg", name, "options")
    _, body, _ = await client.post("/recognize", two_people, directory="options", top="1", limit="1")
    assert [len(person["candidates"]) for person in body["persons"]] == [1]
    _, body, _ = await client.post("/recognize", two_people, directory="options", min_face="10000")
    assert body["persons"] == []
    _, body, _ = await client.post("/recognize", two_people, directory="options", min_score="0.2", detail="high")
    assert {person["id"] for person in body["persons"]} == {"obama", "biden"}
    for wrong in (
        {"top": "11"},
        {"top": "x"},
        {"limit": "0"},
        {"strangers": "0"},
        {"min_score": "2"},
        {"detail": "low"},
        {"tops": "3"},
    ):
        status, body, _ = await client.post("/recognize", two_people, directory="options", **wrong)
        assert (status, body["code"], body["field"]) == (400, "invalid_request", next(iter(wrong)))


async def test_detect_says_where_faces_are(client: Client, two_people: bytes) -> None:
    status, body, _ = await client.post("/detect", two_people)
    assert status == 200
    assert len(body["persons"]) == 2
    for person in body["persons"]:
        x1, y1, x2, y2 = person["box"]
        assert all(x1 < x < x2 and y1 < y < y2 for x, y in person["landmarks"])
        assert set(person) == {"box", "landmarks", "score", "detection_score", "face_id"}


async def test_boxes_are_in_pixels_of_the_upright_original(client: Client, photos: Path) -> None:
    _, straight, _ = await client.post("/detect", photos / "biden.jpg")
    with Image.open(photos / "biden.jpg") as picture:
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn it by 90 degrees clockwise to see it upright
        file = io.BytesIO()
        turned.save(file, "JPEG", quality=95, exif=exif)
    _, upright, _ = await client.post("/detect", file.getvalue())
    pairs = zip(straight["persons"][0]["box"], upright["persons"][0]["box"], strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 4


async def test_answers_can_be_asked_for_later(client: Client, photos: Path) -> None:
    headers = {"Prefer": "respond-async"}
    status, body, headers_back = await client.post(
        "/recognize", photos / "biden.jpg", directory="later", headers=headers
    )
    assert status == 202
    location = headers_back["Location"]
    assert location == f"/results/{body['image_id']}"
    async with asyncio.timeout(90):
        while True:
            status, body, _ = await client.get(location)
            if status != 202:
                break
            await asyncio.sleep(0.05)
    assert status == 200
    assert body["persons"][0]["reason"] == "empty-directory"
    status, body, _ = await client.get(f"/results/{uuid.uuid4()}")
    assert (status, body["code"]) == (404, "not_found")
    status, _, _ = await client.get("/results/../etc")
    assert status == 404
    status, _, _ = await client.post(
        "/recognize", photos / "biden.jpg", directory="later", headers={"Prefer": "wait=0"}
    )
    assert status == 202
    status, body, _ = await client.post(
        "/recognize", photos / "biden.jpg", directory="later", headers={"Prefer": "wait=x"}
    )
    assert status == 400


async def test_an_idempotency_key_has_one_effect(client: Client, photos: Path) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    answers = await asyncio.gather(
        *(client.post("/learn", photos / "obama.jpg", person="o", directory="idem", headers=headers) for _ in range(4))
    )
    assert {status for status, _, _ in answers} == {201}
    assert len({body["persons"][0]["face_id"] for _, body, _ in answers}) == 1
    _, listing, _ = await client.get("/directories/idem/persons")
    assert listing["persons"] == [{"id": "o", "faces": 1}]
    for other in ({"person": "p"}, {"person": "o", "face": "largest"}):
        status, body, _ = await client.post("/learn", photos / "obama.jpg", directory="idem", headers=headers, **other)
        assert (status, body["code"]) == (422, "idempotency_key_reused")
    status, body, _ = await client.post("/learn", photos / "obama2.jpg", person="o", directory="idem", headers=headers)
    assert (status, body["code"]) == (422, "idempotency_key_reused")


async def test_stored_pictures_are_served_only_as_images(client: Client, photos: Path) -> None:
    face_id = await learn(client, photos / "obama.jpg", "obama", "files")
    _, body, _ = await client.post("/recognize", photos / "obama2.jpg", directory="files")
    status, data, headers = await client.get(body["url"])
    assert (status, data) == (200, (photos / "obama2.jpg").read_bytes())
    assert headers["Content-Type"] == "image/jpeg"
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, crop, _ = await client.get(f"/faces/{face_id}.jpg")
    assert status == 200
    with Image.open(io.BytesIO(crop)) as picture:
        assert picture.size == (240, 240)
    for path in (f"/files/{uuid.uuid4()}.jpg", "/files/..%2f..%2flog.db.jpg", f"/faces/{uuid.uuid4()}.jpg"):
        assert (await client.get(path))[0] == 404


async def test_listing_pages_through_people(client: Client, photos: Path) -> None:
    names = ["Ada", "Zoë", "ßigma", "日本", "a b/c"]
    for name in names:
        await learn(client, photos / "obama.jpg", name, "list ing")
    await learn(client, photos / "obama2.jpg", "Ada", "list ing")
    assert "list ing" in (await client.get("/directories"))[1]["directories"]
    seen: dict[str, int] = {}
    after = ""
    while True:
        status, page, _ = await client.get(f"/directories/list%20ing/persons?limit=2&after={after}")
        assert status == 200
        assert len(page["persons"]) <= 2
        seen |= {person["id"]: person["faces"] for person in page["persons"]}
        if "next" not in page:
            break
        after = page["next"]
    assert seen == {name: 2 if name == "Ada" else 1 for name in names}
    status, body, _ = await client.get("/directories/list%20ing/persons/a%20b%2Fc/faces")
    assert (status, body["person"]) == (200, "a b/c")
    assert (await client.get("/directories/list%20ing/persons/nobody/faces"))[0] == 404
    assert (await client.get("/directories/list%20ing/persons?limit=0"))[0] == 400


async def test_names_are_unicode_in_nfc(client: Client, photos: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Zoë")
    await learn(client, photos / "obama.jpg", decomposed, "names")
    assert (await client.get("/directories/names/persons"))[1]["persons"] == [{"id": "Zoë", "faces": 1}]
    for name in ("x" * 201, "a\nb", "\0", "  "):
        status, body, _ = await client.post("/learn", photos / "obama.jpg", person=name, directory="names")
        assert (status, body["code"]) == (400, "invalid_request")
    assert await learn(client, photos / "obama.jpg", "x" * 200, "names")


@pytest.mark.parametrize(
    ("path", "fields", "picture", "expected"),
    [
        ("/learn", {"directory": "bad"}, plain_picture(), (400, "missing_field")),
        ("/recognize", {}, plain_picture(), (400, "missing_field")),
        ("/recognize", {"directory": "bad"}, b"", (415, "not_an_image")),
        ("/recognize", {"directory": "bad"}, b"this is no picture at all", (415, "not_an_image")),
        ("/recognize", {"directory": "bad"}, b"%!PS-Adobe-3.0 EPSF-3.0", (415, "not_an_image")),
        ("/recognize", {"directory": "bad"}, plain_picture()[:2000], (422, "unreadable_image")),
        ("/recognize", {"directory": "bad"}, b"\xff\xd8\xff" + bytes(500), (422, "unreadable_image")),
    ],
)
async def test_bad_requests_are_told_why(
    client: Client, path: str, fields: dict[str, str], picture: bytes, expected: tuple[int, str]
) -> None:
    status, body, headers = await client.post(path, picture, **fields)
    assert (status, body["code"]) == expected
    assert headers["Content-Type"].startswith("application/problem+json")
    assert body["detail"]
    assert body["status"] == status


async def test_a_bomb_is_refused_by_its_header(client: Client) -> None:
    file = io.BytesIO()
    Image.new("1", (40_000, 20_000)).save(file, "PNG")
    status, body, _ = await client.post("/recognize", file.getvalue(), directory="bad")
    assert (status, body["code"]) == (413, "too_many_pixels")


async def test_too_large_is_refused(client: Client) -> None:
    status, body, _ = await client.post("/recognize", bytes(33 * 1024 * 1024), directory="bad")
    assert (status, body["code"]) == (413, "upload_too_large")

    async def in_chunks() -> object:  # no Content-Length
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(33):
            yield bytes(1024 * 1024)
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with client.session.post(
        f"{client.url}/recognize?directory=bad", data=in_chunks(), headers=headers
    ) as response:
        assert response.status == 413


async def test_unknown_routes_and_methods(client: Client) -> None:
    status, body, _ = await client.get("/nowhere")
    assert (status, body["code"]) == (404, "not_found")
    assert "/docs" in body["detail"]
    status, body, headers = await client.get("/learn")
    assert (status, body["code"], headers["Allow"]) == (405, "method_not_allowed", "POST")


async def test_health(client: Client, serving: Serving) -> None:
    assert (await client.get("/healthz"))[0] == 200
    status, body, _ = await client.get("/readyz")
    assert status == 200
    assert set(body["checks"]) == {"log", "objects", "vectors", "processors", "sink", "answers", "bridge", "uploads"}
