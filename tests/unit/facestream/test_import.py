"""`facestream import`: it writes pictures with their metadata, vectors and the changelog, but no data of an erased
person.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import structlog

from facestream.admin.gallery_file import ExportedFace, FaceWithPictures, GalleryHead, GalleryWriter
from facestream.cli import main
from facestream.config import Settings
from facestream.runtime.stores import Stores, create_stores, open_stores
from schemas.arrays import Float32Array
from schemas.erasures import PersonErasure
from schemas.faces import encode_vector
from schemas.ids import crop_key, learned_face_id, original_key
from schemas.object_metadata import ObjectMetadata
from schemas.records import FaceLearned, FacesReembedded
from stream.topics import FACES_EMBEDDED, FACES_LEARNED
from tests.records import erasure_record, image_id
from tests.unit.stream.stages import read_all
from weights.manifest import manifest

GENERATION = manifest().default_generation
IMAGE_ID = image_id("image")
FACE_ID = learned_face_id(IMAGE_ID)
DIMENSION = 128
FOR_EVER = 4_000_000_000_000  # ms


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    structlog.reset_defaults()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return export(tmp_path, np.ones(DIMENSION, np.float32))


def export(folder: Path, vector: Float32Array) -> Path:
    """A file with one face."""
    face = ExportedFace(
        person="obama",
        face_id=FACE_ID,
        image_id=IMAGE_ID,
        source="source",
        detector="centerface",
        landmarks=[(1.0, 1.0)] * 5,
        vectors={GENERATION: encode_vector(vector)},
    )
    path = folder / "gallery.tar"
    with GalleryWriter(path, GalleryHead(directory="acme", generations=[GENERATION], faces=1)) as writer:
        writer.add(FaceWithPictures(face=face, crop=b"crop", original=b"original"))
    return path


@asynccontextmanager
async def opened(data: Path) -> AsyncIterator[Stores]:
    async with open_stores(Settings(data=data)) as stores:
        await create_stores(stores)
        yield stores


async def imported(file: Path, data: Path) -> int:
    return await asyncio.to_thread(main, ["import", str(file), "--data", str(data)])


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
        of_original = ObjectMetadata("acme", "obama", received_at=learned.learned_at)
        assert ObjectMetadata.decode(original.metadata) == of_original
        assert ObjectMetadata.decode(crop.metadata) == ObjectMetadata(
            "acme", "obama", image_id=IMAGE_ID, received_at=learned.learned_at
        )


async def test_a_person_erased_during_the_import_is_not_imported(
    file: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(data) as stores:
        (key,) = PersonErasure("acme", "obama").keys
        await stores.log.append([erasure_record(key, at=FOR_EVER)])
        assert await imported(file, data) == 1
        assert "erased" in capsys.readouterr().err
        assert [it.key async for it in stores.objects.list()] == []
        assert await read_all(stores.log, FACES_LEARNED.name) == await read_all(stores.log, FACES_EMBEDDED) == []


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
async def test_a_vector_without_a_length_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], number: float
) -> None:
    file = export(tmp_path, np.full(DIMENSION, number, np.float32))
    async with opened(data) as stores:
        assert await imported(file, data) == 2
        assert f"its vector of '{GENERATION}' is not 128 numbers" in capsys.readouterr().err
        assert await read_all(stores.log, FACES_LEARNED.name) == await read_all(stores.log, FACES_EMBEDDED) == []
