"""If a person is erased by another process while a processor stores a crop of that person, the processor deletes the
crop.
"""

import hashlib
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from backends.files.objects import FileObjects
from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from facestream.runtime.system_state import SystemState
from processors.boxes import Detections
from processors.decoding.pool import DecodePool
from processors.detectors import Detectors
from processors.embed import CropThreads
from processors.embedders import Embedders
from processors.inference import Inference, Networks
from processors.networks import Chips, Detector, Embedder
from processors.stages.base import StageResources
from processors.stages.fused import FusedStage
from schemas.erasures import person_erasure_key
from schemas.errors import Erased
from schemas.generation_records import Generation
from schemas.ids import crop_key, learned_face_id
from schemas.records import ImageReceived, Source
from stream.erase.guarded_store import GuardedStore
from stream.sources import SourceCopier
from stream.topics import IMAGES_RECEIVED
from tests.records import appended, erasure_record, image_id, image_received
from weights.manifest import manifest

IMAGE_ID = image_id("portrait")
CROP_KEY = crop_key(learned_face_id(IMAGE_ID))
OFFSET = 5  # of the image's first record
DIMENSION = manifest().generation(manifest().default_generation).dimension


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (256, 256), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()


PNG = png()


class Objects(FileObjects):
    """A store during whose puts a person is erased by another process."""

    log: SqliteLog
    before: int

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.put_keys: list[str] = []

    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        self.put_keys.append(key)
        await self.log.append([erasure_record(person_erasure_key("acme", "obama"), before=self.before)])
        return await super().put(key, data, metadata, if_absent=if_absent)


class OneFace(Detector):
    """Finds a face in the middle of every picture."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), torch.device("cpu"), torch.float32, score_threshold=0.5)

    def detect(self, batch: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        return [self.in_the_middle(*picture.shape[:2]) for picture in batch]

    def in_the_middle(self, height: int, width: int) -> Detections:
        sides = np.array([width, height], np.float32)
        landmarks = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]], np.float32)
        box = np.concatenate([sides * 0.25, sides * 0.75])
        return Detections(box[None], np.ones(1, np.float32), (landmarks * sides)[None])


class NoVectors:
    """An embedder without a network."""

    def embed(self, chips: Chips) -> NDArray[np.float32]:
        return np.zeros((len(chips), DIMENSION), np.float32)


@pytest.fixture
async def objects(tmp_path: Path, log: SqliteLog) -> AsyncIterator[Objects]:
    store = Objects(tmp_path / "objects")
    store.log = log
    yield store
    await store.close()


@pytest.fixture
async def processor(objects: Objects, state: SystemState) -> AsyncIterator[FusedStage]:
    async def fetch(generation: Generation) -> Callable[[], Embedder]:
        return NoVectors

    async with AsyncExitStack() as stack:
        decoders = await stack.enter_async_context(DecodePool(workers=1))
        crop_threads, inference = CropThreads(), Inference(Networks(chunk_pixels=1_000_000, chunk_chips=1))
        stack.callback(crop_threads.close)
        stack.callback(inference.close)
        store = GuardedStore(objects, cast(Any, None), state.erasures)  # without vectors: a processor stores none
        sources = SourceCopier(objects, store, [], 1_000_000)
        detectors = Detectors(state.generations, inference, lambda name: OneFace())
        resources = StageResources(objects, store, decoders, crop_threads, inference, detectors, sources)
        yield FusedStage(resources, Embedders(state.generations, inference, fetch))


async def handled(processor: FusedStage, received: ImageReceived, *, erased: bool) -> None:
    record = NewRecord(IMAGES_RECEIVED, IMAGE_ID, received.encode())
    handling = processor.handle([appended(record, offset=OFFSET)])
    if erased:
        with pytest.raises(Erased):
            await handling
    else:
        await handling


@pytest.mark.parametrize(("before", "erased"), [(OFFSET + 1, True), (OFFSET, False)])
async def test_a_crop_stored_while_its_person_is_erased_is_deleted(
    objects: Objects, processor: FusedStage, before: int, erased: bool
) -> None:
    received = image_received("portrait", "learn", sha256=hashlib.sha256(PNG).hexdigest())
    await FileObjects.put(objects, received.object_key, PNG)
    objects.before = before
    await handled(processor, received, erased=erased)
    assert objects.put_keys == [CROP_KEY]
    assert {it.key async for it in objects.list()} == (set() if erased else {received.object_key, CROP_KEY})


@pytest.mark.parametrize(("before", "erased"), [(OFFSET + 1, True), (OFFSET, False)])
async def test_the_copy_of_a_source_made_while_its_person_is_erased_is_deleted(
    objects: Objects, processor: FusedStage, before: int, erased: bool
) -> None:
    name = "incoming/acme/1.png"
    await FileObjects.put(objects, name, PNG)
    received = image_received("portrait", "learn", source=Source(bucket="objects", key=name))
    objects.before = before
    await handled(processor, received, erased=erased)
    assert objects.put_keys == [received.object_key] + ([] if erased else [CROP_KEY])
    kept = {name, received.object_key, CROP_KEY}
    assert {it.key async for it in objects.list()} == (set() if erased else kept)
