"""Erase commands at the sink, on real stores: what is deleted, what is kept, in which order, and repetition after a
crash at each step.
"""

import itertools
import json
import time
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.files.objects import FileObjects
from backends.log import NewRecord, Reader, Record
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import Face, FaceVector, StoredAnswer
from facestream.runtime.system_state import SystemState, follow_state
from schemas.erasure_records import Erasure
from schemas.errors import ObjectMissing, Unavailable
from schemas.faces import encode_vector
from schemas.ids import crop_key, image_id_of_object, learned_face_id, new_image_id, original_key
from schemas.object_metadata import ObjectMetadata
from schemas.origins import Cut, Origin
from schemas.records import (
    Answer,
    EraseRequested,
    FacesDetected,
    FacesReembedded,
    ImageReceived,
    ReembeddedFace,
    Source,
)
from sink.answers import AnswerStage
from sink.sink import Sink
from stream.dead_letters import dead_letter_record
from stream.erase.cuts import make_cut
from stream.erase.erasures import identity_record, object_keys_of_image, position_of
from stream.erase.guarded_store import GuardedStore
from stream.generations import generation_record
from stream.topics import (
    BUCKET_EVENTS,
    ERASURES,
    FACES_DETECTED,
    FACES_EMBEDDED,
    FACES_LEARNED,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    RESULTS,
    TOPICS,
)
from tests.answers import MODELS
from tests.records import (
    appended,
    cut_at,
    erasure,
    erasure_keys,
    image_id,
    image_received,
    older_dead_letter_of,
)
from tests.unit.sink.test_sink import (
    BEFORE,
    EARLY,
    GENERATION,
    LATER,
    Stream,
    answers,
    crop_of,
    names,
    original_of,
    vector,
)
from tests.unit.stream.stages import commit_all, read_all
from tests.unit.stream.test_bridge import notified
from weights.manifest import manifest

CANDIDATE = "dlib-resnet29"
CUT = cut_at(BEFORE)  # of all commands here, unless the events of a test are in the log
BUCKET = "objects"


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
        self.log, self.objects = SteppedLog(folder / "log.db"), SteppedObjects(folder / BUCKET)
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

    async def send(self, event: ImageReceived, topic: str = IMAGES_RECEIVED) -> ImageReceived:
        """Appends the event of an image. Returns it as a processor passes it on."""
        await self.log.append([NewRecord(topic, event.image_id, event.encode())])
        last = [it for it in await read_all(self.log, topic) if it.key == event.image_id][-1]
        return event.with_origin(position_of(last))

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


def erase(stream: Stream, directory: str = "acme", *, cut: Cut | None = CUT, **what: str) -> Record:
    command = EraseRequested(image_id=new_image_id(), directory=directory, cut=cut, reply_to="ingest-1", **what)
    return stream.record(command.encode(), directory)


def learn(
    stream: Stream,
    name: str,
    person: str,
    seed: int,
    *,
    directory: str = "acme",
    origin: Origin | None = EARLY,
    received_at: int = 500,
) -> Record:
    """The record of a learned face, with a vector of each generation."""
    return stream.learn(
        name,
        person,
        seed,
        directory=directory,
        origin=origin,
        received_at=received_at,
        generations=(GENERATION, CANDIDATE),
    )


def photo(stream: Stream, name: str, *seeds: int) -> Record:
    """The record of a photo that came after all erase commands."""
    return stream.recognize(name, *seeds, origin=LATER)


def reembedded(stream: Stream, name: str, person: str, learned_at: int, generation: str = CANDIDATE) -> Record:
    face = ReembeddedFace(
        person=person,
        face_id=learned_face_id(image_id(name)),
        image_id=image_id(name),
        source=f"source of {name}",
        learned_at=learned_at,
        vector=encode_vector(vector(1)),
    )
    return stream.record(FacesReembedded(directory="acme", generation=generation, faces=[face]).encode())


def only(portrait: str) -> dict[str, Any]:
    return {"face_id": learned_face_id(image_id(portrait)), "erased_image_id": image_id(portrait)}


async def crash(stores: Stores, command: Record, *, call: int) -> None:
    """Carries out a command in a process that ends at this call of a store."""
    async with stores.sink() as (sink, _):
        stores.step.arm(call)
        with pytest.raises(Unavailable):
            await sink.handle([command])
        stores.step.arm(0)


def statuses(outputs: Sequence[NewRecord]) -> list[int]:
    return [Answer.decode(it.value).status for it in outputs if it.topic == RESULTS]


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_a_command_erases_images_that_came_before_it_and_none_that_came_later(
    stores: Stores, sink: Sink, stream: Stream, together: bool
) -> None:
    for name in ("before", "overtook", "slow", "unknown", "again"):
        await stores.keep(name, "obama")
    records = [
        learn(stream, "before", "obama", 1),
        learn(stream, "overtook", "obama", 2, origin=LATER),  # it came after the cut, but before the command itself
        erase(stream, person="obama"),
        learn(stream, "slow", "obama", 3),  # it came before the command, and was slow
        learn(stream, "unknown", "obama", 4, origin=None),  # an older version has embedded it
        learn(stream, "again", "obama", 5, origin=LATER),
        photo(stream, "photo", 1, 2, 3, 4, 5),
    ]
    batches = [records] if together else [[it] for it in records]
    outputs = [it for batch in batches for it in await sink.handle(batch)]
    assert statuses(outputs) == [201, 201, 200, 409, 409, 201, 200]
    assert names(outputs, "photo") == [None, None, None, None, "obama"]
    assert {it: [face.image_id for face in found] for it, found in (await stores.faces("obama")).items()} == {
        GENERATION: [image_id("again")],
        CANDIDATE: [image_id("again")],
    }
    assert await stores.keys() == {original_of("again"), crop_of("again")}


ERASED: dict[str, tuple[dict[str, Any], set[str]]] = {  # what is erased, and the portraits that are left
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


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_a_replay_does_not_restore_erased_faces(
    stores: Stores, sink: Sink, stream: Stream, together: bool
) -> None:
    """`again` comes from an import, which gives its rows the time at which it began: after the command."""
    await sink.handle(
        [stream.learn("portrait", "obama", 1), stream.learn("second", "biden", 2)]
    )  # the active generation alone
    command = erase(stream, person="obama")
    records = [
        command,
        reembedded(stream, "portrait", "obama", 1_000),
        reembedded(stream, "second", "biden", 1_001),
        reembedded(stream, "again", "obama", command.timestamp + 1),
    ]
    batches = [records] if together else [[it] for it in records]
    assert statuses([it for batch in batches for it in await sink.handle(batch)]) == [200]
    assert [it.image_id for it in await stores.vectors.faces("acme", CANDIDATE, "obama")] == [image_id("again")]
    assert [it.image_id for it in await stores.vectors.faces("acme", CANDIDATE, "biden")] == [image_id("second")]


async def test_an_image_erased_while_it_is_in_flight_is_not_learned(stores: Stores, sink: Sink, stream: Stream) -> None:
    await stores.keep("portrait", "obama")
    command = erase(stream, person="obama", **only("portrait"))
    outputs = await sink.handle([command]) + await sink.handle([learn(stream, "portrait", "obama", 1)])
    assert statuses(outputs) == [200, 409]
    assert await stores.keys() == set()
    assert await stores.faces("obama") == {GENERATION: [], CANDIDATE: []}


async def test_a_command_erases_an_image_that_no_face_was_learned_from(
    stores: Stores, sink: Sink, stream: Stream
) -> None:
    photos = [image_received(name) for name in ("erased", "kept")]
    for it in photos:
        await stores.objects.put(it.object_key, b"picture", {"directory": "acme"})
    outputs = await sink.handle([erase(stream, erased_image_id=image_id("erased"))])
    (answer,) = answers(outputs).values()
    assert answer.body.members()["erased"] == {"faces": 0, "images": 1}
    assert await stores.keys() == {photos[1].object_key}
    records = [stream.recognize(name, 1) for name in ("erased", "kept")]
    assert statuses(await sink.handle(records)) == [409, 200]


async def test_a_command_is_marked_as_done_before_it_is_answered(stores: Stores, sink: Sink, stream: Stream) -> None:
    for name in ("portrait", "second"):
        await sink.handle([learn(stream, name, "obama", 1)])
    command = erase(stream, person="obama")
    await sink.handle([command])
    records = await read_all(stores.log, ERASURES)
    assert {it.key for it in records} == {erasure_keys("portrait")["person"]}
    found = [Erasure.decode(it.value) for it in records]
    assert [(it.done, it.faces, it.images) for it in found] == [(False, 0, 0), (True, 2, 2)]
    assert [(it.partition, it.offset, it.cut) for it in found] == [(command.partition, command.offset, CUT)] * 2


@pytest.mark.parametrize("what", ERASED)
async def test_a_command_that_is_done_is_only_answered_again(stores: Stores, stream: Stream, what: str) -> None:
    """A crash before the commit: the answer is out, and the caller has learned the person again. Nothing but the
    pictures shows that these portraits are new: their events have been deleted.
    """
    await stores.keep("obama 1", "obama")
    command = ERASED[what][0] | (only("obama 1") if what in ("face", "image") else {})
    before = [learn(stream, "obama 1", "obama", 1), erase(stream, **command)]
    again = [learn(stream, "again", "obama", 1, origin=LATER)]
    async with stores.sink() as (sink, _):
        first = await sink.handle(before)
        assert statuses(first) == [201, 200]
        await stores.keep("again", "obama")
        assert statuses(await sink.handle(again)) == [201]
    async with stores.sink() as (sink, _):
        repeated = await sink.handle(before)
        assert statuses(repeated) == [409, 200]
        assert repeated[-1] == first[-1]
        assert first[-1].topic == RESULTS
        assert statuses(await sink.handle(again)) == [201]
        assert names(await sink.handle([photo(stream, "photo", 1)]), "photo") == ["obama"]
    assert await stores.keys() == {original_of("again"), crop_of("again")}


async def test_a_command_is_not_carried_out_again_after_a_later_one_of_the_same(stores: Stores, stream: Stream) -> None:
    commands = [erase(stream) for _ in range(2)]
    again = learn(stream, "again", "obama", 1, origin=LATER)
    async with stores.sink() as (sink, _):
        await sink.handle([*commands, again])
        await stores.keep("again", "obama")
    async with stores.sink() as (sink, _):
        assert statuses(await sink.handle([*commands, again])) == [200, 200, 201]
        assert names(await sink.handle([photo(stream, "photo", 1)]), "photo") == ["obama"]
    assert await stores.keys() == {original_of("again"), crop_of("again")}


@pytest.mark.parametrize("what", ERASED)
async def test_a_command_repeated_after_a_crash_at_any_step_erases_everything_that_came_before_it(
    stores: Stores, what: str
) -> None:
    crashes = 0
    kept: set[str] = set()
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
        cut = await make_cut(stores.log)
        command = erase(stream, directory, cut=cut, **({} if what == "directory" else {"person": "obama"}), **of_image)
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
            later = f"later {call}"
            await stores.keep(later, "obama", directory)
            await stores.send(image_received(later, "learn", directory=directory))
            kept |= {original_of(later), crop_of(later)}
            async with stores.sink() as (sink, _):
                outputs = await sink.handle([command])
        assert statuses(outputs) == [200]
        assert await stores.keys() == kept
        assert await stores.faces("obama", directory) == {GENERATION: [], CANDIDATE: []}
        stored = [it.value async for page in stores.vectors.read_answers() for it in page]
        assert "obama" not in json.dumps(stored)
        assert any(
            it.value is None for it in await read_all(stores.log, FACES_LEARNED.name) if it.key == image_id(portrait)
        )
        if not failed:
            break
    assert crashes >= 7  # erasure, tombstones, pictures, rows (before and after), answers, done


# What no row of the vector store leads to.


async def test_erasing_a_directory_deletes_its_pictures_and_keeps_those_of_later_images(
    stores: Stores, sink: Sink, stream: Stream
) -> None:
    """Clocks take no part: the one of the process that stored the later pictures was behind, the other was ahead."""

    async def keep(name: str, directory: str, received: str) -> set[str]:
        keys = {*object_keys_of_image(image_id(name))} - {crop_of(name)}
        for each in keys:
            await stores.objects.put(each, b"picture", {"directory": directory, "received": received})
        return keys

    await keep("early", "acme", "9000.0")
    await stores.send(image_received("early"))
    await keep("without event", "acme", "9000.0")
    cut = await make_cut(stores.log)
    kept = await keep("later", "acme", "0.1") | await keep("later bulk", "acme", "0.1")
    await stores.send(image_received("later"))
    await stores.send(image_received("later bulk", "learn"), IMAGES_RECEIVED_BULK)
    kept |= await keep("elsewhere", "other", "0.1")
    assert statuses(await sink.handle([erase(stream, cut=cut)])) == [409, 200]
    assert await stores.keys() == kept


async def test_an_event_that_carries_an_origin_below_the_cut_keeps_no_picture(
    stores: Stores, sink: Sink, stream: Stream
) -> None:
    """After the cut a dead letter is retried, and the bridge passes on a notification. Both images came before, so
    that they are erased.
    """
    event = await stores.send(image_received("photo"))
    source = Source(bucket=BUCKET, key="incoming/acme/recognize/1.png")
    await stores.log.append([NewRecord(BUCKET_EVENTS, "", notified(source.key, bucket=BUCKET))])
    (notification,) = await read_all(stores.log, BUCKET_EVENTS)
    await stores.objects.put(event.object_key, b"picture", {"directory": "acme"})
    await stores.objects.put(source.key, b"picture")
    cut = await make_cut(stores.log)
    await stores.send(event)
    bridged = image_received("bridged", source=source, origin=position_of(notification))
    await stores.send(bridged, IMAGES_RECEIVED_BULK)
    assert statuses(await sink.handle([erase(stream, cut=cut)])) == [409, 409, 200]
    assert await stores.keys() == set()


@pytest.mark.parametrize("waits_for", ["a processor", "an embedder"])
@pytest.mark.parametrize("command", [{"person": "obama"}, {}], ids=["person", "directory"])
async def test_images_that_no_processor_has_handled_are_deleted_and_answered_at_once(
    stores: Stores, sink: Sink, stream: Stream, command: dict[str, str], waits_for: str
) -> None:
    """Not when a processor comes to them: it may be away, or have thousands of images before them."""

    async def send(name: str, person: str = "obama", topic: str = IMAGES_RECEIVED) -> None:
        await stores.keep(name, person)
        event = await stores.send(image_received(name, "learn", person=person), topic)
        if waits_for == "an embedder":
            detected = FacesDetected(received=event, received_at=500, faces=[], models=MODELS)
            await stores.log.append([NewRecord(FACES_DETECTED, event.image_id, detected.encode())])
            await commit_all(stores.log, "processors", topic)

    await send("early")
    await send("early, bulk", topic=IMAGES_RECEIVED_BULK)
    await send("of another", person="biden")
    await send("sent again")
    cut = await make_cut(stores.log)
    await send("sent again")
    await send("later")
    outputs = await sink.handle([erase(stream, cut=cut, **command)])
    erased = {"early", "early, bulk"} | (set() if command else {"of another"})
    found = [Answer.decode(it.value) for it in outputs[:-1]]
    assert {it.image_id for it in found} == {image_id(name) for name in erased}
    assert {(it.status, it.body.members()["code"]) for it in found} == {(409, "erased")}
    left = {"of another", "sent again", "later"} - erased
    assert await stores.keys() == {key for name in left for key in (original_of(name), crop_of(name))}


async def test_a_topic_that_cannot_be_read_to_its_end_does_not_hold_up_a_command(
    stores: Stores, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor refuses the images that were not found when it comes to them."""
    portrait = learn(stream, "portrait", "obama", 1)
    await stores.send(image_received("not found", "learn"))
    await stores.send(image_received("found", "learn"), IMAGES_RECEIVED_BULK)
    reader = SqliteLog.reader

    async def unreadable(log: SqliteLog, topic: str, **rest: Any) -> Reader:
        if topic == IMAGES_RECEIVED:
            raise Unavailable("a batch cannot be read")
        return await reader(log, topic, **rest)

    async with stores.sink() as (sink, _):
        await sink.handle([portrait])
        cut = await make_cut(stores.log)
        monkeypatch.setattr(SqliteLog, "reader", unreadable)
        outputs = await sink.handle([erase(stream, cut=cut, person="obama")])
    assert statuses(outputs) == [409, 200]
    assert outputs[0].key == image_id("found")
    assert await stores.faces("obama") == {GENERATION: [], CANDIDATE: []}


@pytest.mark.parametrize("command", [{"person": "zoë"}, {}], ids=["person", "directory"])
async def test_sources_in_the_own_bucket_are_deleted_and_those_of_later_images_kept(
    stores: Stores, sink: Sink, stream: Stream, command: dict[str, str]
) -> None:
    person = "incoming/acme/learn/zoë"
    early = {f"{person}/early.png", unicodedata.normalize("NFD", f"{person}/early.png")}
    notified_later, named_later = f"{person}/later+1 %.png", f"{person}/later.png"
    of_directory = {"incoming/acme/learn/biden/1.png", "incoming/acme/recognize/1.png"}
    elsewhere = {"incoming/other/learn/zoë/1.png"}
    for key in early | {notified_later, named_later} | of_directory | elsewhere:
        await stores.objects.put(key, b"picture")
    copied = original_key(image_id_of_object(BUCKET, notified_later, "e"), "learn")
    await stores.objects.put(copied, b"picture", {"directory": "acme", "person": "zoë"})
    for key in early:
        await stores.log.append([NewRecord(BUCKET_EVENTS, "", notified(key, bucket=BUCKET))])
    cut = await make_cut(stores.log)
    await stores.log.append([NewRecord(BUCKET_EVENTS, "", notified(notified_later, bucket=BUCKET))])
    await stores.send(image_received("later", "learn", person="zoë", source=Source(bucket=BUCKET, key=named_later)))
    await stores.log.append([NewRecord(BUCKET_EVENTS, "", b"{}"), NewRecord(IMAGES_RECEIVED, "", b"no event")])
    assert statuses(await sink.handle([erase(stream, cut=cut, **command)])) == [200]
    left = {notified_later, named_later, copied} | elsewhere
    assert await stores.keys() == left | (of_directory if command else set())


@pytest.mark.parametrize("command", [{"person": "obama"}, {}], ids=["person", "directory"])
async def test_the_pictures_of_dead_letters_are_deleted_and_those_of_later_images_kept(
    stores: Stores, sink: Sink, stream: Stream, command: dict[str, str]
) -> None:
    """A letter of an older version tells the origin of an image if the image failed where it came in."""

    async def fail(
        name: str, person: str = "obama", directory: str = "acme", *, older: bool = False, topic: str = IMAGES_RECEIVED
    ) -> None:
        await stores.keep(name, person, directory)
        event = await stores.send(image_received(name, "learn", person=person, directory=directory))
        assert event.origin is not None
        place = topic, event.origin.partition, event.origin.offset
        if older:
            members = dict(zip(("topic", "partition", "offset"), place, strict=True))
            letter = older_dead_letter_of(event.model_copy(update={"origin": None}), **members)
        else:
            failed = Record(*place, 1_000, event.image_id, event.encode())
            letter = dead_letter_record(failed, event, ObjectMissing("x"), 3, "processors")
        await stores.log.append([letter])

    await fail("early")
    await fail("early, older", older=True)
    await fail("unknown", older=True, topic=FACES_EMBEDDED)
    await fail("of another", person="biden")
    await fail("elsewhere", directory="other")
    cut = await make_cut(stores.log)
    await fail("later")
    await fail("later, older", older=True)
    await commit_all(stores.log, "processors", IMAGES_RECEIVED)
    assert statuses(await sink.handle([erase(stream, cut=cut, **command)])) == [200]
    left = {"elsewhere", "later", "later, older"} | ({"of another"} if command else set())
    assert await stores.keys() == {key for name in left for key in (original_of(name), crop_of(name))}


async def test_a_face_imported_while_a_command_waits_is_erased_with_its_pictures_or_not_at_all(
    stores: Stores, stream: Stream
) -> None:
    """An import has no event: it stores pictures first, and appends the vectors then."""
    command = erase(stream)
    name, version = image_id("imported"), command.timestamp + 1
    face_id = learned_face_id(name)
    async with stores.sink() as (sink, state):
        store = stores.guarded(state)
        metadata = ObjectMetadata(
            directory="acme", person="obama", received_at=version, erasures_seen=state.erasures.seen
        )
        await store.put_of_row(name, version, original_key(name, "learn"), b"picture", metadata)
        await store.put_of_row(name, version, crop_key(face_id), b"picture", metadata)
        record = reembedded(stream, "imported", "obama", version, GENERATION)
        others = [NewRecord(FACES_EMBEDDED, "earlier", b"", "acme")] * (command.offset + 1)
        await stores.log.append([*others, NewRecord(FACES_EMBEDDED, record.key, record.value, "acme")])
        assert statuses(await sink.handle([command])) == [200]
        await sink.handle([record])
    rows = await stores.vectors.faces("acme", GENERATION, "obama")
    assert await stores.keys() == ({original_of("imported"), crop_of("imported")} if rows else set())


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


# Versions of rows, older versions of the program, and other logs.


async def test_a_person_is_erased_and_learned_again_whatever_the_clocks_say(stores: Stores, stream: Stream) -> None:
    """By the clock of the process that received the first portrait, everything else happens before it."""
    ahead = 9_000
    for turn in range(2):
        async with stores.sink() as (sink, _):
            record = learn(
                stream, f"portrait {turn}", "obama", 1, origin=LATER, received_at=ahead if turn == 0 else 500
            )
            assert statuses(await sink.handle([record])) == [201]
        async with stores.sink() as (sink, _):
            assert names(await sink.handle([photo(stream, f"photo {turn}", 1)]), f"photo {turn}") == ["obama"]
            outputs = await sink.handle([erase(stream, person="obama"), photo(stream, f"after {turn}", 1)])
            assert names(outputs, f"after {turn}") == [None]
            assert await stores.faces("obama") == {GENERATION: [], CANDIDATE: []}


async def test_a_command_of_an_older_version_has_its_cut_where_it_is_carried_out(
    stores: Stores, stream: Stream
) -> None:
    """The cut is made once: what came after a crash is kept when the command is carried out again."""
    early = await stores.send(image_received("early", "learn"))
    command = erase(stream, cut=None)
    await crash(stores, command, call=2)  # after the erasure was announced
    later = await stores.send(image_received("later", "learn"))
    for name in ("early", "later"):
        await stores.keep(name, "obama")
    async with stores.sink() as (sink, _):
        assert statuses(await sink.handle([command])) == [409, 200]
        records = [
            learn(stream, "early", "obama", 1, origin=early.origin),
            learn(stream, "later", "obama", 1, origin=later.origin),
        ]
        assert statuses(await sink.handle(records)) == [409, 201]
    assert await stores.keys() == {original_of("later"), crop_of("later")}


async def test_a_command_that_an_older_version_has_announced_is_carried_out_at_the_same_version(
    stores: Stores, stream: Stream
) -> None:
    """It does not say whether the command was carried out. The person may have been learned again since."""
    before, command = learn(stream, "before", "obama", 1), erase(stream, cut=None, person="obama")
    for name in ("before", "again"):
        await stores.keep(name, "obama")
    async with stores.sink() as (sink, _):
        await sink.handle([before])
    announced = erasure(at=command.timestamp, partition=command.partition, offset=command.offset)
    announced = announced.model_copy(update={"done": None, "cut": None})
    await stores.log.append([NewRecord(ERASURES, erasure_keys("before")["person"], announced.encode())])
    again = Face("obama", learned_face_id(image_id("again")), image_id("again"), "source", command.timestamp + 1)
    await stores.vectors.put_faces([FaceVector("acme", GENERATION, again, vector(1))])
    async with stores.sink() as (sink, _):
        assert statuses(await sink.handle([command])) == [200]
    assert await stores.faces("obama") == {GENERATION: [again], CANDIDATE: []}
    last = Erasure.decode((await read_all(stores.log, ERASURES))[-1].value)
    assert (last.done, last.at, last.offset, last.faces) == (True, command.timestamp, command.offset, 1)
    assert await stores.keys() == {original_of("again"), crop_of("again")}
    assert {it.key for it in await read_all(stores.log, FACES_LEARNED.name)} == {image_id("before")}


async def test_a_command_of_a_restored_log_is_carried_out_at_the_offset_of_a_former_one(stores: Stores) -> None:
    ids: list[str] = []
    for turn in range(2):
        stream = Stream()  # its offsets begin anew
        await stores.log.append([identity_record()])
        records = [learn(stream, f"portrait {turn}", "obama", 1), erase(stream, person="obama")]
        async with stores.sink() as (sink, state):
            ids.append(state.erasures.log_id)
            for record, status in zip(records, (201, 200), strict=True):
                assert statuses(await sink.handle([record])) == [status]
            assert await stores.faces("obama") == {GENERATION: [], CANDIDATE: []}
            assert statuses(await sink.handle([learn(stream, f"slow {turn}", "obama", 1)])) == [409]
    recorded = [it for it in await read_all(stores.log, ERASURES) if it.key != "log"]
    assert [Erasure.decode(it.value).log for it in recorded] == [ids[0], ids[0], ids[1], ids[1]]
    assert ids[0] != ids[1]
