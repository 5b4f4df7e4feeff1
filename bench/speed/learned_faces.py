"""Makes many learned faces from LFW by moving and flipping, and writes the data that learning them would write."""

import asyncio
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backends.log import CommittedOffset, NewRecord, TopicPartition
from backends.vectors import Face, FaceVector
from bench.accuracy import lfw
from facestream.progress import progress_bar
from facestream.runtime.stores import Stores
from processors import embed
from processors.align import chip_of_crop
from processors.networks import TorchEmbedder
from schemas.faces import Crop
from schemas.ids import crop_key, learned_face_id
from schemas.object_metadata import ObjectMetadata
from schemas.records import FaceLearned, ImageReceived
from stream.topics import FACES_LEARNED, GROUPS, IMAGES_RECEIVED
from weights.manifest import manifest

OLD = manifest().default_generation
DIRECTORIES = 8
FACES_PER_STEP = 64


@dataclass
class LearnedFace:
    """A face to be written. landmarks: in pixels of the crop, which is `jpeg`."""

    person: str
    directory: str
    image_id: str
    jpeg: bytes
    landmarks: list[tuple[float, float]]


def cut_faces(photos: Path, faces: lfw.LfwFaces, count: int) -> Iterator[LearnedFace]:
    """Cuts `count` faces. Each pass through LFW moves and flips the faces differently, and assigns them to new
    people.
    """
    chance = np.random.default_rng(0)
    rows = np.flatnonzero(faces.found)
    for number in range(count):
        turn, row = divmod(number, len(rows))
        path = faces.paths[rows[row]]
        with Image.open(photos / "lfw" / path) as file:
            pixels = np.asarray(file.convert("RGB"))
        landmarks = faces.landmarks[rows[row]] + chance.normal(0, 0.4, (5, 2)).astype(np.float32)
        if turn % 2:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
            landmarks[:, 0] = pixels.shape[1] - 1 - landmarks[:, 0]
            landmarks = landmarks[[1, 0, 2, 4, 3]]
        cut = embed.cut_face(pixels, landmarks)
        person = f"{path.split('/')[0]} {turn}"
        yield LearnedFace(
            person,
            f"lfw-{turn % DIRECTORIES}",
            str(uuid.uuid4()),
            embed.encode_crop(cut.pixels),
            [(round(float(x), 2), round(float(y), 2)) for x, y in cut.landmarks],
        )


def embed_faces(faces: Sequence[LearnedFace], embedder: TorchEmbedder) -> NDArray[np.float32]:
    """The vectors, (n, D), in a bare loop: decode, cut, embed, one batch after the other."""
    vectors = []
    for begin in range(0, len(faces), FACES_PER_STEP):
        chips = [chip_of_crop(embed.decode_crop(face.jpeg)) for face in faces[begin : begin + FACES_PER_STEP]]
        vectors.append(embedder.embed(chips))
    return np.concatenate(vectors)


def bare_rate(faces: Sequence[LearnedFace], embedder: TorchEmbedder) -> float:
    """Faces a second of the bare loop."""
    began = time.monotonic()
    embed_faces(faces, embedder)
    return len(faces) / (time.monotonic() - began)


async def write_learned(stores: Stores, faces: Sequence[LearnedFace], vectors: NDArray[np.float32]) -> None:
    """Writes crop, vector and changelog of each face, as a learn does."""
    now = int(time.time() * 1000)
    with progress_bar("learned", len(faces)) as tell:
        for begin in range(0, len(faces), FACES_PER_STEP):
            part = faces[begin : begin + FACES_PER_STEP]
            ids = [learned_face_id(it.image_id) for it in part]
            await asyncio.gather(
                *(
                    stores.objects.put(crop_key(id_), it.jpeg, _metadata(it, now))
                    for id_, it in zip(ids, part, strict=True)
                )
            )
            rows = [
                FaceVector(it.directory, OLD, Face(it.person, id_, it.image_id, it.image_id, now), vectors[begin + i])
                for i, (id_, it) in enumerate(zip(ids, part, strict=True))
            ]
            await stores.vectors.put_faces(rows)
            await stores.log.append([_changelog(it, id_, now) for id_, it in zip(ids, part, strict=True)])
            tell(len(part))


def _metadata(face: LearnedFace, now: int) -> dict[str, str]:
    return ObjectMetadata(face.directory, face.person, image_id=face.image_id, received_at=now).encode()


def _changelog(face: LearnedFace, face_id: str, now: int) -> NewRecord:
    value = FaceLearned(
        directory=face.directory,
        person=face.person,
        face_id=face_id,
        image_id=face.image_id,
        source=face.image_id,
        crop=Crop(object_key=crop_key(face_id), landmarks=face.landmarks),
        detector="centerface",
        learned_at=now,
        generations=[OLD],
    )
    return NewRecord(FACES_LEARNED.name, face.image_id, value.encode(), face.directory)


async def write_recognized(stores: Stores, count: int) -> None:
    """Appends images as if they had been recognized, and commits the offsets after them."""
    with progress_bar("recognized", count) as tell:
        for begin in range(0, count, 1_000):
            batch = []
            for _ in range(min(1_000, count - begin)):
                received = ImageReceived(
                    image_id=str(uuid.uuid4()),
                    purpose="recognize",
                    directory="lfw-0",
                    media_type="image/jpeg",
                    sha256="0" * 64,
                )
                batch.append(NewRecord(IMAGES_RECEIVED, received.image_id, received.encode()))
            await stores.log.append(batch)
            tell(len(batch))
    consumer = await stores.log.consumer("processors", GROUPS["processors"], member="bench")
    ends = await stores.log.end_offsets(IMAGES_RECEIVED)
    while len(consumer.assignment) < sum([await stores.log.partitions(topic) for topic in GROUPS["processors"]]):
        await consumer.poll(1, 1.0, paused=list(consumer.assignment))
    await consumer.commit(
        {TopicPartition(IMAGES_RECEIVED, partition): CommittedOffset(end) for partition, end in ends.items()}
    )
    await consumer.close()
