"""Files made to break decoders, all at once: each gets its answer in time, and good images among them are decoded.

Collected only where the photos lie beside the repository (see conftest.py).
"""

import asyncio
from contextlib import suppress
from pathlib import Path

from processors.decoding.pool import DecodePool
from schemas.errors import NotAnImage, TooManyPixels, UnreadableImage

HOSTILE = Path(__file__).parents[4] / "shared" / "photos" / "hostile"
TIME_LIMIT_S = 10
SIDE_BY_SIDE = 16

# Folder, pattern, how many there must be at least: files that any viewer shows.
GOOD = [
    ("exif_orientation", "*.jpg", 18),
    ("png/tests/pngsuite", "[!x]*.png", 150),
    ("heif/tests/images/heif", "*.heif", 10),
    ("heif/tests/images/heif_other", "*.h*", 8),
    ("heif/tests/images/non_heif", "*.*", 15),
    ("pillow/Tests/images/bmp/g", "*.bmp", 12),
    ("pillow/Tests/images/avif", "*.avif", 8),
    ("pillow/Tests/images", "hopper*.jpg", 2),
    ("pillow/Tests/images", "hopper*.webp", 8),
    ("pillow/Tests/images", "hopper*.gif", 2),
    ("pillow/Tests/images", "1[26]*bit.*.tif", 4),
]
NOT_IN_PILLOW = {"rgb32bf.bmp"}  # 32 bits in fields of uneven width


async def test_every_file_gets_an_answer() -> None:
    files = sorted(path for path in HOSTILE.rglob("*") if path.is_file())
    good: set[Path] = set()
    for folder, pattern, least in GOOD:
        found = [path for path in (HOSTILE / folder).glob(pattern) if path.is_file()]
        assert len(found) >= least, (folder, pattern)
        good.update(path for path in found if path.name not in NOT_IN_PILLOW)
    assert len(files) > 2000
    places = asyncio.Semaphore(SIDE_BY_SIDE)
    shown: set[Path] = set()
    loop = asyncio.get_running_loop()

    async def one(pool: DecodePool, path: Path) -> float:
        async with places:
            data = await asyncio.to_thread(path.read_bytes)
            began = loop.time()
            with suppress(NotAnImage, UnreadableImage, TooManyPixels), await pool.decode(data) as image:
                assert image.pixels.shape == (
                    image.height,
                    image.width,
                    3,
                )  # none of them is a JPEG so large that it is reduced
                assert [picture.shape for _, picture in image.passes] == [(*part.shape, 3) for part, _ in image.passes]
                shown.add(path)
            return loop.time() - began

    async with DecodePool(time_limit_s=TIME_LIMIT_S) as pool:
        times = await asyncio.gather(*(one(pool, path) for path in files))
        assert pool.budget.free == pool.budget.total
    assert max(times) < TIME_LIMIT_S
    assert sorted(good - shown) == []


async def test_orientations_look_alike() -> None:
    """The same scene in all nine files of each kind, so turned right they differ by no more than compression does."""
    async with DecodePool() as pool:
        for kind in ("Landscape", "Portrait"):
            means = []
            for orientation in range(9):
                path = HOSTILE / "exif_orientation" / f"{kind}_{orientation}.jpg"
                data = await asyncio.to_thread(path.read_bytes)
                with await pool.decode(data, full=True) as image:
                    assert (image.width > image.height) == (kind == "Landscape")
                    height, width = image.pixels.shape[:2]
                    blocks = image.pixels[: height // 40 * 40, : width // 40 * 40]
                    means.append(blocks.reshape(height // 40, 40, width // 40, 40, 3).mean((1, 3)))
            for mean in means[1:]:
                assert abs(mean - means[0]).mean() < 8  # upside down it is above 40
