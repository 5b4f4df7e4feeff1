"""Lists objects with their metadata, and deletes what was listed, many at a time: asked one after the other, those of a
million pictures would take an hour.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from backends.objects import ObjectDeleter, ObjectInfo, ObjectReader

AT_ONCE = 32
DELETED_AT_ONCE = 500


async def listed(objects: ObjectReader, *prefixes: str) -> AsyncIterator[tuple[ObjectInfo, Mapping[str, str]]]:
    """All that are there under these prefixes. Raises Unavailable."""
    some: list[ObjectInfo] = []
    for prefix in prefixes:
        async for info in objects.list(prefix):
            some.append(info)
            if len(some) == AT_ONCE:
                for each in await _described(objects, some):
                    yield each
                some.clear()
    for each in await _described(objects, some):
        yield each


async def _described(objects: ObjectReader, some: list[ObjectInfo]) -> list[tuple[ObjectInfo, Mapping[str, str]]]:
    found = await asyncio.gather(*(objects.metadata(info.key) for info in some))
    return [(info, metadata) for info, metadata in zip(some, found, strict=True) if metadata is not None]


async def delete_each(objects: ObjectDeleter, keys: AsyncIterator[str]) -> None:
    """Deletes them as they come. Raises Unavailable."""
    some: list[str] = []
    async for key in keys:
        some.append(key)
        if len(some) == DELETED_AT_ONCE:
            await objects.delete(some)
            some.clear()
    if some:
        await objects.delete(some)
