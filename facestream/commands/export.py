"""`facestream export`: writes a directory into one file."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from backends.log import Record, partition_of
from facestream.admin.gallery_file import ExportedFace, FaceWithPictures, GalleryHead, GalleryWriter
from facestream.flags import STORES, add_directory, add_settings, argument_type, parse_path, settings_from
from facestream.interrupt import run_interruptibly
from facestream.progress import progress_bar
from facestream.runtime.stores import Stores, open_stores
from facestream.runtime.system_state import SystemState, follow_state
from facestream.terminal import log_warnings_only
from schemas.errors import NotFound, ObjectMissing, UnreadableRecord
from schemas.faces import encode_vector
from schemas.ids import original_key
from schemas.records import FaceLearned
from stream.topic_reading import offset_ranges, read_ranges
from stream.topics import FACES_LEARNED

DESCRIPTION = """\
Write a directory into one file: people, portraits, crops, and the vectors of every generation in use.
`facestream import` reads the file, here or in another installation. It contains pictures of people: store it as
safely as those.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("export", help="write a directory into a file", description=DESCRIPTION)
    parser.add_argument(
        "file", metavar="FILE.tar", type=argument_type("FILE.tar", parse_path), help="the file to write"
    )
    add_directory(parser, "the directory to write")
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    directory = arguments.directory
    async with open_stores(settings_from(arguments)) as stores, follow_state(stores.log) as state:
        learned = await _read_learned_faces(stores, directory)
        if not learned:
            raise NotFound(f"directory '{directory}' has no faces")
        vectors = await _read_vectors(stores, state, directory)
        head = GalleryHead(directory=directory, generations=sorted(vectors), faces=len(learned))
        erased = 0
        with GalleryWriter(arguments.file, head) as file, progress_bar("exported", len(learned)) as advance:
            for face in learned.values():
                try:
                    crop = (await stores.objects.get(face.crop.object_key)).data
                except ObjectMissing:  # it was just erased
                    erased += 1
                    continue
                exported = ExportedFace(
                    person=face.person,
                    face_id=face.face_id,
                    image_id=face.image_id,
                    source=face.source,
                    detector=face.detector,
                    box=face.box,
                    landmarks=face.crop.landmarks,
                    vectors={name: of_one[face.face_id] for name, of_one in vectors.items() if face.face_id in of_one},
                )
                original = await _read_original(stores, face.image_id)
                await asyncio.to_thread(file.add, FaceWithPictures(face=exported, crop=crop, original=original))
                advance(1)
    print(f"{len(learned) - erased} faces of '{directory}' are in {arguments.file}", file=sys.stderr)
    return 0


async def _read_learned_faces(stores: Stores, directory: str) -> dict[str, FaceLearned]:
    """The faces of a directory in the changelog, by record key."""
    faces: dict[str, FaceLearned] = {}

    def take(records: Sequence[Record]) -> None:
        for record in records:
            faces.pop(record.key, None)
            if record.value is not None:
                try:
                    face = FaceLearned.decode(record.value)
                except UnreadableRecord:
                    continue
                if face.directory == directory:
                    faces[record.key] = face

    partition = partition_of(directory, await stores.log.partitions(FACES_LEARNED.name))
    topic = FACES_LEARNED.name
    await read_ranges(stores.log, topic, await offset_ranges(stores.log, topic, [partition]), take)
    return faces


async def _read_vectors(stores: Stores, state: SystemState, directory: str) -> dict[str, dict[str, str]]:
    """Base64 vectors by generation and face_id."""
    found: dict[str, dict[str, str]] = {}
    for generation in state.generations.live:
        of_one: dict[str, str] = {}
        async for block in stores.vectors.read_gallery(directory, generation.name):
            of_one |= {face_id: encode_vector(it) for face_id, it in zip(block.face_ids, block.vectors, strict=True)}
        if of_one:
            found[generation.name] = of_one
    return found


async def _read_original(stores: Stores, image_id: str) -> bytes | None:
    try:
        return (await stores.objects.get(original_key(image_id, "learn"))).data
    except ObjectMissing:
        return None
