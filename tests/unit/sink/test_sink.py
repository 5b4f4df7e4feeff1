"""The sink's stage on a real store: learn, recognize, repeat, fail."""

import base64
import json
import threading
from collections.abc import AsyncIterator, Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.files.objects import FileObjects
from backends.log import CommittedOffset, NewRecord, Record, TopicPartition, partition_of
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import FaceBlock, FaceVector
from facestream.runtime.system_state import SystemState
from schemas.arrays import Float32Array
from schemas.errors import Unavailable, UnreadableRecord
from schemas.faces import Crop, encode_vector
from schemas.ids import crop_key, learned_face_id, original_key
from schemas.options import Options
from schemas.origins import Cut, Origin
from schemas.records import Answer, EraseRequested, FaceLearned, FacesEmbedded, ImageReceived
from sink.match.matching import match_photos
from sink.sink import Sink
from stream.erase.guarded_store import GuardedStore
from stream.topics import FACES_EMBEDDED, FACES_LEARNED, ORIGIN_TOPICS, PARTITIONS, RESULTS
from tests.answers import MODELS
from tests.records import (
    LANDMARKS,
    cut_at,
    embedded_face,
    erasure_keys,
    erasure_record,
    face_id,
    faces_embedded,
    image_id,
    image_received,
    origin_at,
)
from weights.manifest import manifest

GENERATION = manifest().default_generation
DIMENSION = 128
BEFORE = 10  # the cut of all erasures here
EARLY, LATER = origin_at(BEFORE - 1), origin_at(BEFORE)


def vector(seed: int) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)


def original_of(name: str) -> str:
    return original_key(image_id(name), "learn")


def crop_of(name: str) -> str:
    return crop_key(learned_face_id(image_id(name)))


class Stream:
    """Makes records of `faces.embedded`, with offsets as the log would give them."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}

    def record(self, event: FacesEmbedded | bytes, directory: str = "acme") -> Record:
        partition = partition_of(directory, PARTITIONS)
        offset = self.ends.get(partition, 0)
        self.ends[partition] = offset + 1
        value = event if isinstance(event, bytes) else event.encode()
        return Record(FACES_EMBEDDED, partition, offset, 1_000 + offset, "key", value)

    def learn(
        self,
        name: str,
        person: str,
        seed: int,
        *,
        source: str | None = None,
        directory: str = "acme",
        origin: Origin | None = EARLY,
        received_at: int = 500,
        generations: Sequence[str] = (GENERATION,),
    ) -> Record:
        face = embedded_face(
            learned_face_id(image_id(name)),
            vectors=dict.fromkeys(generations, encode_vector(vector(seed))),
            crop=Crop(object_key=crop_of(name), landmarks=LANDMARKS),
            source=source or f"source of {name}",
        )
        received = image_received(name, "learn", person=person, directory=directory, origin=origin, reply_to="ingest-1")
        return self.record(faces_embedded(received, face, received_at=received_at), directory)

    def recognize(
        self, name: str, *seeds: int, directory: str = "acme", origin: Origin | None = EARLY, **options: Any
    ) -> Record:
        faces = [
            embedded_face(face_id(f"{name} {i}"), vectors={GENERATION: encode_vector(vector(seed))})
            for i, seed in enumerate(seeds)
        ]
        received = image_received(
            name, directory=directory, origin=origin, reply_to="ingest-1", options=Options(**options)
        )
        return self.record(faces_embedded(received, *faces), directory)


class AwayVectors(SqliteVectors):
    """A store whose writes fail while `writes_fail` is set. It counts the galleries that were read."""

    writes_fail = False
    galleries_read = 0

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.listed: list[bool] = []  # of each face that was put: whether its directory was said to be listed

    async def put_faces(self, faces: Sequence[FaceVector], *, listed: Container[tuple[str, str]] = ()) -> None:
        if self.writes_fail:
            raise Unavailable("away")
        self.listed += [(it.directory, it.generation) in listed for it in faces]
        await super().put_faces(faces, listed=listed)

    async def read_gallery(self, directory: str, generation: str) -> AsyncIterator[FaceBlock]:
        self.galleries_read += 1
        async for block in super().read_gallery(directory, generation):
            yield block


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[AwayVectors]:
    store = AwayVectors(tmp_path / "vectors.db")
    yield store
    await store.close()


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FileObjects]:
    store = FileObjects(tmp_path / "objects")
    yield store
    await store.close()


@pytest.fixture
def sink(log: SqliteLog, vectors: AwayVectors, objects: FileObjects, state: SystemState) -> Sink:
    store = GuardedStore(objects, vectors, state.erasures)
    return Sink(log, objects, vectors, store, state.generations, state.erasures, gallery_memory=1 << 30)


@pytest.fixture
def stream() -> Stream:
    return Stream()


def answers(outputs: list[NewRecord]) -> dict[str, Answer]:
    found = [Answer.decode(it.value) for it in outputs if it.topic == RESULTS]
    assert len({it.image_id for it in found}) == len(found)
    return {it.image_id: it for it in found}


def names(outputs: list[NewRecord], name: str) -> list[str | None]:
    return [it["id"] for it in answers(outputs)[image_id(name)].body.members()["persons"]]


async def people(vectors: SqliteVectors, directory: str = "acme") -> dict[str, int]:
    return {it.person: it.faces for it in await vectors.persons(directory, GENERATION)}


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_what_was_learned_is_recognized(sink: Sink, vectors: AwayVectors, stream: Stream, together: bool) -> None:
    records = [
        stream.learn("portrait", "obama", 1),
        stream.learn("second", "biden", 2),
        stream.recognize("photo", 2, 3, 1),
    ]
    batches = [records] if together else [[it] for it in records]
    outputs = [it for batch in batches for it in await sink.handle(batch)]
    assert names(outputs, "photo") == ["biden", None, "obama"]
    assert await people(vectors) == {"biden": 1, "obama": 1}
    learned = answers(outputs)[image_id("portrait")]
    assert learned.status == 201
    (person,) = learned.body.members()["persons"]
    assert person == {
        "id": "obama",
        "box": [1, 2, 51, 62],
        "score": 0.99,
        "detection_score": 0.8,
        "face_id": learned_face_id(image_id("portrait")),
    }
    assert learned.body.members()["url"] == f"/files/{image_id('portrait')}.jpg"
    assert (learned.body.members()["filename"], learned.body.members()["directory"]) == ("portrait.jpg", "acme")
    assert learned.body.members()["models"] == {
        "detector": "centerface",
        "embedder": "dlib-resnet29",
        "generation": GENERATION,
    }


async def test_a_probe_sees_a_learn_that_comes_after_it_in_the_batch(sink: Sink, stream: Stream) -> None:
    """None of them has been acknowledged yet, so all learns may be handled first, together (rule 3)."""
    outputs = await sink.handle([stream.recognize("photo", 1), stream.learn("portrait", "obama", 1)])
    assert names(outputs, "photo") == ["obama"]


async def test_a_face_learned_into_a_loaded_gallery_is_found_at_once(
    sink: Sink, vectors: AwayVectors, stream: Stream
) -> None:
    assert names(await sink.handle([stream.recognize("before", 1)]), "before") == [None]
    await sink.handle([stream.learn("portrait", "obama", 1)])
    assert names(await sink.handle([stream.recognize("after", 1)]), "after") == ["obama"]
    assert vectors.galleries_read == 1


async def test_a_directory_is_listed_with_its_first_face_and_again_after_an_erase(
    sink: Sink, vectors: AwayVectors, stream: Stream
) -> None:
    await sink.handle([stream.learn("first", "obama", 1)])
    await sink.handle([stream.learn("second", "biden", 2)])
    await sink.handle([stream.learn("of another", "obama", 1, directory="other")])
    assert vectors.listed == [False, True, False]
    command = EraseRequested(image_id=image_id("erase"), directory="acme", cut=cut_at(BEFORE), reply_to="ingest-1")
    await sink.handle([stream.record(command.encode())])
    await sink.handle([stream.learn("third", "biden", 3, origin=LATER)])
    assert vectors.listed[3:] == [False]


@pytest.mark.parametrize(("learned", "faces", "at_once"), [(256, 8, True), (257, 1, False), (1, 9, False)])
async def test_only_a_few_faces_are_matched_by_the_event_loop_itself(
    sink: Sink, stream: Stream, monkeypatch: pytest.MonkeyPatch, learned: int, faces: int, at_once: bool
) -> None:
    threads: list[threading.Thread] = []

    def noting(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return match_photos(*arguments)

    monkeypatch.setattr("sink.sink.match_photos", noting)
    await sink.handle([stream.learn(f"portrait {i}", f"person {i}", i) for i in range(learned)])
    assert len(names(await sink.handle([stream.recognize("photo", *range(faces))]), "photo")) == faces
    assert [it is threading.current_thread() for it in threads] == [at_once]


async def test_a_person_of_another_directory_is_not_recognized(sink: Sink, stream: Stream) -> None:
    await sink.handle([stream.learn("portrait", "obama", 1, directory="acme")])
    outputs = await sink.handle([stream.recognize("photo", 1, directory="other")])
    (person,) = answers(outputs)[image_id("photo")].body.members()["persons"]
    assert (person["id"], person["reason"]) == (None, "empty-directory")


async def test_the_changelog_of_a_learn_has_neither_pixels_nor_vectors(sink: Sink, stream: Stream) -> None:
    outputs = await sink.handle([stream.learn("portrait", "obama", 1)])
    (record,) = [it for it in outputs if it.topic == FACES_LEARNED.name]
    assert (record.key, record.partition_key) == (image_id("portrait"), "acme")
    learned = FaceLearned.decode(record.value)
    assert (learned.person, learned.face_id) == ("obama", learned_face_id(image_id("portrait")))
    assert (learned.learned_at, learned.generations) == (1_000, [GENERATION])
    assert learned.crop == Crop(object_key=crop_of("portrait"), landmarks=LANDMARKS)
    assert encode_vector(vector(1)).encode() not in (record.value or b"")


async def test_the_answer_goes_to_the_replica_that_waits(sink: Sink, stream: Stream) -> None:
    outputs = await sink.handle([stream.learn("portrait", "obama", 1), stream.recognize("photo", 1)])
    results = [it for it in outputs if it.topic == RESULTS]
    assert [(it.key, it.partition_key) for it in results] == [
        (image_id(it), "ingest-1") for it in ("portrait", "photo")
    ]


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_a_repeated_record_has_one_effect(
    sink: Sink, vectors: AwayVectors, objects: FileObjects, stream: Stream, together: bool
) -> None:
    await objects.put(original_of("portrait"), b"original")
    await objects.put(crop_of("portrait"), b"crop")
    record = stream.learn("portrait", "obama", 1)
    if together:
        outputs = await sink.handle([record, record])
    else:
        outputs = await sink.handle([record]) + await sink.handle([record])
    found = [Answer.decode(it.value) for it in outputs if it.topic == RESULTS]
    assert [it.status for it in found] == [201, 201]
    assert found[0].body == found[1].body
    assert await people(vectors) == {"obama": 1}
    photo = answers(await sink.handle([stream.recognize("photo", 1)]))[image_id("photo")]
    assert len(photo.body.members()["persons"][0]["candidates"]) == 1
    assert (await objects.get(original_of("portrait"))).data == b"original"
    assert (await objects.get(crop_of("portrait"))).data == b"crop"


ORIGINS = {"below the cut": (EARLY, True), "at the cut": (LATER, False), "of an older version": (None, True)}


@pytest.mark.parametrize(("origin", "erased"), ORIGINS.values(), ids=ORIGINS)
@pytest.mark.parametrize("what", erasure_keys("portrait"))
async def test_a_portrait_whose_origin_lies_below_the_cut_of_an_erasure_is_not_learned(
    log: SqliteLog,
    sink: Sink,
    vectors: AwayVectors,
    objects: FileObjects,
    stream: Stream,
    what: str,
    origin: Origin | None,
    erased: bool,
) -> None:
    """The sink that had the partition before has carried out the erasure."""
    await log.append([erasure_record(erasure_keys("portrait")[what], at=2_000, before=BEFORE)])
    pictures = {original_of("portrait"), crop_of("portrait")}
    for key in pictures:
        await objects.put(key, b"picture")
    outputs = await sink.handle([stream.learn("portrait", "obama", 1, origin=origin)])
    assert answers(outputs)[image_id("portrait")].status == (409 if erased else 201)
    assert len([it for it in outputs if it.topic == FACES_LEARNED.name]) == (0 if erased else 1)
    assert await people(vectors) == ({} if erased else {"obama": 1})
    assert {it.key async for it in objects.list()} == (set() if erased else pictures)


@pytest.mark.parametrize(("origin", "erased"), ORIGINS.values(), ids=ORIGINS)
@pytest.mark.parametrize("what", ["directory", "image"])
async def test_a_photo_whose_origin_lies_below_the_cut_of_an_erasure_is_answered_as_erased(
    log: SqliteLog, sink: Sink, objects: FileObjects, stream: Stream, what: str, origin: Origin | None, erased: bool
) -> None:
    await log.append([erasure_record(erasure_keys("photo")[what], before=BEFORE)])
    picture = original_key(image_id("photo"), "recognize")
    await objects.put(picture, b"picture")
    outputs = await sink.handle([stream.recognize("photo", 1, origin=origin)])
    assert answers(outputs)[image_id("photo")].status == (409 if erased else 200)
    assert {it.key async for it in objects.list()} == (set() if erased else {picture})


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_an_image_that_came_after_the_cut_is_erased_if_its_record_stands_before_the_command(
    log: SqliteLog, sink: Sink, vectors: AwayVectors, stream: Stream, together: bool
) -> None:
    """The records before a command are handled again, by a sink that knows the erasure already."""
    records = [stream.learn("before", "obama", 1, origin=LATER), stream.recognize("photo before", 1, origin=LATER)]
    command = EraseRequested(image_id=image_id("erase"), directory="acme", cut=cut_at(BEFORE))
    offset = stream.record(command.encode()).offset
    await log.append([erasure_record(erasure_keys("before")["directory"], offset=offset, before=BEFORE)])
    records += [stream.learn("after", "obama", 1, origin=LATER), stream.recognize("photo after", 1, origin=LATER)]
    batches = [records] if together else [[it] for it in records]
    outputs = [it for batch in batches for it in await sink.handle(batch)]
    expected = {"before": 409, "photo before": 409, "after": 201, "photo after": 200}
    assert {it: answers(outputs)[image_id(it)].status for it in expected} == expected
    assert await people(vectors) == {"obama": 1}


@pytest.mark.parametrize(
    ("erased_at", "received_at", "version"),
    [
        pytest.param(900, 500, 1_000, id="the record's append time"),
        pytest.param(900, 5_000, 5_000, id="when the image was received, by a clock that was ahead"),
        pytest.param(1_000, 500, 1_001, id="after an erasure of the same millisecond"),
        pytest.param(9_000, 500, 9_001, id="after an erasure by a clock that was ahead"),
    ],
)
@pytest.mark.parametrize("what", erasure_keys("portrait"))
async def test_a_learned_face_has_a_version_that_no_earlier_erasure_covers(
    log: SqliteLog,
    sink: Sink,
    vectors: AwayVectors,
    stream: Stream,
    what: str,
    erased_at: int,
    received_at: int,
    version: int,
) -> None:
    await log.append([erasure_record(erasure_keys("portrait")[what], at=erased_at, before=BEFORE)])
    record = stream.learn("portrait", "obama", 1, origin=LATER, received_at=received_at)
    outputs = await sink.handle([record])
    assert answers(outputs)[image_id("portrait")].status == 201
    (changed,) = [FaceLearned.decode(it.value) for it in outputs if it.topic == FACES_LEARNED.name]
    (row,) = await vectors.faces("acme", GENERATION, "obama")
    assert (changed.learned_at, row.timestamp) == (version, version)
    assert names(await sink.handle([stream.recognize("photo", 1, origin=LATER)]), "photo") == ["obama"]


async def test_an_erasure_of_another_log_refuses_no_image(
    log: SqliteLog, sink: Sink, vectors: AwayVectors, stream: Stream
) -> None:
    """The log was restored: its offsets have begun anew, and rows of the former log keep their versions."""
    key = erasure_keys("portrait")["directory"]
    await log.append([erasure_record(key, at=9_000, offset=50, before=50, log="former")])
    outputs = await sink.handle([stream.learn("portrait", "obama", 1), stream.recognize("photo", 1)])
    assert names(outputs, "photo") == ["obama"]
    (row,) = await vectors.faces("acme", GENERATION, "obama")
    assert row.timestamp == 9_001


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_the_same_picture_of_the_same_person_is_kept_once(
    sink: Sink, vectors: AwayVectors, stream: Stream, together: bool
) -> None:
    first = stream.learn("first", "obama", 1, source="same picture")
    second = stream.learn("second", "obama", 1, source="same picture")
    outputs = [
        it for batch in ([[first, second]] if together else [[first], [second]]) for it in await sink.handle(batch)
    ]
    assert (answers(outputs)[image_id("first")].status, answers(outputs)[image_id("second")].status) == (201, 200)
    body = answers(outputs)[image_id("second")].body.members()
    assert body["image_id"] == image_id("first")
    assert body["persons"][0]["face_id"] == learned_face_id(image_id("first"))
    assert body["url"] == f"/files/{image_id('first')}.jpg"
    assert await people(vectors) == {"obama": 1}
    assert len([it for it in outputs if it.topic == FACES_LEARNED.name]) == 1


async def test_another_person_or_another_picture_makes_a_new_face(
    sink: Sink, vectors: AwayVectors, stream: Stream
) -> None:
    records = [
        stream.learn("first", "obama", 1, source="same picture"),
        stream.learn("second", "biden", 1, source="same picture"),
        stream.learn("third", "obama", 1, source="other picture"),
    ]
    outputs = await sink.handle(records)
    assert [it.status for it in answers(outputs).values()] == [201, 201, 201]
    assert await people(vectors) == {"obama": 2, "biden": 1}


def broken() -> dict[str, FacesEmbedded | bytes]:
    """Invalid records as another producer might send them, by what is wrong with each."""
    number = vector(1)
    face = embedded_face(
        face_id("face"),
        vectors={GENERATION: encode_vector(number)},
        crop=Crop(object_key="crops/x", landmarks=LANDMARKS),
        source="source",
    )
    to_learn, to_recognize = image_received("bad", "learn"), image_received("bad")

    def with_face(received: ImageReceived, **members: Any) -> FacesEmbedded:
        return faces_embedded(received, face.model_copy(update=members))

    def with_vector(text: str) -> FacesEmbedded:
        return with_face(to_recognize, vectors={GENERATION: text})

    def with_models(**members: Any) -> FacesEmbedded:
        return faces_embedded(to_recognize, face, models=MODELS.model_copy(update=members))

    def without(member: str) -> bytes:
        good = json.loads(faces_embedded(to_learn, face).encode())
        del good["received"][member]
        return json.dumps(good).encode()

    def with_cut(next_offsets: dict[str, list[int]]) -> bytes:
        cut = Cut(next_offsets=next_offsets)
        return EraseRequested(image_id=image_id("erase"), directory="acme", cut=cut).encode()

    infinite = number.copy()
    infinite[3] = np.inf
    return {
        "no base64": with_vector("abc"),
        "not whole numbers": with_vector(base64.b64encode(b"12345").decode()),
        "too short": with_vector(encode_vector(number[:127])),
        "empty": with_vector(""),
        "nan": with_vector(encode_vector(np.full(DIMENSION, np.nan, np.float32))),
        "infinite": with_vector(encode_vector(infinite)),
        "zero": with_vector(encode_vector(np.zeros(DIMENSION, np.float32))),
        "too long to be squared": with_vector(encode_vector(np.full(DIMENSION, 1e30, np.float32))),
        "another generation's": with_face(to_recognize, vectors={"other": encode_vector(number)}),
        "unknown generation": with_models(generation="arcface"),
        "no generation": with_models(generation=None),
        "no directory": without("directory"),
        "detect": faces_embedded(image_received("bad", "detect"), face),
        "learn without person": without("person"),
        "learn without face": faces_embedded(to_learn),
        "learn with two faces": faces_embedded(to_learn, face, face),
        "learn without crop": with_face(to_learn, crop=None),
        "learn without source": with_face(to_learn, source=None),
        "learn without vector": with_face(to_learn, vectors={}),
        "erase a face without its image": EraseRequested(
            image_id=image_id("erase"), directory="acme", person="obama", face_id=face_id("face")
        ).encode(),
        "erase before a cut of other topics": with_cut({"images": [0] * PARTITIONS}),
        "erase before a cut of fewer partitions": with_cut({it: [0] for it in ORIGIN_TOPICS}),
    }


@pytest.mark.parametrize("bad", [pytest.param(it, id=name) for name, it in broken().items()])
async def test_an_invalid_event_of_another_producer_is_unreadable(
    sink: Sink, vectors: AwayVectors, stream: Stream, bad: FacesEmbedded | bytes
) -> None:
    with pytest.raises(UnreadableRecord):
        await sink.handle([stream.learn("good", "obama", 1), stream.record(bad)])
    assert await people(vectors) == {}  # checked before anything is written


async def test_a_record_that_is_no_event_is_unreadable(sink: Sink, stream: Stream) -> None:
    for value in (b"", b"{}", b"\xff", b"null"):
        with pytest.raises(UnreadableRecord):
            await sink.handle([stream.record(value)])
        with pytest.raises(UnreadableRecord):
            sink.event_of(stream.record(value))


async def test_a_store_that_is_away_changes_nothing_in_memory(sink: Sink, vectors: AwayVectors, stream: Stream) -> None:
    await sink.handle([stream.learn("portrait", "obama", 1), stream.recognize("photo", 1)])
    vectors.writes_fail = True
    record = stream.learn("second", "biden", 2)
    with pytest.raises(Unavailable):
        await sink.handle([record])
    assert names(await sink.handle([stream.recognize("meanwhile", 2)]), "meanwhile") == [None]
    vectors.writes_fail = False
    assert answers(await sink.handle([record]))[image_id("second")].status == 201
    assert names(await sink.handle([stream.recognize("later", 2)]), "later") == ["biden"]
    assert await people(vectors) == {"obama": 1, "biden": 1}


@pytest.mark.parametrize(("committed", "kept"), [(2, True), (1, False), (3, False)])
async def test_a_gallery_is_kept_over_a_rebalance_only_at_the_committed_offset(
    sink: Sink, vectors: AwayVectors, stream: Stream, committed: int, kept: bool
) -> None:
    at = TopicPartition(FACES_EMBEDDED, partition_of("acme", PARTITIONS))
    await sink.on_assignment({at: CommittedOffset(0)})
    await sink.handle([stream.learn("portrait", "obama", 1)])
    await sink.handle([stream.recognize("photo", 1)])
    assert vectors.galleries_read == 1
    await sink.on_assignment({at: CommittedOffset(committed)})
    assert names(await sink.handle([stream.recognize("again", 1)]), "again") == ["obama"]
    assert vectors.galleries_read == (1 if kept else 2)


async def test_a_gallery_is_dropped_with_its_partition(sink: Sink, vectors: AwayVectors, stream: Stream) -> None:
    at = TopicPartition(FACES_EMBEDDED, partition_of("acme", PARTITIONS))
    other = TopicPartition(FACES_EMBEDDED, (at.partition + 1) % PARTITIONS)
    await sink.handle([stream.learn("portrait", "obama", 1), stream.recognize("photo", 1)])
    await sink.on_assignment({other: CommittedOffset(0)})
    await sink.on_assignment(
        {at: CommittedOffset(2), other: CommittedOffset(0)}
    )  # back, but somebody else may have learned meanwhile
    await sink.handle([stream.recognize("again", 1)])
    assert vectors.galleries_read == 2


async def test_galleries_that_do_not_fit_into_memory_are_dropped_and_read_again(
    log: SqliteLog, vectors: AwayVectors, objects: FileObjects, state: SystemState, stream: Stream
) -> None:
    store = GuardedStore(objects, vectors, state.erasures)
    small = Sink(log, objects, vectors, store, state.generations, state.erasures, gallery_memory=1)
    for directory in ("acme", "other"):
        await small.handle([stream.learn(f"portrait {directory}", directory, 1, directory=directory)])
    vectors.galleries_read = 0
    for turn in range(2):
        for directory in ("acme", "other"):
            outputs = await small.handle([stream.recognize(f"{turn} {directory}", 1, directory=directory)])
            assert names(outputs, f"{turn} {directory}") == [directory]
    assert vectors.galleries_read == 4


async def test_probes_of_a_photo_are_answered_in_its_own_options(sink: Sink, stream: Stream) -> None:
    await sink.handle([stream.learn(f"{i}", f"person {i}", i) for i in range(5)])
    outputs = await sink.handle([stream.recognize("one", 9, top=1), stream.recognize("all", 9, top=10, strangers=1)])
    (one,), (everybody,) = (answers(outputs)[image_id(name)].body.members()["persons"] for name in ("one", "all"))
    assert (len(one["candidates"]), one["id"]) == (1, None)
    assert (len(everybody["candidates"]), everybody["id"]) == (5, everybody["candidates"][0]["id"])


async def test_the_probe_of_the_stage_checks_the_store(sink: Sink, vectors: AwayVectors) -> None:
    await sink.check_stores()
    await vectors.close()
    with pytest.raises(Unavailable):
        await sink.check_stores()
