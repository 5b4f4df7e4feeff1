"""Many broken files at the same time: each gets its answer in time, and good images among them are decoded.

With PHOTOS=FOLDER every file of that folder must get an answer as well.
"""

import asyncio
from contextlib import suppress

from processors.decoding.pool import DecodePool
from schemas.errors import NotAnImage, TooManyPixels, UnreadableImage
from tests import hostile

TIME_LIMIT_S = 10
PATIENCE_S = 120.0
SIDE_BY_SIDE = 16


async def test_every_file_gets_an_answer() -> None:
    good, broken = hostile.whole(), hostile.broken()
    assert len(good) >= 14
    assert len(broken) >= 500
    further = {str(path): path.read_bytes() for path in hostile.further_photos()}
    order = [*broken.items(), *further.items()]
    for place, each in enumerate(good.items()):
        order.insert(place * len(broken) // len(good), each)
    slots = asyncio.Semaphore(SIDE_BY_SIDE)
    decoded: set[str] = set()

    async def one(pool: DecodePool, name: str, data: bytes) -> None:
        async with slots:
            with suppress(NotAnImage, UnreadableImage, TooManyPixels), await pool.decode(data) as image:
                if not image.scale < 1:  # a large JPEG is reduced
                    assert image.pixels.shape == (image.height, image.width, 3)
                assert [picture.shape for _, picture in image.passes] == [(*part.shape, 3) for part, _ in image.passes]
                decoded.add(name)

    async with DecodePool(time_limit_s=TIME_LIMIT_S) as pool:
        async with asyncio.timeout(PATIENCE_S + len(further)):
            await asyncio.gather(*(one(pool, name, data) for name, data in order))
        assert pool.budget.free == pool.budget.total
    assert sorted(good.keys() - decoded) == []
