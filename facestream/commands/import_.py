"""`facestream import`: reads a directory from a file that `facestream export` wrote."""

import argparse
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from backends.log import EventLog, NewRecord
from backends.objects import ObjectReader
from facestream.admin.gallery_file import ExportedFace, FaceWithPictures, read_faces, read_head
from facestream.flags import STORES, add_settings, argument_type, parse_path, settings_from
from facestream.interrupt import run_interruptibly
from facestream.progress import progress_bar
from facestream.runtime.stores import open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import log_warnings_only
from schemas.errors import InvalidRequest
from schemas.faces import Crop, is_vector
from schemas.ids import NAMESPACE, crop_key, learned_face_id, original_key
from schemas.names import normalise_name
from schemas.object_metadata import ObjectMetadata
from schemas.records import FaceLearned, FacesReembedded, ReembeddedFace
from stream.erase.erasures import Erasures
from stream.erase.guarded_store import GuardedStore
from stream.topics import FACES_EMBEDDED

DESCRIPTION = """\
Read a directory from a file of `facestream export`. Faces that exist already stay, so that it can be run again.
Vectors are used where this installation has their generation; otherwise `facestream reembed` makes them from
the crops.
"""
FACES_PER_APPEND = 64


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("import", help="read a directory from a file", description=DESCRIPTION)
    parser.add_argument("file", metavar="FILE.tar", type=argument_type("FILE.tar", parse_path), help="the file to read")
    parser.add_argument(
        "--directory",
        metavar="D",
        type=argument_type("--directory", normalise_name),
        help="the name of the directory here (default: the name it had)",
    )
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    head = read_head(arguments.file)
    directory = arguments.directory or head.directory
    async with open_stores(settings_from(arguments)) as stores, follow_state(stores.log) as state:
        store = GuardedStore(stores.objects, stores.vectors, state.erasures)
        live = {it.name: it.dimension for it in state.generations.live}
        with progress_bar("imported", head.faces) as advance:
            faces = read_faces(arguments.file)
            while batch := list(islice(faces, FACES_PER_APPEND)):
                await _import(
                    stores.log,
                    stores.objects,
                    store,
                    state.erasures,
                    batch,
                    directory,
                    moved=directory != head.directory,
                    generations=live,
                )
                advance(len(batch))
        active = state.generations.active.name
    if active not in head.generations:
        print(f"the file has no vectors of '{active}': make them with `facestream reembed {active}`", file=sys.stderr)
    print(f"{head.faces} faces are in '{directory}'", file=sys.stderr)
    return 0


class _Picture(NamedTuple):
    """The arguments of GuardedStore.put_of_row."""

    image_id: str
    version: int
    key: str
    data: bytes
    metadata: ObjectMetadata


async def _import(
    log: EventLog,
    objects: ObjectReader,
    store: GuardedStore,
    erasures: Erasures,
    faces: Sequence[FaceWithPictures],
    directory: str,
    *,
    moved: bool,
    generations: dict[str, int],
) -> None:
    """Writes pictures first, then vectors, then the changelog. moved: the directory has another name here, so its faces
    and images get other ids. Raises Erased if one is erased meanwhile.
    """
    now = int(time.time() * 1000)
    await erasures.refresh()
    vectors: dict[str, list[ReembeddedFace]] = {}
    pictures: list[_Picture] = []
    learned: list[FaceLearned] = []
    for it in faces:
        face = it.face
        image_id = str(uuid.uuid5(NAMESPACE, f"{directory}\0{face.image_id}")) if moved else face.image_id
        face_id = learned_face_id(image_id) if moved else face.face_id
        version = max(now, erasures.next_version(directory, face.person, image_id))
        metadata = ObjectMetadata(directory=directory, person=face.person, received_at=now, erasures_seen=erasures.seen)
        of_crop = replace(metadata, image_id=image_id)
        of_face = [_Picture(image_id, version, crop_key(face_id), it.crop, of_crop)]
        if it.original is not None:
            of_face.insert(0, _Picture(image_id, version, original_key(image_id, "learn"), it.original, metadata))
        for picture in of_face:
            await store.put_of_row(*picture)
        pictures += of_face
        known = {name: vector for name, vector in face.vectors.items() if name in generations}
        for name, vector in known.items():
            _check(face, name, vector, generations[name])
        for name, vector in known.items():
            vectors.setdefault(name, []).append(
                ReembeddedFace(
                    person=face.person,
                    face_id=face_id,
                    image_id=image_id,
                    source=face.source,
                    learned_at=version,
                    vector=vector,
                )
            )
        learned.append(
            FaceLearned(
                directory=directory,
                person=face.person,
                face_id=face_id,
                image_id=image_id,
                source=face.source,
                crop=Crop(object_key=crop_key(face_id), landmarks=face.landmarks),
                detector=face.detector,
                box=face.box,
                learned_at=version,
                generations=sorted(known),
            )
        )
    await log.append([_reembedded_record(directory, name, of_one) for name, of_one in vectors.items()])
    await log.append(store.changelog_records(learned))
    for picture in pictures:  # again, if an erasure has deleted it before its records were there
        if await objects.metadata(picture.key) is None:
            await store.put_of_row(*picture)


def _check(face: ExportedFace, generation: str, vector: str, dimension: int) -> None:
    """Raises InvalidRequest."""
    if not is_vector(vector, dimension):
        raise InvalidRequest(
            f"face {face.face_id}: its vector of '{generation}' is not {dimension} numbers with a length"
        )


def _reembedded_record(directory: str, generation: str, faces: list[ReembeddedFace]) -> NewRecord:
    value = FacesReembedded(directory=directory, generation=generation, faces=faces)
    return NewRecord(FACES_EMBEDDED, faces[0].image_id, value.encode(), directory)
