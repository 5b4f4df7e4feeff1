"""`facestream import`: it writes pictures with their metadata, vectors and the changelog, but no data of an erased
person.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import structlog

from backends.files.objects import FileObjects
from backends.log import NewRecord
from facestream.admin.gallery_file import ExportedFace, FaceWithPictures, GalleryHead, GalleryWriter
from facestream.cli import main
from facestream.commands import import_
from facestream.config import Settings
from facestream.runtime.stores import Stores, create_stores, open_stores
from facestream.runtime.system_state import follow_state
from schemas.arrays import Float32Array
from schemas.erasures import PersonErasure, erase_command
from schemas.faces import encode_vector
from schemas.ids import crop_key, learned_face_id, original_key
from schemas.object_metadata import ObjectMetadata
from schemas.records import FaceLearned, FacesReembedded
from sink.sink import Sink
from stream.erase.cuts import make_cut
from stream.erase.erasures import Erasures
from stream.erase.guarded_store import GuardedStore
from stream.erase.leftovers import delete_leftovers
from stream.topics import ERASURES, FACES_EMBEDDED, FACES_LEARNED
from tests.records import erasure_keys, erasure_record, image_id
from tests.unit.stream.stages import read_all
from weights.manifest import manifest

GENERATION = manifest().default_generation
IMAGE_ID = image_id("image")
FACE_ID = learned_face_id(IMAGE_ID)
DIMENSION = 128
KEYS = erasure_keys("image")
FOR_EVER = 4_000_000_000_000  # ms: later than any clock says


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    structlog.reset_defaults()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return export(tmp_path, np.ones(DIMENSION, np.float32))


def export(folder: Path, vector: Float32Array, generation: str = GENERATION) -> Path:
    """A file with one face, which has a vector of this generation."""
    face = ExportedFace(
        person="obama",
        face_id=FACE_ID,
        image_id=IMAGE_ID,
        source="source",
        detector="centerface",
        landmarks=[(1.0, 1.0)] * 5,
        vectors={generation: encode_vector(vector)},
    )
    path = folder / "gallery.tar"
    with GalleryWriter(path, GalleryHead(directory="acme", generations=[generation], faces=1)) as writer:
        writer.add(FaceWithPictures(face=face, crop=b"crop", original=b"original"))
    return path


@asynccontextmanager
async def opened(data: Path) -> AsyncIterator[Stores]:
    async with open_stores(Settings(data=data)) as stores:
        await create_stores(stores)
        yield stores


async def imported(file: Path, data: Path, *arguments: str) -> int:
    return await asyncio.to_thread(main, ["import", str(file), "--data", str(data), *arguments])


async def test_a_face_is_stored_with_its_pictures_and_announced(file: Path, data: Path) -> None:
    async with opened(data) as stores:
        assert await imported(file, data) == 0
        (learned,) = [FaceLearned.decode(it.value) for it in await read_all(stores.log, FACES_LEARNED.name)]
        (embedded,) = [FacesReembedded.decode(it.value) for it in await read_all(stores.log, FACES_EMBEDDED)]
        assert (learned.directory, learned.person, learned.face_id) == ("acme", "obama", FACE_ID)
        assert [it.face_id for it in embedded.faces] == [FACE_ID]
        crop = await stores.objects.get(crop_key(FACE_ID))
        original = await stores.objects.get(original_key(IMAGE_ID, "learn"))
        assert (crop.data, original.data) == (b"crop", b"original")
        seen = (await stores.log.end_offsets(ERASURES))[0]
        of_original = ObjectMetadata("acme", "obama", received_at=learned.learned_at, erasures_seen=seen)
        assert ObjectMetadata.decode(original.metadata) == of_original
        assert ObjectMetadata.decode(crop.metadata) == replace(of_original, image_id=IMAGE_ID)


async def erase(stores: Stores, what: str, at: int) -> None:
    """at: the version up to which rows are erased."""
    erasures = Erasures(stores.log)
    await erasures.start()
    await erasures.close()
    await stores.log.append([erasure_record(KEYS[what], at=at, log=erasures.log_id)])


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize("prefix", ["originals/", "crops/"])
async def test_what_is_erased_during_the_import_is_not_imported(
    file: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    prefix: str,
) -> None:
    """It is erased while one of the pictures is being stored."""
    put = FileObjects.put

    async def put_while_it_is_erased(
        objects: FileObjects, key: str, content: bytes, metadata: Mapping[str, str] | None = None, **how: bool
    ) -> bool:
        if key.startswith(prefix):
            async with opened(data) as stores:
                await erase(stores, what, at=FOR_EVER)
        return await put(objects, key, content, metadata, **how)

    monkeypatch.setattr(FileObjects, "put", put_while_it_is_erased)
    async with opened(data) as stores:
        assert await imported(file, data) == 1
        assert "erased" in capsys.readouterr().err
        assert [it.key async for it in stores.objects.list()] == []
        assert await read_all(stores.log, FACES_LEARNED.name) == await read_all(stores.log, FACES_EMBEDDED) == []


@pytest.mark.parametrize("what", KEYS)
async def test_what_was_erased_before_is_imported_again(file: Path, data: Path, what: str) -> None:
    """Its rows are newer than those that were erased, even if the clock was set back since then."""
    async with opened(data) as stores:
        await erase(stores, what, at=FOR_EVER)
        assert await imported(file, data) == 0
        (learned,) = [FaceLearned.decode(it.value) for it in await read_all(stores.log, FACES_LEARNED.name)]
        (embedded,) = [FacesReembedded.decode(it.value) for it in await read_all(stores.log, FACES_EMBEDDED)]
        assert learned.learned_at == FOR_EVER + 1
        assert [it.learned_at for it in embedded.faces] == [FOR_EVER + 1]
        assert {it.key async for it in stores.objects.list()} == {crop_key(FACE_ID), original_key(IMAGE_ID, "learn")}


async def test_a_person_imported_by_a_computer_whose_clock_is_ahead_is_erased_by_a_later_command(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export(tmp_path, np.ones(DIMENSION, np.float32), GENERATION)
    monkeypatch.setattr(import_, "time", SimpleNamespace(time=lambda: time.time() + 3_600))
    async with opened(data) as stores, follow_state(stores.log) as state:
        assert await imported(file, data) == 0
        cut = await make_cut(stores.log)
        command = erase_command(PersonErasure("acme", "obama"), image_id("command"), cut, None)
        await stores.log.append([NewRecord(FACES_EMBEDDED, command.image_id, command.encode(), "acme")])
        store = GuardedStore(stores.objects, stores.vectors, state.erasures)
        sink = Sink(stores.log, stores.objects, stores.vectors, store, state.generations, state.erasures, 1 << 20)
        for record in await read_all(stores.log, FACES_EMBEDDED):
            await sink.handle([record])
        await delete_leftovers(stores.log, stores.objects, state.erasures)
        assert (await read_all(stores.log, FACES_LEARNED.name))[-1].value is None
        assert await stores.vectors.faces("acme", GENERATION, "obama") == []
        assert [it.key async for it in stores.objects.list()] == []


async def test_what_another_directory_has_erased_has_no_effect(file: Path, data: Path) -> None:
    async with opened(data) as stores:
        await erase(stores, "directory", at=FOR_EVER)
        begun = int(time.time() * 1000)
        assert await imported(file, data, "--directory", "other") == 0
        (learned,) = [FaceLearned.decode(it.value) for it in await read_all(stores.log, FACES_LEARNED.name)]
        assert learned.directory == "other"
        assert begun <= learned.learned_at <= time.time() * 1000


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
async def test_a_vector_without_a_length_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], number: float
) -> None:
    file = export(tmp_path, np.full(DIMENSION, number, np.float32))
    async with opened(data) as stores:
        assert await imported(file, data) == 2
        assert f"its vector of '{GENERATION}' is not 128 numbers" in capsys.readouterr().err
        assert await read_all(stores.log, FACES_LEARNED.name) == await read_all(stores.log, FACES_EMBEDDED) == []
