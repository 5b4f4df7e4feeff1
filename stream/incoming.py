"""The objects that other systems put into our own bucket below `incoming/`: the meaning of their keys, and which of
them an erasure deletes.
"""

import asyncio
import unicodedata
from collections.abc import Collection

from backends.objects import ObjectReader
from schemas.names import normalise_name
from schemas.object_metadata import ObjectMetadata
from schemas.records import ImageReceived, Purpose

INCOMING = "incoming/"


def own_source_key(received: ImageReceived, objects: ObjectReader) -> str | None:
    """The key, in our bucket, of an event's source below `incoming/` of its own directory."""
    if received.source is None or received.directory is None:
        return None
    key = objects.key_of(received.source.bucket, received.source.key)
    return key if key is not None and directory_of(key) == received.directory else None


def directory_of(key: str) -> str | None:
    """The directory to which an object below `incoming/` belongs."""
    levels = key.split("/", 2)
    if len(levels) < 3 or levels[0] + "/" != INCOMING or not levels[2]:
        return None
    try:
        return normalise_name(levels[1])
    except ValueError:
        return None


def read_incoming_key(key: str) -> tuple[Purpose, str, str | None] | None:
    """The purpose, directory and person of an object in a watched bucket; None if its key does not have them."""
    if not key.startswith(INCOMING) or key.endswith("/"):  # such an object stands for a folder
        return None
    match key.removeprefix(INCOMING).split("/"):
        case [directory, "learn", person, _, *_]:
            return "learn", directory, person
        case [directory, "recognize", _, *_]:
            return "recognize", directory, None
    return None


def source_of_original(key: str) -> str:
    """The part of a source's key that the original's metadata keeps: everything after `incoming/{directory}/`."""
    return key.split("/", 2)[2]


async def source_keys_of(original_keys: Collection[str], objects: ObjectReader) -> list[str]:
    """The keys that the sources of these originals may have in our bucket. Originals that do not exist are skipped."""
    found = await asyncio.gather(*(objects.metadata(key) for key in original_keys))
    originals = [ObjectMetadata.decode(it) for it in found if it is not None]
    return [
        f"{INCOMING}{form}/{it.source}"
        for it in originals
        if it.source is not None and it.directory is not None
        for form in _unicode_forms(it.directory)
    ]


async def incoming_keys(directory: str, person: str | None, objects: ObjectReader) -> list[str]:
    """The keys below `incoming/` of a directory, or of a person to learn in it, also of objects that were deleted but
    have older versions.
    """
    of_person = [""] if person is None else [f"learn/{form}/" for form in _unicode_forms(person)]
    prefixes = {f"{INCOMING}{form}/{rest}" for form in _unicode_forms(directory) for rest in of_person}
    return sorted({it.key for prefix in prefixes async for it in objects.list(prefix, versions=True)})


def _unicode_forms(name: str) -> set[str]:
    """The forms in which other systems may have written a name: ours are in NFC, file names on some systems in NFD."""
    return {name, unicodedata.normalize("NFD", name)}
