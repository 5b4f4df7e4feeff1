"""Detect and embed as two stages give the same results as the fused stage, with the real networks and real faces."""

import hashlib
import io
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from backends.files.objects import FileObjects
from backends.log import NewRecord, Record
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from facestream.runtime.system_state import SystemState
from processors.decoding.pool import DecodePool
from processors.detectors import Detectors
from processors.embed import CropThreads
from processors.embedders import Embedders
from processors.inference import Inference, Networks
from processors.networks import Detector, Embedder, TorchEmbedder
from processors.stages.base import SMALLEST_EMBEDDED, StageResources
from processors.stages.fused import FusedStage
from processors.stages.redetect import Redetector
from processors.stages.reembed import ReembedStage
from processors.stages.separate import DetectStage, EmbedStage
from schemas.erasures import directory_erasure_key, image_erasure_key, person_erasure_key
from schemas.errors import Erased, ObjectMissing
from schemas.faces import EmbeddedFace, decode_vector
from schemas.generation_records import Generation
from schemas.ids import sheet_key
from schemas.records import Answer, FacesDetected, FacesEmbedded, FacesReembedded, ImageReceived, Purpose
from sink.answers import AnswerStage
from stream.answers import answer_record
from stream.erase.erasures import position_of
from stream.erase.guarded_store import GuardedStore
from stream.generations import generation_record
from stream.sources import SourceCopier
from stream.topics import FACES_DETECTED, FACES_EMBEDDED, FACES_LEARNED, IMAGES_RECEIVED, RESULTS
from tests.answers import learned as learned_body
from tests.answers import recognized
from tests.records import appended, erasure, erasure_record, face_learned, image_received
from weights.manifest import manifest

ACTIVE, CANDIDATE = "dlib-resnet29-mirror", "dlib-resnet29"
REDETECTED = "redetected"  # of another detector


@dataclass(frozen=True, slots=True)
class Stages:
    objects: FileObjects
    fused: FusedStage
    detect: DetectStage
    embed: EmbedStage
    inference: Inference
    crop_threads: CropThreads
    decoders: DecodePool

    async def announce(self, photo: bytes, purpose: Purpose) -> Record:
        """The record of a photo that lies in the object store."""
        received = image_received(uuid.uuid4(), purpose, sha256=hashlib.sha256(photo).hexdigest())
        await self.objects.put(received.object_key, photo, {"directory": "acme"})
        return appended(NewRecord(IMAGES_RECEIVED, received.image_id, received.encode()))

    async def both(self, photo: bytes, purpose: Purpose) -> tuple[FacesEmbedded, FacesDetected, FacesEmbedded]:
        """The output of the fused stage, of the detect stage, and of the embed stage after it."""
        record = await self.announce(photo, purpose)
        (fused,) = await self.fused.handle([record])
        (detected,) = await self.detect.handle([record])
        (embedded,) = await self.embed.handle([appended(detected)])
        assert (detected.topic, detected.key, detected.partition_key) == (FACES_DETECTED, record.key, None)
        assert (fused.topic, fused.key, fused.partition_key) == (FACES_EMBEDDED, record.key, "acme")
        assert (embedded.topic, embedded.key, embedded.partition_key) == (fused.topic, fused.key, fused.partition_key)
        return (
            FacesEmbedded.decode(fused.value),
            FacesDetected.decode(detected.value),
            FacesEmbedded.decode(embedded.value),
        )

    async def stored(self) -> set[str]:
        return {info.key async for info in self.objects.list()}


@pytest.fixture
async def stages(
    tmp_path: Path,
    log: SqliteLog,
    state: SystemState,
    centerface: nn.Module,
    embedder: TorchEmbedder,
    resnet29: nn.Module,
) -> AsyncIterator[Stages]:
    """The default generation is active, the other shipped one a candidate."""
    await log.append([generation_record(manifest().generation(CANDIDATE).model_copy(update={"state": "candidate"}))])
    await state.generations.refresh()
    networks = {
        ACTIVE: embedder,
        CANDIDATE: TorchEmbedder(resnet29, embedder.device, mirror=False),
        REDETECTED: embedder,
    }

    async def fetch(generation: Generation) -> Callable[[], Embedder]:
        return lambda: networks[generation.name]

    objects, decoders, crop_threads = FileObjects(tmp_path / "objects"), DecodePool(workers=1), CropThreads()
    inference = Inference(Networks(chunk_pixels=1_300_000, chunk_chips=32))

    def make(name: str) -> Detector:
        mirror = manifest().detector(name).mirror
        return Detector(centerface, embedder.device, torch.float32, score_threshold=0.51, mirror=mirror)

    detectors = Detectors(state.generations, inference, make)
    await decoders.start()
    vectors = SqliteVectors(tmp_path / "vectors of the stages.db")
    store = GuardedStore(objects, vectors, state.erasures)
    sources = SourceCopier(objects, store, [], 1 << 25)
    resources = StageResources(objects, store, decoders, crop_threads, inference, detectors, sources)
    embedders = Embedders(state.generations, inference, fetch)
    embed = EmbedStage(objects, store, crop_threads, inference, embedders)
    fused, detect = FusedStage(resources, embedders), DetectStage(resources)
    yield Stages(objects, fused, detect, embed, inference, crop_threads, decoders)
    await vectors.close()
    inference.close()
    crop_threads.close()
    await decoders.close()
    await objects.close()


def street(photos: Path, size: tuple[int, int], places: Sequence[tuple[str, int, int, int]]) -> bytes:
    """A grey picture with heads of two people: name, left, top, height."""
    heads = {"obama": (300, 30, 690, 480), "biden": (350, 100, 820, 640)}
    canvas = Image.new("RGB", size, (128, 128, 128))
    for name, left, top, height in places:
        with Image.open(photos / f"{name}.jpg") as picture:
            head = picture.convert("RGB").crop(heads[name])
            canvas.paste(head.resize((round(height * head.width / head.height), height)), (left, top))
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=95)
    return file.getvalue()


def geometry(face: EmbeddedFace) -> object:
    return face.model_dump(exclude={"vectors"})


def cosine(one: EmbeddedFace, other: EmbeddedFace, generation: str) -> float:
    a, b = one.vector(generation), other.vector(generation)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((900, 500), [("obama", 60, 60, 320), ("biden", 480, 60, 300), ("obama", 800, 300, 90)]),
        # The image is decoded reduced; the faces need all pixels and are cut from those.
        ((4200, 2600), [("obama", 300, 300, 180), ("biden", 2000, 1000, 200), ("obama", 3500, 2000, 170)]),
        ((4200, 2600), [("obama", 300, 300, 1500), ("biden", 2300, 300, 1600)]),
    ],
    ids=["small", "large with small faces", "large with large faces"],
)
async def test_a_photo_has_the_same_faces_and_nearly_the_same_vectors(
    stages: Stages, photos: Path, size: tuple[int, int], places: list[tuple[str, int, int, int]]
) -> None:
    fused, detected, separate = await stages.both(street(photos, size, places), "recognize")
    assert len(fused.faces) == len(places)
    assert [geometry(face) for face in separate.faces] == [geometry(face) for face in fused.faces]
    assert separate.models == fused.models
    assert separate.received == fused.received
    generation = fused.models.generation or ""
    assert min(cosine(*faces, generation) for faces in zip(fused.faces, separate.faces, strict=True)) >= 0.999
    for i, face in enumerate(separate.faces):  # each cell has its own face: no other face's vector is as near
        assert i == np.argmax([cosine(face, other, generation) for other in fused.faces])
    assert detected.sheet_key == f"{fused.received.object_key}.crops"
    assert sorted(face.cell for face in detected.faces if face.cell is not None) == list(range(len(places)))


async def test_a_learned_face_has_the_same_vector_and_crop(stages: Stages, photos: Path) -> None:
    fused, detected, separate = await stages.both((photos / "obama.jpg").read_bytes(), "learn")
    (one,), (other,) = fused.faces, separate.faces
    assert geometry(one) == geometry(other)
    assert one.crop is not None
    assert one.source is not None
    assert cosine(one, other, fused.models.generation or "") >= 0.99999
    assert (separate.models, separate.ignored, separate.received) == (fused.models, fused.ignored, fused.received)
    assert detected.sheet_key is None
    assert await stages.stored() == {fused.received.object_key, one.crop.object_key}


async def test_a_learned_face_is_also_cut_by_the_landmarks_of_another_generations_detector(
    stages: Stages, log: SqliteLog, state: SystemState, photos: Path
) -> None:
    await announce_redetected(log, state)
    fused, detected, separate = await stages.both((photos / "obama.jpg").read_bytes(), "learn")
    (one,), (same,) = fused.faces, separate.faces
    assert set(one.vectors) == set(same.vectors) == {ACTIVE, CANDIDATE, REDETECTED}
    assert cosine(one, same, REDETECTED) >= 0.99999
    a, b = one.vector(ACTIVE), one.vector(REDETECTED)
    assert 0.95 < float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) < 0.99999  # cut a little differently
    assert detected.sheet_key == sheet_key(fused.received.image_id)
    assert detected.sheet_key in await stages.stored()
    assert fused.models.detector == "centerface"


async def announce_redetected(log: SqliteLog, state: SystemState) -> Generation:
    """Announces the active generation with another detector, as a candidate."""
    update = {"name": REDETECTED, "state": "candidate", "detector": "centerface-mirror"}
    generation = manifest().generation(ACTIVE).model_copy(update=update)
    await log.append([generation_record(generation)])
    await state.generations.refresh()
    return generation


@pytest.mark.parametrize("name", ["obama.jpg", "large.jpg"])
async def test_a_replay_with_another_detector_gives_the_vector_of_the_learn(
    stages: Stages, log: SqliteLog, state: SystemState, photos: Path, name: str
) -> None:
    """If that detector does not find the face, the vector is that of the stored crop."""
    generation = await announce_redetected(log, state)
    photo = (
        street(photos, (4200, 2600), [("obama", 300, 300, 180)])
        if name == "large.jpg"
        else (photos / name).read_bytes()
    )
    (fused,) = await stages.fused.handle([await stages.announce(photo, "learn")])
    live = FacesEmbedded.decode(fused.value)
    (face,) = live.faces
    opened = 0

    async def redetect() -> Redetector:
        nonlocal opened
        opened += 1
        return Redetector(generation.detector, stages.objects, stages.decoders, stages.crop_threads, stages.inference)

    replay = ReembedStage(generation, stages.objects, stages.crop_threads, [stages.inference], state.erasures, redetect)

    async def replayed(box: list[int] | None) -> NDArray[np.float32]:
        assert face.crop is not None
        value = face_learned(
            face_id=face.face_id,
            image_id=live.received.image_id,
            source=face.source,
            crop=face.crop,
            detector=live.models.detector,
            box=box,
            generations=[ACTIVE],
        )
        record = NewRecord(FACES_LEARNED.name, live.received.image_id, value.encode(), "acme")
        (output,) = await replay.handle([appended(record)])
        (again,) = FacesReembedded.decode(output.value).faces
        return decode_vector(again.vector)

    np.testing.assert_allclose(await replayed(face.box), face.vector(REDETECTED), atol=1e-5)
    assert (replay.not_found, opened) == (0, 1)
    assert np.abs(face.vector(REDETECTED) - face.vector(ACTIVE)).max() > 1e-4
    for box in ([0, 0, 20, 20], None):
        np.testing.assert_allclose(await replayed(box), face.vector(ACTIVE), atol=1e-5)
    await stages.objects.delete([live.received.object_key])
    np.testing.assert_allclose(await replayed(face.box), face.vector(ACTIVE), atol=1e-5)
    assert (replay.not_found, opened) == (3, 1)


async def test_ignored_faces_beside_a_learned_face_are_passed_on(stages: Stages, photos: Path) -> None:
    photo = street(photos, (900, 500), [("obama", 60, 60, 400), ("biden", 700, 100, 100)])
    fused, detected, separate = await stages.both(photo, "learn")
    assert len(fused.ignored) == 1
    assert detected.ignored == separate.ignored == fused.ignored


async def test_a_face_that_is_too_small_has_no_vector_and_no_cell(stages: Stages, photos: Path) -> None:
    photo = street(photos, (400, 300), [("obama", 20, 40, 200), ("biden", 330, 100, 24)])
    fused, detected, separate = await stages.both(photo, "recognize")
    small = [face.side < SMALLEST_EMBEDDED for face in fused.faces]
    assert small == [False, True]
    assert [bool(face.vectors) for face in fused.faces] == [True, False]
    assert [bool(face.vectors) for face in separate.faces] == [True, False]
    assert [face.cell for face in detected.faces] == [0, None]
    assert [geometry(face) for face in separate.faces] == [geometry(face) for face in fused.faces]


async def test_where_all_faces_are_too_small_there_is_no_sheet(stages: Stages, photos: Path) -> None:
    fused, detected, separate = await stages.both(street(photos, (300, 200), [("biden", 100, 100, 24)]), "recognize")
    assert [face.vectors for face in fused.faces] == [{}]
    assert [face.vectors for face in separate.faces] == [{}]
    assert detected.sheet_key is None
    assert await stages.stored() == {fused.received.object_key}


async def test_images_that_need_no_gallery_are_answered_at_once(stages: Stages, photos: Path) -> None:
    nobody = street(photos, (300, 200), [])
    somebody = (photos / "biden.jpg").read_bytes()
    cases: list[tuple[bytes, Purpose, int]] = [(nobody, "recognize", 0), (nobody, "detect", 0), (somebody, "detect", 1)]
    for photo, purpose, faces in cases:
        record = await stages.announce(photo, purpose)
        (fused,) = await stages.fused.handle([record])
        (separate,) = await stages.detect.handle([record])
        assert separate == fused
        assert separate.topic == RESULTS
        said = Answer.decode(separate.value)
        assert said.status == 200
        assert len(said.body.members()["persons"]) == faces
    assert not any(key.endswith(".crops") for key in await stages.stored())


async def test_if_probes_are_not_kept_the_photo_and_its_sheet_are_deleted_with_the_answer(
    stages: Stages, state: SystemState, photos: Path, tmp_path: Path
) -> None:
    probe, _, _ = await stages.both((photos / "biden.jpg").read_bytes(), "recognize")
    learned, _, _ = await stages.both((photos / "obama.jpg").read_bytes(), "learn")
    assert len(await stages.stored()) == 4
    vectors = SqliteVectors(tmp_path / "vectors.db")
    store = GuardedStore(stages.objects, vectors, state.erasures)
    keeping, forgetting = (AnswerStage(vectors, stages.objects, store, keep_probes=keep) for keep in (True, False))
    answers = [answer_record(probe.received, 200, recognized()), answer_record(learned.received, 201, learned_body())]
    fresh = [appended(it, at=4_000_000_000_000, offset=offset) for offset, it in enumerate(answers)]
    await keeping.handle(fresh)
    assert len(await stages.stored()) == 4
    await forgetting.handle(fresh)
    crop = learned.faces[0].crop
    assert crop is not None
    assert await stages.stored() == {learned.received.object_key, crop.object_key}
    await vectors.close()


async def test_a_deleted_sheet_raises_object_missing(stages: Stages, photos: Path) -> None:
    """The sheet is deleted with the answer. When the record is repeated, the embed stage sees that it is too late."""
    record = await stages.announce((photos / "biden.jpg").read_bytes(), "recognize")
    (detected,) = await stages.detect.handle([record])
    sheet = FacesDetected.decode(detected.value).sheet_key
    assert sheet is not None
    await stages.objects.delete([sheet])
    with pytest.raises(ObjectMissing):
        await stages.embed.handle([appended(detected)])
    assert stages.embed.event_of(appended(detected)) == ImageReceived.decode(record.value).model_copy(
        update={"received_at": record.timestamp, "origin": position_of(record)}
    )


async def test_a_learned_face_is_embedded_in_every_live_generation_and_a_probe_in_the_active_one(
    stages: Stages, photos: Path
) -> None:
    photo = (photos / "obama.jpg").read_bytes()
    learned, _, learned_apart = await stages.both(photo, "learn")
    probe, _, probe_apart = await stages.both(photo, "recognize")
    for (learned_face,), (probe_face,) in ((learned.faces, probe.faces), (learned_apart.faces, probe_apart.faces)):
        assert set(learned_face.vectors) == {ACTIVE, CANDIDATE}
        assert set(probe_face.vectors) == {ACTIVE}
        assert learned_face.vectors[ACTIVE] != learned_face.vectors[CANDIDATE]
        assert cosine(learned_face, probe_face, ACTIVE) > 0.99
    assert cosine(learned.faces[0], learned_apart.faces[0], CANDIDATE) >= 0.99999
    assert {it.models.generation for it in (learned, learned_apart, probe, probe_apart)} == {ACTIVE}


async def test_every_stage_drops_an_image_that_was_erased_after_it_came(
    stages: Stages, state: SystemState, photos: Path
) -> None:
    """Its objects are deleted, also a sheet that a slow stage has written after the erasure. An image that came after
    it is processed, although a clock says that it came at the same time.
    """
    cases: list[tuple[Purpose, str]] = [
        ("learn", person_erasure_key("acme", "obama")),
        ("recognize", directory_erasure_key("acme")),
    ]
    for purpose, key in cases:
        record = await stages.announce((photos / "biden.jpg").read_bytes(), purpose)
        (detected,) = await stages.detect.handle([record])
        assert len(await stages.stored()) == 2
        state.erasures.add(key, erasure(at=record.timestamp, before=record.offset + 1))
        with pytest.raises(Erased):
            await stages.embed.handle([appended(detected, offset=record.offset + 1)])
        assert await stages.stored() == set()
        for stage in (stages.fused, stages.detect):
            with pytest.raises(Erased):
                await stage.handle([record])
        later = await stages.announce((photos / "biden.jpg").read_bytes(), purpose)
        later = replace(later, offset=record.offset + 1)
        assert len(await stages.fused.handle([later])) == 1
        (detected,) = await stages.detect.handle([later])
        assert len(await stages.embed.handle([appended(detected, offset=record.offset)])) == 1
        await stages.objects.delete(list(await stages.stored()))


async def test_an_image_deleted_by_an_erasure_still_unknown_to_the_stage_is_reported_as_erased(
    stages: Stages, log: SqliteLog, photos: Path
) -> None:
    record = await stages.announce((photos / "biden.jpg").read_bytes(), "recognize")
    await stages.objects.delete(list(await stages.stored()))
    with pytest.raises(ObjectMissing):
        await stages.fused.handle([record])
    await log.append([erasure_record(image_erasure_key(record.key), before=record.offset + 1)])
    with pytest.raises(Erased):
        await stages.fused.handle([record])


async def test_an_upload_deleted_by_an_erasure_that_began_before_its_event_is_reported_as_erased(
    stages: Stages, log: SqliteLog, photos: Path
) -> None:
    """The eraser has found the picture before its event was appended."""
    record = await stages.announce((photos / "biden.jpg").read_bytes(), "recognize")
    await stages.objects.delete(list(await stages.stored()))
    await log.append([erasure_record(directory_erasure_key("another directory"), before=record.offset)])
    with pytest.raises(ObjectMissing):
        await stages.fused.handle([record])
    await log.append([erasure_record(directory_erasure_key("acme"), before=record.offset)])
    with pytest.raises(Erased):
        await stages.fused.handle([record])


async def test_an_image_whose_origin_an_older_version_did_not_note_is_older_than_any_erasure(
    stages: Stages, state: SystemState, photos: Path
) -> None:
    """The embed stage gets a record without the image's origin."""
    record = await stages.announce((photos / "biden.jpg").read_bytes(), "learn")
    (detected,) = await stages.detect.handle([record])
    event = FacesDetected.decode(detected.value)
    assert event.received.origin == position_of(record)
    older = event.model_copy(update={"received": event.received.model_copy(update={"origin": None})})
    record = appended(NewRecord(FACES_DETECTED, detected.key, older.encode()))
    assert len(await stages.embed.handle([record])) == 1
    state.erasures.add(person_erasure_key("acme", "obama"), erasure(before=0))
    with pytest.raises(Erased):
        await stages.embed.handle([record])
    assert await stages.stored() == set()
