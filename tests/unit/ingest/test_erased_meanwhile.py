"""A processor that stores the crop of somebody who is erased elsewhere at that moment takes it back itself: nobody else
will.
"""

import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from backends.files.objects import FileObjects
from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from facestream.runtime.system_state import SystemState
from processors.decoding.pool import DecodePool
from processors.stages.base import FaceToLearn, OpenImage, StageResources
from processors.stages.fused import FusedStage
from schemas.erasures import erased_person
from schemas.errors import Erased
from schemas.faces import Crop, Detection
from schemas.ids import crop_key, face_id_learned
from schemas.records import Erasure, ImageReceived, Source
from stream.erase.guarded_store import GuardedStore
from stream.sources import Sources
from stream.topics import ERASURES
from weights.manifest import manifest

IMAGE_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "portrait"))
FACE_ID = face_id_learned(IMAGE_ID)
RECEIVED_AT = 1_000
PNG = b"\x89PNG\r\n\x1a\n"


class Objects(FileObjects):
    """Where somebody, in another process, is erased while an object is on its way."""

    log: SqliteLog
    at: int

    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        value = Erasure(at=self.at, partition=0, offset=7).encode()
        await self.log.append([NewRecord(ERASURES, erased_person("acme", "obama"), value)])
        return await super().put(key, data, metadata, if_absent=if_absent)


@pytest.fixture
async def objects(tmp_path: Path, log: SqliteLog) -> AsyncIterator[Objects]:
    store = Objects(tmp_path / "objects")
    store.log = log
    yield store
    await store.close()


def processor(objects: Objects, state: SystemState) -> FusedStage:
    """One that is asked for nothing but to store."""
    unused = cast(Any, None)
    store = GuardedStore(objects, unused, state.erasures)
    sources = Sources(objects, store, [], 1_000)
    decoders = DecodePool(workers=1)  # not started: nothing is decoded
    return FusedStage(StageResources(objects, store, decoders, unused, unused, unused, sources), unused)


def portrait() -> tuple[OpenImage, FaceToLearn]:
    received = ImageReceived(
        image_id=IMAGE_ID, purpose="learn", directory="acme", person="obama", media_type="image/png", sha256="0" * 64
    )
    landmarks = [(1.0, 1.0)] * 5
    found = Detection(face_id=FACE_ID, box=[0, 0, 9, 9], landmarks=landmarks, score=1, detection_score=1)
    crop = Crop(object_key=crop_key(FACE_ID), landmarks=landmarks)
    image = OpenImage(
        received, RECEIVED_AT, b"", cast(Any, np.empty(0)), 0.0, manifest().generation(manifest().default_generation)
    )
    return image, FaceToLearn(found, FACE_ID, "source", crop, b"jpeg", {})


@pytest.mark.parametrize(("at", "erased"), [(RECEIVED_AT, True), (RECEIVED_AT - 1, False)])
async def test_a_crop_that_is_stored_while_its_person_is_erased_goes_again(
    objects: Objects, state: SystemState, at: int, erased: bool
) -> None:
    objects.at = at
    storing = processor(objects, state)._store_crop(*portrait())
    if erased:
        with pytest.raises(Erased):
            await storing
    else:
        await storing
    assert [it.key async for it in objects.list()] == ([] if erased else [crop_key(FACE_ID)])


@pytest.mark.parametrize(("at", "erased"), [(RECEIVED_AT, True), (RECEIVED_AT - 1, False)])
async def test_a_source_that_is_copied_while_its_person_is_erased_goes_again(
    objects: Objects, state: SystemState, at: int, erased: bool
) -> None:
    name = "incoming/acme/1.png"
    await FileObjects.put(objects, name, PNG)
    source = Source(bucket="objects", key=name)
    received = ImageReceived(image_id=IMAGE_ID, purpose="learn", directory="acme", person="obama", source=source)
    objects.at = at
    copying = processor(objects, state)._original(received, RECEIVED_AT)
    if erased:
        with pytest.raises(Erased):
            await copying
    else:
        await copying
    assert {it.key async for it in objects.list()} == (set() if erased else {name, received.object_key})
