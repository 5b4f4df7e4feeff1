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
    """All objects under these prefixes, and older versions of them, with their metadata. Raises Unavailable."""
    batch: list[ObjectInfo] = []
    for prefix in prefixes:
        async for info in objects.list(prefix, versions=True):
            batch.append(info)
            if len(batch) == METADATA_READS_AT_ONCE:
                for pair in await _with_metadata(objects, batch):
                    yield pair
                batch.clear()
    for pair in await _with_metadata(objects, batch):
        yield pair


async def _with_metadata(objects: ObjectReader, batch: list[ObjectInfo]) -> list[tuple[ObjectInfo, Mapping[str, str]]]:
    found = await asyncio.gather(*(objects.metadata(info.key, version=info.version) for info in batch))
    return [(info, metadata) for info, metadata in zip(batch, found, strict=True) if metadata is not None]


async def delete_all(objects: ObjectDeleter, keys: AsyncIterator[str]) -> None:
    """Deletes objects as their keys arrive. Raises Unavailable."""
    batch: list[str] = []
    async for key in keys:
        batch.append(key)
        if len(batch) == OBJECTS_PER_DELETE:
            await objects.delete(batch)
            batch.clear()
    if batch:
        await objects.delete(batch)
