"""The objects of other systems to which an event may refer, how others are refused, and what an erasure deletes."""

import hashlib
import io
import unicodedata
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.files.objects import FileObjects
from backends.log import NewRecord, Record, TopicSpec
from backends.s3.objects import S3Objects
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from schemas.erasures import image_erasure_key
from schemas.errors import Erased, ForbiddenSource, NotAnImage, ObjectMissing, UploadTooLarge
from schemas.ids import original_keys
from schemas.records import ImageReceived, Purpose, Source
from stream.answers import answer_record
from stream.erase.erasures import Erasures
from stream.erase.guarded_store import GuardedStore
from stream.incoming import incoming_keys, source_keys_of
from stream.sources import SourceCopier
from stream.topics import DEAD_LETTERS, ERASURES, IMAGES_RECEIVED, RESULTS
from stream.worker import Worker
from tests.answers import recognized
from tests.records import erasure, erasure_record, image_received
from tests.unit.backends.s3_stand_in import answer as s3_answer
from tests.unit.backends.s3_stand_in import error, stand_in
from tests.unit.stream.stages import Stage, answers, dead_letters, quick_and_quiet, running, send, until

LARGEST = 10_000
OURS = "objects"
AT = 1_500  # ms: when events came


def png(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def event(
    key: str, bucket: str = OURS, purpose: Purpose = "learn", *, etag: str | None = None, **members: Any
) -> ImageReceived:
    source = Source(bucket=bucket, key=key, etag=etag)
    return image_received(uuid.uuid4(), purpose, source=source, **members)


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FileObjects]:
    objects = FileObjects(tmp_path / OURS)
    yield objects
    await objects.close()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create_topics([TopicSpec(name, 1) for name in (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS, ERASURES)])
    yield log
    await log.close()


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SqliteVectors]:
    vectors = SqliteVectors(tmp_path / "vectors.db")
    yield vectors
    await vectors.close()


@pytest.fixture
async def erasures(log: SqliteLog) -> AsyncIterator[Erasures]:
    erasures = Erasures(log)
    await erasures.start()
    yield erasures
    await erasures.close()


@pytest.fixture
def store(objects: FileObjects, vectors: SqliteVectors, erasures: Erasures) -> GuardedStore:
    return GuardedStore(objects, vectors, erasures)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_and_quiet(monkeypatch):
        yield


async def test_a_source_becomes_an_original(objects: FileObjects, store: GuardedStore) -> None:
    await objects.put("incoming/acme/cms/1.png", png())
    received = event("incoming/acme/cms/1.png", etag=hashlib.md5(png(), usedforsecurity=False).hexdigest())
    described, stored = await SourceCopier(objects, store, [], LARGEST).read_original(received, AT)
    assert (described.media_type, described.sha256, described.filename) == (
        "image/png",
        hashlib.sha256(png()).hexdigest(),
        "1.png",
    )
    original = await objects.get(received.object_key)
    assert original.data == stored.data == png()
    assert original.metadata["directory"] == "acme"
    assert float(original.metadata["received"]) == AT / 1000
    assert await source_keys_of(original_keys(received.image_id), objects) == ["incoming/acme/cms/1.png"]


async def test_the_first_copy_is_kept_when_the_source_changes_or_is_deleted(
    objects: FileObjects, store: GuardedStore
) -> None:
    sources = SourceCopier(objects, store, [], LARGEST)
    received = event("incoming/acme/1.png")
    await objects.put("incoming/acme/1.png", png())
    first, _ = await sources.read_original(received, AT)
    await objects.put("incoming/acme/1.png", png(255))
    assert await sources.read_original(received, AT) == (first, await objects.get(received.object_key))
    await objects.delete(["incoming/acme/1.png"])
    assert (await sources.read_original(received, AT))[1].data == png()


async def test_a_copy_made_before_a_crash_is_deleted_if_it_was_erased_since(
    objects: FileObjects, store: GuardedStore, log: SqliteLog
) -> None:
    """The worker that finds the copy does not know of the erasure yet."""
    sources = SourceCopier(objects, store, [], LARGEST)
    received = event("incoming/acme/1.png")
    await objects.put("incoming/acme/1.png", png())
    await sources.read_original(received, AT)
    await objects.delete(["incoming/acme/1.png"])
    await log.append([erasure_record(image_erasure_key(received.image_id))])
    with pytest.raises(Erased):
        await sources.read_original(received, AT)
    assert await objects.metadata(received.object_key) is None


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        (OURS, "incoming/other/1.png"),
        (OURS, "incoming/acme"),
        (OURS, "incoming/acme/"),
        (OURS, "incoming/acme-2/1.png"),
        (OURS, f"originals/{uuid.UUID(int=1)}"),
        (OURS, "../objects/incoming/acme/1.png"),
        ("unnamed", "incoming/acme/1.png"),
        ("unnamed", "1.png"),
    ],
)
async def test_forbidden_sources_are_refused(objects: FileObjects, store: GuardedStore, bucket: str, key: str) -> None:
    """They are refused even if the setting names our own bucket."""
    await objects.put(key, png())
    received = event(key, bucket)
    with pytest.raises(ForbiddenSource, match="in our bucket only" if bucket == OURS else "FACESTREAM_SOURCES"):
        await SourceCopier(objects, store, [OURS, "others"], LARGEST).read_original(received, AT)
    with pytest.raises(ForbiddenSource):
        await SourceCopier(objects, store, [], LARGEST).read_original(event(key, bucket, "detect", directory=None), AT)
    assert await objects.metadata(received.object_key) is None


async def test_invalid_and_missing_sources_are_refused(objects: FileObjects, store: GuardedStore) -> None:
    sources = SourceCopier(objects, store, [], LARGEST)
    await objects.put("incoming/acme/text", b"text")
    await objects.put("incoming/acme/large", png() + b"\0" * LARGEST)
    for key, error_ in (("text", NotAnImage), ("large", UploadTooLarge), ("none", ObjectMissing)):
        received = event(f"incoming/acme/{key}")
        with pytest.raises(error_):
            await sources.read_original(received, AT)
        assert await objects.metadata(received.object_key) is None
    await objects.put("incoming/acme/changed", png())
    with pytest.raises(ObjectMissing, match="changed"):
        await sources.read_original(event("incoming/acme/changed", etag="0" * 32), AT)


async def test_an_erasure_deletes_the_source_but_never_one_of_another_directory(
    objects: FileObjects, store: GuardedStore, erasures: Erasures
) -> None:
    keys = ["incoming/acme/1.png", "incoming/other/1.png"]
    for key in keys:
        await objects.put(key, png())
    for key in keys:
        received = event(key)
        erasures.add(image_erasure_key(received.image_id), erasure())
        with pytest.raises(Erased):
            await store.drop_if_erased(received)
    assert [it.key async for it in objects.list()] == ["incoming/other/1.png"]


async def test_objects_that_other_systems_put_for_a_person_or_a_directory_are_found(objects: FileObjects) -> None:
    decomposed = unicodedata.normalize("NFD", "Zoë")
    of_person = ["incoming/acme/learn/Zoë/1.png", f"incoming/acme/learn/{decomposed}/deep/er/2.png"]
    of_others = ["incoming/acme/learn/Zoë 2/1.png", "incoming/acme/recognize/3.png"]
    for key in (*of_person, *of_others, "incoming/acme-2/learn/Zoë/1.png"):
        await objects.put(key, png())
    assert sorted(await incoming_keys("acme", "Zoë", objects)) == sorted(of_person)
    assert sorted(await incoming_keys("acme", None, objects)) == sorted(of_person + of_others)


class Copying(Stage):
    """Copies the sources of events, and answers."""

    def __init__(self, sources: SourceCopier) -> None:
        super().__init__()
        self.sources = sources

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        received = [ImageReceived.decode(record.value) for record in records]
        for it in received:
            if it.source is not None:
                await self.sources.read_original(it, AT)
        return [answer_record(it, 200, recognized(image_id=it.image_id)) for it in received]


@pytest.mark.usefixtures("quick")
async def test_a_source_that_stays_unavailable_becomes_a_dead_letter_and_others_continue(
    log: SqliteLog, vectors: SqliteVectors, erasures: Erasures
) -> None:
    def answering(method: str, path: str) -> bytes:
        return s3_answer(200, b"<VersioningConfiguration/>") if path.startswith("/ours") else error(503, "SlowDown")

    with stand_in(answering) as port:
        objects = S3Objects(f"s3://ann:a-secret@127.0.0.1:{port}/ours")
        store = GuardedStore(objects, vectors, erasures)
        stage = Copying(SourceCopier(objects, store, ["theirs"], LARGEST))
        stage.check_stores = objects.ping  # type: ignore[method-assign]  # as the stages that detect do
        worker = Worker(log, stage, [IMAGES_RECEIVED], member="one", max_in_flight=4, give_up_after_s=3.0)
        away, forbidden = event("1.png", "theirs"), event("1.png", "elsewhere")
        for it in (away, forbidden):
            await log.append([NewRecord(IMAGES_RECEIVED, it.image_id, it.encode())])
        async with running(worker):
            for number in range(20):  # more than it does at a time
                await send(log, str(number))
            await until(lambda: _count(log, 21))
            assert [it.failure.code for it in await dead_letters(log)] == ["forbidden_source"]
            await until(lambda: _count(log, 22))
        await objects.close()
    given_up = {it.image_id: it for it in await answers(log) if it.status != 200}
    assert {it: answer_.status for it, answer_ in given_up.items()} == {away.image_id: 503, forbidden.image_id: 403}
    first, last = await dead_letters(log)
    assert (first.failure.code, first.image_id) == ("forbidden_source", forbidden.image_id)
    assert (last.failure.code, last.image_id, last.failure.attempts > 1) == ("unavailable", away.image_id, True)


async def _count(log: SqliteLog, least: int) -> bool:
    return len(await answers(log)) >= least
