"""The stage that keeps answers, on real stores."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.files.objects import FileObjects
from backends.log import Record
from backends.sqlite.vectors import SqliteVectors
from facestream.runtime.system_state import SystemState
from schemas.answers import Body, ErasedBody, ErasedCounts, Models, problem
from schemas.erasures import person_erasure_key
from schemas.errors import (
    FacestreamError,
    InvalidEvent,
    NoFace,
    ObjectMissing,
    ProcessingFailed,
    Unavailable,
    UnreadableRecord,
)
from schemas.ids import crop_key, learned_face_id, sheet_key
from schemas.options import Options
from schemas.records import Answer, EraseRequested
from sink.answers import AnswerStage
from stream.answers import (
    ANSWER_KEPT_S,
    answer_record,
    detected_body,
    error_answer_record,
    invalid_event_answer_record,
    learned_body,
)
from stream.erase.guarded_store import GuardedStore
from stream.topics import RESULTS
from tests.answers import candidate, detected, learned, recognized, recognized_person
from tests.records import erasure, face_id, image_id, image_received


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SqliteVectors]:
    store = SqliteVectors(tmp_path / "vectors.db")
    yield store
    await store.close()


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FileObjects]:
    store = FileObjects(tmp_path / "objects")
    yield store
    await store.close()


def record(value: bytes | None, *, age_s: float = 0) -> Record:
    return Record(RESULTS, 0, 0, int((time.time() - age_s) * 1000), "key", value)


def good(name: str, purpose: Any = "recognize", *, body: Body | None = None, age_s: float = 0) -> Record:
    bodies: dict[str, Body] = {"learn": learned(), "recognize": recognized(), "detect": detected()}
    return record(
        answer_record(image_received(name, purpose), 201 if purpose == "learn" else 200, body or bodies[purpose]).value,
        age_s=age_s,
    )


def missing(name: str) -> Record:
    return record(error_answer_record(image_received(name), ObjectMissing("there is no object")).value)


def invalid(name: str, why: str) -> Record:
    error = InvalidEvent(why, {"image_id": image_id(name), "purpose": "learn", "directory": "acme"})
    return record(invalid_event_answer_record(error).value)


async def stored(vectors: SqliteVectors, name: str) -> Answer | None:
    found = await vectors.answer(image_id(name))
    return None if found is None else Answer.decode(found.value.encode())


async def test_an_answer_is_kept_for_a_day_from_its_append_time(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    body = recognized(recognized_person("Å\U0001f499"))
    given = good("photo", body=body, age_s=100)
    assert await stage.handle([given]) == []
    found = await vectors.answer(image_id("photo"))
    assert found is not None
    assert Answer.decode(found.value.encode()).body == body
    assert found.expires_at == pytest.approx(given.timestamp / 1000 + 86_400)


async def test_an_answer_whose_append_time_is_ahead_is_kept_for_a_day_from_now(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    """The clock of the log was ahead when the answer was appended, and was set right since."""
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    begun = time.time()
    await stage.handle([good("photo", age_s=-30 * ANSWER_KEPT_S)])
    found = await vectors.answer(image_id("photo"))
    assert found is not None
    assert begun + ANSWER_KEPT_S <= found.expires_at <= time.time() + ANSWER_KEPT_S


async def test_a_later_answer_takes_the_place_of_an_earlier_one(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    first, second, third, fourth = (recognized(filename=f"{n}.jpg") for n in range(4))
    await stage.handle([good("photo", body=first), good("photo", body=second), good("other", body=third)])
    await stage.handle([good("other", body=fourth)])
    bodies = [it.body for name in ("photo", "other") if (it := await stored(vectors, name)) is not None]
    assert bodies == [second, fourth]


async def test_an_expired_answer_is_not_stored_again(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    """After a long stop the stage reads old records, whose answers have expired."""
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    await stage.handle([good("old", age_s=ANSWER_KEPT_S + 1), good("fresh", age_s=ANSWER_KEPT_S - 60)])
    assert await stored(vectors, "old") is None
    assert await stored(vectors, "fresh") is not None


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_object_missing_never_replaces_an_answer(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState, together: bool
) -> None:
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=False)
    records = [good("photo"), missing("photo")]
    for batch in [records] if together else [[it] for it in records]:
        await stage.handle(batch)
    found = await stored(vectors, "photo")
    assert found is not None
    assert found.status == 200


async def test_object_missing_is_stored_if_there_is_no_other_answer(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    await stage.handle([missing("photo")])
    found = await stored(vectors, "photo")
    assert found is not None
    assert (found.status, found.body.members()["code"]) == (422, "object_missing")
    await stage.handle([good("photo")])
    found = await stored(vectors, "photo")
    assert found is not None
    assert found.status == 200


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_an_invalid_event_never_replaces_the_answer_to_another_event_of_its_image(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState, together: bool
) -> None:
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=False)
    records = [good("portrait", "learn"), invalid("portrait", "first")]
    for batch in [records] if together else [[it] for it in records]:
        await stage.handle(batch)
    found = await stored(vectors, "portrait")
    assert found is not None
    assert found.status == 201


async def test_an_invalid_event_does_not_delete_the_picture_of_another_event_of_its_image(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    """That event is not answered yet."""
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=False)
    portrait = image_received("portrait", "learn").object_key
    await objects.put(portrait, b"picture")
    await stage.handle([invalid("portrait", "why")])
    assert (await objects.get(portrait)).data == b"picture"


async def test_the_answer_to_an_invalid_event_is_kept_until_the_next_one(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    for record_, expected in (
        (invalid("photo", "first"), (400, "first")),
        (invalid("photo", "second"), (400, "second")),
        (missing("photo"), (422, "there is no object")),
        (invalid("photo", "third"), (422, "there is no object")),
    ):
        await stage.handle([record_])
        found = await stored(vectors, "photo")
        assert found is not None
        assert (found.status, found.body.members()["detail"]) == expected


@pytest.mark.parametrize("keep", [True, False])
async def test_pictures_of_probes_are_deleted_with_the_answer_if_probes_are_not_kept(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState, keep: bool
) -> None:
    photo, waiting = image_received("photo").object_key, image_received("waiting").object_key
    detected, portrait = image_received("detected", "detect").object_key, image_received("portrait", "learn").object_key
    for key in (photo, detected, portrait, waiting):
        await objects.put(key, b"picture")
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=keep)
    await stage.handle([good("photo"), good("detected", "detect"), good("portrait", "learn")])
    left = {it.key async for it in objects.list()}
    assert left == {portrait, waiting} | ({photo, detected} if keep else set())


async def test_only_the_picture_of_a_probe_with_store_false_is_deleted(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    private, other = image_received("private", options=Options(store=False)), image_received("other")
    for it in (private, other):
        for key in (it.object_key, sheet_key(it.image_id)):
            await objects.put(key, b"picture")
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    await stage.handle([record(answer_record(it, 200, recognized()).value) for it in (private, other)])
    assert {it.key async for it in objects.list()} == {other.object_key, sheet_key(other.image_id)}


@pytest.mark.parametrize(
    ("error", "kept"), [(NoFace("x"), False), (ProcessingFailed("x"), True), (Unavailable("x"), True)]
)
async def test_a_refused_portrait_is_deleted_and_a_retriable_one_is_kept(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState, error: FacestreamError, kept: bool
) -> None:
    portrait = image_received("portrait", "learn")
    await objects.put(portrait.object_key, b"picture")
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    await stage.handle([record(error_answer_record(portrait, error).value)])
    assert {it.key async for it in objects.list()} == ({portrait.object_key} if kept else set())


async def test_the_second_copy_of_a_portrait_is_deleted_once_its_answer_is_stored(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    first, second = image_received("first", "learn"), image_received("second", "learn")
    kept = {first.object_key, crop_key(learned_face_id(first.image_id))}
    for key in (*kept, second.object_key, crop_key(learned_face_id(second.image_id))):
        await objects.put(key, b"picture")
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    of_first = learned("obama", image_id=first.image_id)
    answers_ = [answer_record(first, 201, of_first), answer_record(second, 200, of_first)]
    await stage.handle([record(it.value) for it in answers_])
    assert {it.key async for it in objects.list()} == kept
    assert await stored(vectors, "second") is not None


async def test_the_answer_to_an_erase_command_is_not_stored(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    command = EraseRequested(image_id=image_id("command"), directory="acme", person="obama")
    body = ErasedBody(status="OK", directory="acme", person="obama", erased=ErasedCounts(faces=1, images=1))
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    await stage.handle([record(answer_record(command, 200, body).value)])
    assert await stored(vectors, "command") is None


async def test_an_answer_that_names_an_erased_person_is_stored_without_the_name(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    body = recognized(recognized_person("obama", candidate("obama", face_id=face_id("face"))))
    state.erasures.add(person_erasure_key("acme", "obama"), erasure(offset=10))
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    before, after = (
        answer_record(image_received(name), 200, body, offset) for name, offset in (("before", 9), ("after", 11))
    )
    await stage.handle([record(it.value) for it in (before, after)])
    kept = {name: await vectors.answer(image_id(name)) for name in ("before", "after")}
    assert {name: "obama" in (it.value if it else "") for name, it in kept.items()} == {"before": False, "after": True}


async def test_a_picture_stays_while_its_answer_cannot_be_stored(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    key = image_received("photo").object_key
    await objects.put(key, b"picture")
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=False)
    await vectors.close()
    with pytest.raises(Unavailable):
        await stage.handle([good("photo")])
    assert (await objects.get(key)).data == b"picture"
    with pytest.raises(Unavailable):
        await stage.check_stores()


async def test_what_is_no_answer_is_unreadable(
    vectors: SqliteVectors, objects: FileObjects, state: SystemState
) -> None:
    stage = AnswerStage(vectors, objects, GuardedStore(objects, vectors, state.erasures), keep_probes=True)
    for value in (None, b"", b"{}", b"\xff"):
        with pytest.raises(UnreadableRecord):
            await stage.handle([record(value)])
    with pytest.raises(UnreadableRecord):
        stage.event_of(good("photo"))


# The records themselves.


def test_an_answer_carries_what_a_repeated_request_needs() -> None:
    image = image_received("photo", request_digest="d" * 64, reply_to="ingest-7")
    made = answer_record(image, 200, recognized(), 44)
    assert (made.topic, made.key, made.partition_key) == (RESULTS, image.image_id, "ingest-7")
    value = Answer.decode(made.value)
    assert (value.request_digest, value.purpose, value.directory, value.offset) == ("d" * 64, "recognize", "acme", 44)


def test_an_error_is_answered_with_its_own_members_and_the_image() -> None:
    error = ObjectMissing("there is no object", faces=[{"box": [1, 2, 3, 4], "score": 0.5}])
    value = Answer.decode(error_answer_record(image_received("photo"), error).value)
    assert value.status == 422
    assert value.body == problem(error, image_id=image_id("photo"))
    assert value.body.members()["faces"] == [{"box": [1, 2, 3, 4], "score": 0.5}]
    assert value.body.members()["title"] == "object missing"


def test_a_body_says_where_the_picture_is_and_which_models_took_part() -> None:
    image = image_received("photo", media_type="image/png", filename="photo.png")
    body = detected_body(image, [], "centerface")
    assert body.members() == {
        "status": "OK",
        "image_id": image.image_id,
        "url": f"/files/{image.image_id}.png",
        "filename": "photo.png",
        "directory": "acme",
        "persons": [],
        "models": {"detector": "centerface"},
    }
    kept = image_id("kept")
    other = learned_body(image, learned().persons[0], [], Models(detector="centerface"), kept)
    assert (other.image_id, other.url, other.ignored) == (kept, f"/files/{kept}.png", [])
