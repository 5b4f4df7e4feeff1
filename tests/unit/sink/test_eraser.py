"""Erase commands at the sink, on real stores: what is deleted, what is kept, in which order, and repetition after a
crash at each step.
"""

import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.files.objects import FileObjects
from backends.log import NewRecord, Record
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import Face, StoredAnswer
from facestream.runtime.system_state import SystemState, follow_state
from schemas.errors import ObjectMissing, Unavailable
from schemas.faces import encode_vector
from schemas.ids import learned_face_id, new_image_id, original_key, sheet_key
from schemas.records import Answer, EraseRequested, FacesReembedded, ReembeddedFace
from sink.answers import AnswerStage
from sink.sink import Sink
from stream.erase.guarded_store import GuardedStore
from stream.generations import generation_record
from stream.topics import ERASURES, FACES_LEARNED, RESULTS, TOPICS
from tests.records import appended, dead_letter_of, image_id, image_received
from tests.unit.sink.test_sink import GENERATION, Stream, answers, crop_of, names, original_of, vector
from tests.unit.stream.stages import read_all
from weights.manifest import manifest

CANDIDATE = "dlib-resnet29"
LATER = 5_000  # ms: after all erase commands here


class Steps:
    """Raises Unavailable once, at the call whose number was given to `arm`."""

    def __init__(self) -> None:
        self.left = 0

    def arm(self, call: int) -> None:
        self.left = call

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Unavailable("away")


class SteppedLog(SqliteLog):
    step: Steps

    async def append(self, records: Sequence[NewRecord]) -> Any:
        self.step()
        return await super().append(records)


class SteppedObjects(FileObjects):
    step: Steps

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes half of the objects before it may fail."""
        half = len(keys) // 2
        await super().delete(keys[:half])
        self.step()
        await super().delete(keys[half:])


class SteppedVectors(SqliteVectors):
    step: Steps

    async def delete_faces(
        self, directory: str, generations: Sequence[str], erased_at: int, **only: str | None
    ) -> None:
        self.step()
        await super().delete_faces(directory, generations, erased_at, **only)
        self.step()

    async def put_answers(self, answers: Sequence[StoredAnswer]) -> None:
        self.step()
        await super().put_answers(answers)


class Stores:
    def __init__(self, folder: Path) -> None:
        self.step = Steps()
        self.log, self.objects = SteppedLog(folder / "log.db"), SteppedObjects(folder / "objects")
        self.vectors = SteppedVectors(folder / "vectors.db")
        self.log.step = self.objects.step = self.vectors.step = self.step

    @asynccontextmanager
    async def sink(self) -> AsyncIterator[tuple[Sink, SystemState]]:
        """A sink as in a process that has just started."""
        async with follow_state(self.log) as state:
            store = self.guarded(state)
            yield Sink(self.log, self.objects, self.vectors, store, state.generations, state.erasures, 1 << 30), state

    def guarded(self, state: SystemState) -> GuardedStore:
        return GuardedStore(self.objects, self.vectors, state.erasures)

    async def close(self) -> None:
        for store in (self.log, self.objects, self.vectors):
            await store.close()

    async def keep(self, name: str, person: str, directory: str = "acme") -> None:
        """The pictures of a portrait, as its upload and the processor store them."""
        metadata = {"directory": directory, "person": person, "image_id": image_id(name), "received": "0.5"}
        for key in (original_of(name), crop_of(name)):
            await self.objects.put(key, b"picture", metadata)

    async def keys(self) -> set[str]:
        return {it.key async for it in self.objects.list()}

    async def faces(self, person: str, directory: str = "acme") -> dict[str, list[Face]]:
        return {it: await self.vectors.faces(directory, it, person) for it in (GENERATION, CANDIDATE)}


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path)
    await made.log.create_topics(TOPICS)
    candidate = manifest().generation(CANDIDATE).model_copy(update={"state": "candidate"})
    await made.log.append([generation_record(candidate)])
    yield made
    await made.close()


@pytest.fixture
async def sink(stores: Stores) -> AsyncIterator[Sink]:
    async with stores.sink() as (sink, _):
        yield sink


@pytest.fixture
def stream() -> Stream:
    return Stream()


def erase(stream: Stream, directory: str = "acme", **what: str) -> Record:
    command = EraseRequested(image_id=new_image_id(), directory=directory, reply_to="ingest-1", **what)
    return stream.record(command.encode(), directory)


def learn(
    stream: Stream, name: str, person: str, seed: int, *, directory: str = "acme", received_at: int = 500
) -> Record:
    """The record of a learned face, with a vector of each generation."""
    generations = (GENERATION, CANDIDATE)
    return stream.learn(name, person, seed, directory=directory, received_at=received_at, generations=generations)


def photo(stream: Stream, name: str, *seeds: int) -> Record:
    """The record of a photo that was received after all erase commands."""
    return stream.recognize(name, *seeds, received_at=LATER)


def only(portrait: str) -> dict[str, str]:
    return {"face_id": learned_face_id(image_id(portrait)), "erased_image_id": image_id(portrait)}


def statuses(outputs: Sequence[NewRecord]) -> list[int]:
    return [Answer.decode(it.value).status for it in outputs if it.topic == RESULTS]


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_a_command_erases_images_received_before_it_and_none_received_later(
    stores: Stores, sink: Sink, stream: Stream, together: bool
) -> None:
    for name in ("before", "again", "slow"):
        await stores.keep(name, "obama")
    records = [
        learn(stream, "before", "obama", 1),
        erase(stream, person="obama"),
        learn(stream, "slow", "obama", 2),  # it came before the command, and was slow
        learn(stream, "again", "obama", 3, received_at=LATER),
        photo(stream, "photo", 1, 2, 3),
    ]
    batches = [records] if together else [[it] for it in records]
    outputs = [it for batch in batches for it in await sink.handle(batch)]
    assert statuses(outputs) == [201, 200, 409, 201, 200]
    assert names(outputs, "photo") == [None, None, "obama"]
    assert {it: [face.image_id for face in found] for it, found in (await stores.faces("obama")).items()} == {
        GENERATION: [image_id("again")],
        CANDIDATE: [image_id("again")],
    }
    assert await stores.keys() == {original_of("again"), crop_of("again")}


ERASED: dict[str, tuple[dict[str, str], set[str]]] = {  # what is erased, and the portraits that are left
    "person": ({"person": "obama"}, {"biden"}),
    "face": ({"person": "obama", **only("obama 1")}, {"obama 2", "biden"}),
    "image": ({"person": "obama", **only("obama 2")}, {"obama 1", "biden"}),
    "directory": ({}, set()),
}


@pytest.mark.parametrize("what", ERASED)
async def test_a_command_deletes_all_data_it_covers_and_nothing_else(
    stores: Stores, sink: Sink, stream: Stream, what: str
) -> None:
    command, left = ERASED[what]
    portraits = {"obama 1": "obama", "obama 2": "obama", "biden": "biden"}
    for i, (name, person) in enumerate(portraits.items()):
        for directory in ("acme", "other"):
            await stores.keep(f"{name} of other" if directory == "other" else name, person, directory)
            named = f"{name} of other" if directory == "other" else name
            await sink.handle([learn(stream, named, person, i, directory=directory)])
    others = {f"{name} of other" for name in portraits}
    outputs = await sink.handle([erase(stream, **command)])
    (answer,) = answers(outputs).values()
    assert answer.status == 200
    assert answer.body.members()["erased"] == {"faces": 3 - len(left), "images": 3 - len(left)}
    assert await stores.keys() == {key for name in left | others for key in (original_of(name), crop_of(name))}
    for generation in (GENERATION, CANDIDATE):
        found = [it async for page in stores.vectors.read_faces("acme", generation) for it in page]
        assert {it.image_id for it in found} == {image_id(name) for name in left}
        of_other = [it async for page in stores.vectors.read_faces("other", generation) for it in page]
        assert {it.image_id for it in of_other} == {image_id(name) for name in others}
    gone = {it.key for it in await read_all(stores.log, FACES_LEARNED.name) if it.value is None}
    assert gone == {image_id(name) for name in portraits.keys() - left}
    assert "obama" not in str([it.value for it in await read_all(stores.log, ERASURES)])
    outputs = await sink.handle([photo(stream, "photo", 0, 1, 2)])
    assert names(outputs, "photo") == [portraits[name] if name in left else None for name in portraits]


async def test_stored_answers_lose_the_name_and_that_of_the_portrait_becomes_erased(
    stores: Stores, stream: Stream
) -> None:
    async with stores.sink() as (sink, state):
        stage = AnswerStage(stores.vectors, stores.objects, stores.guarded(state), keep_probes=True)

        async def stored(records: list[Record]) -> None:
            outputs = [it for it in await sink.handle(records) if it.topic == RESULTS]
            now = int(time.time() * 1000)
            await stage.handle([appended(it, at=now) for it in outputs])

        portraits = [learn(stream, "portrait", "obama", 1), learn(stream, "second", "biden", 2)]
        await stored([*portraits, stream.recognize("photo", 1, 2), stream.recognize("other", 2, top=1)])
        await stored([erase(stream, person="obama")])
        left = {name: await stores.vectors.answer(image_id(name)) for name in ("portrait", "second", "photo", "other")}
        found = {name: Answer.decode(it.value.encode()) for name, it in left.items() if it}
        assert {name: it.status for name, it in found.items()} == {
            "portrait": 409,
            "second": 201,
            "photo": 200,
            "other": 200,
        }
        assert found["portrait"].body.members()["code"] == "erased"
        assert [(it["id"], it.get("reason")) for it in found["photo"].body.members()["persons"]] == [
            (None, "erased"),
            ("biden", None),
        ]
        everything = [it.value async for page in stores.vectors.read_answers() for it in page]
        assert "obama" not in json.dumps(everything)  # not even as who was asked to be erased
        assert len(everything) == 4


async def test_a_replay_does_not_restore_erased_faces(stores: Stores, sink: Sink, stream: Stream) -> None:
    await sink.handle(
        [stream.learn("portrait", "obama", 1), stream.learn("second", "biden", 2)]
    )  # the active generation alone
    command = erase(stream, person="obama")

    def reembedded(name: str, person: str, learned_at: int) -> Record:
        face_id = learned_face_id(image_id(name))
        face = ReembeddedFace(
            person=person,
            face_id=face_id,
            image_id=image_id(name),
            source=f"source of {name}",
            learned_at=learned_at,
            vector=encode_vector(vector(1)),
        )
        return stream.record(FacesReembedded(directory="acme", generation=CANDIDATE, faces=[face]).encode())

    records = [
        command,
        reembedded("portrait", "obama", 1_000),
        reembedded("second", "biden", 1_001),
        reembedded("again", "obama", command.timestamp + 1),
    ]
    assert statuses(await sink.handle(records)) == [200]
    assert [it.image_id for it in await stores.vectors.faces("acme", CANDIDATE, "obama")] == [image_id("again")]
    assert [it.image_id for it in await stores.vectors.faces("acme", CANDIDATE, "biden")] == [image_id("second")]


async def test_an_image_erased_while_it_is_in_flight_is_not_learned(stores: Stores, sink: Sink, stream: Stream) -> None:
    await stores.keep("portrait", "obama")
    command = erase(stream, person="obama", **only("portrait"))
    outputs = await sink.handle([command]) + await sink.handle([learn(stream, "portrait", "obama", 1)])
    assert statuses(outputs) == [200, 409]
    assert await stores.keys() == set()
    assert await stores.faces("obama") == {GENERATION: [], CANDIDATE: []}


@pytest.mark.parametrize("what", ERASED)
async def test_a_repeated_command_does_not_erase_a_person_learned_after_it(
    stores: Stores, stream: Stream, what: str
) -> None:
    """A crash before the commit: the answer is out, and the caller has learned the person again."""
    await stores.keep("obama 1", "obama")
    command = ERASED[what][0] | (only("obama 1") if what in ("face", "image") else {})
    records = [learn(stream, "obama 1", "obama", 1), erase(stream, **command)]
    records.append(learn(stream, "again", "obama", 1, received_at=LATER))
    async with stores.sink() as (sink, _):
        await sink.handle(records[:2])
        metadata = {"directory": "acme", "person": "obama", "image_id": image_id("again")}
        # the process that stored it has a clock that is behind
        await stores.objects.put(original_of("again"), b"picture", metadata | {"received": "0.7"})
        await stores.objects.put(crop_of("again"), b"picture", metadata | {"received": str(LATER / 1_000)})
        assert statuses(await sink.handle(records[2:])) == [201]
    async with stores.sink() as (sink, _):
        assert statuses(await sink.handle(records[:2])) == [409, 200]
        assert statuses(await sink.handle(records[2:])) == [201]
        assert names(await sink.handle([photo(stream, "photo", 1)]), "photo") == ["obama"]
    assert await stores.keys() == {original_of("again"), crop_of("again")}


@pytest.mark.parametrize("what", ERASED)
async def test_a_command_repeated_after_a_crash_at_any_step_erases_everything(stores: Stores, what: str) -> None:
    crashes = 0
    for call in itertools.count(1):
        stream, directory = Stream(), f"d{call}"
        portrait, probe = f"portrait {call}", f"probe {call}"
        await stores.keep(portrait, "obama", directory)
        async with stores.sink() as (sink, state):
            before = [
                learn(stream, portrait, "obama", 1, directory=directory),
                stream.recognize(probe, 1, directory=directory),
            ]
            given = [it for it in await sink.handle(before) if it.topic == RESULTS]
            stage = AnswerStage(stores.vectors, stores.objects, stores.guarded(state), keep_probes=True)
            await stage.handle([appended(it, at=int(time.time() * 1000)) for it in given])
        of_image = only(portrait) if what in ("face", "image") else {}
        command = erase(stream, directory, **({} if what == "directory" else {"person": "obama"}), **of_image)
        stores.step.arm(call)
        async with stores.sink() as (sink, _):
            try:
                outputs = await sink.handle([command])
                failed = False
            except Unavailable:
                failed = True
        stores.step.arm(0)
        if failed:
            crashes += 1
            async with stores.sink() as (sink, _):
                outputs = await sink.handle([command])
        assert statuses(outputs) == [200]
        assert await stores.keys() == set()
        assert await stores.faces("obama", directory) == {GENERATION: [], CANDIDATE: []}
        stored = [it.value async for page in stores.vectors.read_answers() for it in page]
        assert "obama" not in json.dumps(stored)
        assert any(
            it.value is None for it in await read_all(stores.log, FACES_LEARNED.name) if it.key == image_id(portrait)
        )
        if not failed:
            break
    assert crashes >= 6  # erasure, tombstones, pictures, rows (before and after), answers


async def test_erasing_a_directory_deletes_its_pictures_and_keeps_later_ones(
    stores: Stores, sink: Sink, stream: Stream
) -> None:
    kept: set[str] = set()
    for name, directory, received in (
        ("probe", "acme", "0.5"),
        ("later", "acme", "5.0"),
        ("elsewhere", "other", "0.5"),
    ):
        key, sheet = original_key(image_id(name), "recognize"), sheet_key(image_id(name))
        for each in (key, sheet):
            await stores.objects.put(each, b"picture", {"directory": directory, "received": received})
        refused = original_key(image_id(f"refused {name}"), "learn")
        await stores.objects.put(refused, b"picture", {"directory": directory, "received": received})
        kept |= {key, sheet, refused} if name != "probe" else set()
    assert statuses(await sink.handle([erase(stream)])) == [200]
    assert await stores.keys() == kept


@pytest.mark.parametrize("command", [{"person": "obama"}, {}], ids=["person", "directory"])
async def test_the_pictures_of_dead_letters_are_deleted(
    stores: Stores, sink: Sink, stream: Stream, command: dict[str, str]
) -> None:
    portraits = (("a", "obama", "acme"), ("b", "biden", "acme"), ("c", "obama", "other"))
    for offset, (name, person, directory) in enumerate(portraits):
        await stores.keep(name, person, directory)
        event = image_received(name, "learn", person=person, directory=directory)
        await stores.log.append([dead_letter_of(event, error=ObjectMissing("x"), at=500, offset=offset)])
    assert statuses(await sink.handle([erase(stream, **command)])) == [200]
    left = {"b", "c"} if command else {"c"}
    assert {original_of(name) for name in "abc"} & await stores.keys() == {original_of(name) for name in left}
    assert {crop_of(name) for name in "abc"} & await stores.keys() == {crop_of(name) for name in left}


async def test_an_answer_that_is_stored_while_its_person_is_erased_elsewhere_has_no_name(
    stores: Stores, stream: Stream
) -> None:
    """The other sink searches for names before the answer is stored, and the sink that stores it does not know of the
    erasure yet.
    """
    async with stores.sink() as (sink, _), stores.sink() as (_, elsewhere):
        stage = AnswerStage(stores.vectors, stores.objects, stores.guarded(elsewhere), keep_probes=True)
        given = await sink.handle([learn(stream, "portrait", "obama", 1), stream.recognize("photo", 1)])
        await sink.handle([erase(stream, person="obama")])
        now = int(time.time() * 1000)
        await stage.handle([appended(it, at=now) for it in given if it.topic == RESULTS])
    stored = [it.value async for page in stores.vectors.read_answers() for it in page]
    assert len(stored) == 2
    assert "obama" not in json.dumps(stored)


async def test_a_stored_answer_that_cannot_be_decoded_does_not_stop_the_command(
    stores: Stores, sink: Sink, stream: Stream
) -> None:
    """Another release has written it. It may name the erased person, so that it is deleted; others stay."""
    expires_at = time.time() + 3_600
    values = {"named": '{"directory":"acme","body":{"persons":["obama"]}}', "other": '{"directory":"acme","body":{}}'}
    await stores.vectors.put_answers([StoredAnswer(image_id(it), text, expires_at) for it, text in values.items()])
    await sink.handle([learn(stream, "portrait", "obama", 1)])
    assert statuses(await sink.handle([erase(stream, person="obama")])) == [200]
    assert [it.value async for page in stores.vectors.read_answers() for it in page] == [values["other"]]
