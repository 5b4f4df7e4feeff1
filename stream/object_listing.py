"""Lists and deletes objects with many requests at a time: one after the other, reading the metadata of a million
pictures would take an hour.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from backends.objects import ObjectDeleter, ObjectInfo, ObjectReader

METADATA_READS_AT_ONCE = 32
OBJECTS_PER_DELETE = 500


async def list_with_metadata(
    objects: ObjectReader, *prefixes: str
) -> AsyncIterator[tuple[ObjectInfo, Mapping[str, str]]]:
    """All objects under these prefixes with their metadata. Raises Unavailable."""
    some: list[ObjectInfo] = []
    for prefix in prefixes:
        async for info in objects.list(prefix):
            some.append(info)
            if len(some) == METADATA_READS_AT_ONCE:
                for each in await _with_metadata(objects, some):
                    yield each
                some.clear()
    for each in await _with_metadata(objects, some):
        yield each


async def _with_metadata(objects: ObjectReader, some: list[ObjectInfo]) -> list[tuple[ObjectInfo, Mapping[str, str]]]:
    found = await asyncio.gather(*(objects.metadata(info.key) for info in some))
    return [(info, metadata) for info, metadata in zip(some, found, strict=True) if metadata is not None]


async def delete_all(objects: ObjectDeleter, keys: AsyncIterator[str]) -> None:
    """Deletes objects as their keys arrive. Raises Unavailable."""
    some: list[str] = []
    async for key in keys:
        some.append(key)
        if len(some) == OBJECTS_PER_DELETE:
            await objects.delete(some)
            some.clear()
    if some:
        await objects.delete(some)
