"""The decoding pool: the pixels of every format, and that a hostile image or a killed child affects no other image."""

import asyncio
import functools
import gc
import io
import os
import random
import signal
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from PIL import Image, ImageCms

from processors.decoding.budget import PixelBudget
from processors.decoding.pool import DecodedImage, DecodePool
from processors.passes import plan_passes
from schemas.errors import FacestreamError, NotAnImage, TooManyPixels, Unavailable, UnreadableImage
from tests.blocking import LoopWatch

pytestmark = pytest.mark.asyncio(loop_scope="module")
pillow_heif.register_heif_opener()

COLOURS = {"red": (250, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 250), "grey": (128, 128, 128)}
ORIENTATION = 0x0112
PATIENCE_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[DecodePool]:
    async with DecodePool(workers=2) as started:
        yield started
        assert started.budget.free == started.budget.total


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green / blue, grey."""
    image = Image.new("RGB", (width, height))
    for index, colour in enumerate(COLOURS.values()):
        image.paste(colour, (index % 2 * width // 2, index // 2 * height // 2, width, height))
    return image


def corners(pixels: NDArray[np.uint8]) -> list[str]:
    """The names of the colours at top left, top right, bottom left, bottom right."""
    height, width, _ = pixels.shape
    found = [pixels[height * y // 8, width * x // 8].astype(int) for y in (1, 7) for x in (1, 7)]
    return [min(COLOURS, key=lambda name: float(np.abs(colour - COLOURS[name]).sum())) for colour in found]


async def pixels_of(pool: DecodePool, data: bytes, **options: Any) -> NDArray[np.uint8]:
    with await pool.decode(data, **options) as image:
        return image.pixels.copy()


def noise(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(7).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@functools.cache
def slow_png() -> bytes:
    """Nine million pixels, which take a tenth of a second or more."""
    return encode(noise(3000, 3000), "PNG", compress_level=1)


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))

    header = struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


# What comes out


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
async def test_every_promised_format_is_decoded(pool: DecodePool, form: str) -> None:
    with await pool.decode(memoryview(encode(quarters(), form))) as image:
        assert (image.width, image.height, image.scale) == (96, 64, 1.0)
        assert image.pixels.shape == (64, 96, 3)
        assert image.pixels.dtype == np.uint8
        assert corners(image.pixels) == ["red", "green", "blue", "grey"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
async def test_the_exif_orientation_is_applied(pool: DecodePool, form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    expected = {  # EXIF 2.3, 4.6.4 A: where the stored top left, top right, ... are to be seen
        1: ["red", "green", "blue", "grey"],
        2: ["green", "red", "grey", "blue"],
        3: ["grey", "blue", "green", "red"],
        4: ["blue", "grey", "red", "green"],
        5: ["red", "blue", "green", "grey"],
        6: ["blue", "red", "grey", "green"],
        7: ["grey", "green", "blue", "red"],
        8: ["green", "grey", "red", "blue"],
    }
    with await pool.decode(encode(quarters(), form, exif=exif)) as image:
        assert (image.width, image.height) == ((64, 96) if orientation >= 5 else (96, 64))
        assert image.pixels.shape == (image.height, image.width, 3)
        assert corners(image.pixels) == expected[orientation]
        assert (
            corners(image.passes[0][1][: image.passes[0][0].height, : image.passes[0][0].width])
            == expected[orientation]
        )


async def test_the_orientation_of_heif_is_applied_once(pool: DecodePool) -> None:
    """A HEIF file has an orientation of its own: its EXIF orientation must not turn it a second time."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert corners(await pixels_of(pool, encode(quarters(), "HEIF", exif=exif.tobytes()))) == [
        "blue",
        "red",
        "grey",
        "green",
    ]


@pytest.mark.parametrize("value", [0, 9, 65535])
async def test_invalid_orientation_is_ignored(pool: DecodePool, value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert corners(await pixels_of(pool, encode(quarters(), "JPEG", exif=exif))) == ["red", "green", "blue", "grey"]


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0\xff\xff\xff\xff",
        b"nonsense",
        b"MM\0*\0\0\0\x08\xff\xff" + b"\1" * 40,
        b"MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\x026\0\0\0\0\0\0\0",  # the text "6"
    ],
)
async def test_broken_exif_is_ignored(pool: DecodePool, exif: bytes) -> None:
    data = encode(quarters(), "JPEG", exif=b"Exif\0\0" + exif)
    assert corners(await pixels_of(pool, data)) == ["red", "green", "blue", "grey"]


async def test_an_orientation_after_the_pixels_is_applied(pool: DecodePool) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    tag = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack("!I", len(tag)) + b"eXIf" + tag + struct.pack("!I", zlib.crc32(b"eXIf" + tag))
    data = encode(quarters(), "PNG")
    assert data[-12:-4] == b"\0\0\0\0IEND"
    assert corners(await pixels_of(pool, data[:-12] + chunk + data[-12:])) == ["grey", "blue", "green", "red"]
    assert corners(await pixels_of(pool, data[:-12] + chunk[:-1] + b"?" + data[-12:])) == [
        "red",
        "green",
        "blue",
        "grey",
    ]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
async def test_colour_spaces_are_converted_to_rgb(pool: DecodePool, mode: str) -> None:
    image = quarters()
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert converted is not None
    else:
        converted = image.convert(mode)
    found = await pixels_of(pool, encode(converted, "TIFF"))
    assert np.abs(found.astype(int) - np.asarray(image)).max() <= 6


async def test_a_cmyk_jpeg_is_converted_to_rgb(pool: DecodePool) -> None:
    """Adobe's files store CMYK inverted, and so does Pillow with the same marker."""
    data = encode(quarters().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert corners(await pixels_of(pool, data)) == ["red", "green", "blue", "grey"]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
async def test_16_bit_grey_is_scaled(pool: DecodePool, form: str) -> None:
    samples = np.array([[0, 257 * 10, 257 * 100 + 60, 32768, 65535]], np.uint16)
    found = await pixels_of(pool, encode(Image.fromarray(samples), form))
    assert found[0].tolist() == [[grey] * 3 for grey in (0, 10, 100, 128, 255)]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-5.0, 0.0, 5.0]], np.float32), [0, 128, 255]),
        (np.array([[7.0, 7.0, 7.0]], np.float32), [7, 7, 7]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[0, 1 << 20, 1 << 21]], np.int32), [0, 128, 255]),
    ],
)
async def test_samples_of_more_than_8_bits_are_scaled(
    pool: DecodePool, samples: NDArray[Any], expected: list[int]
) -> None:
    found = await pixels_of(pool, encode(Image.fromarray(samples), "TIFF"))
    assert found[0, :, 0].tolist() == expected


async def test_transparent_is_white(pool: DecodePool) -> None:
    image = quarters().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 48, 32))
    image.paste((0, 0, 0, 128), (48, 0, 96, 32))
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([250, 20, 20, 20, 20, 250])
    palette.putpixel((0, 0), 0)
    grey = Image.new("LA", (4, 2), (10, 255))
    grey.putpixel((0, 0), (10, 0))
    for form in ("PNG", "WEBP", "TIFF"):
        found = await pixels_of(pool, encode(image, form, lossless=True))
        assert found[8, 8].tolist() == [255, 255, 255]
        assert np.abs(found[8, 80].astype(int) - 127).max() <= 1
        assert found[60, 8].tolist() == list(COLOURS["blue"])
    for data in (encode(palette, "PNG", transparency=0), encode(palette, "GIF", transparency=0)):
        found = await pixels_of(pool, data)
        assert [found[0, 0].tolist(), found[0, 1].tolist()] == [[255, 255, 255], [20, 20, 250]]
    found = await pixels_of(pool, encode(grey, "PNG"))
    assert [found[0, 0].tolist(), found[0, 1].tolist()] == [[255, 255, 255], [10, 10, 10]]
    one_bit = Image.new("1", (4, 2), 1)
    one_bit.putpixel((0, 0), 0)
    assert (await pixels_of(pool, encode(one_bit, "PNG")))[0, :2, 0].tolist() == [0, 255]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
async def test_first_of_several_frames(pool: DecodePool, form: str) -> None:
    others = [Image.new("RGB", (96, 64), colour) for colour in ("white", "black")]
    data = encode(quarters(), form, save_all=True, append_images=others)
    assert corners(await pixels_of(pool, data)) == ["red", "green", "blue", "grey"]


# Sizes and passes


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The mean absolute difference of two pictures of the same size, of every third pixel each way."""
    assert one.shape == other.shape
    return float(np.abs(one[::3, ::3].astype(int) - other[::3, ::3]).mean())


@pytest.mark.parametrize("orientation", [1, 3, 6])
async def test_large_jpeg_is_reduced(pool: DecodePool, orientation: int) -> None:
    """The size is the original's, and a position in the original times `scale` is the position in the pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    original = noise(3904, 2404)
    original.paste("white", (1600, 800, 1760, 960))
    data = encode(original, "JPEG", quality=92, exif=exif)
    upright = {
        1: original,
        3: original.transpose(Image.Transpose.ROTATE_180),
        6: original.transpose(Image.Transpose.ROTATE_270),
    }
    with await pool.decode(data) as image:
        assert (image.width, image.height, image.scale) == (*upright[orientation].size, 0.5)
        reduced = np.asarray(upright[orientation].reduce(2))
        assert difference(reduced, image.pixels) < 4  # shifted by one pixel it is above 7
        assert [picture.shape[:2] for _, picture in image.passes] == [
            part.shape for part in plan_passes(image.width, image.height)
        ]
    for options in ({"full": True}, {"detail": "high"}):
        with await pool.decode(data, **options) as image:
            assert image.scale == 1.0
            assert image.pixels.shape == (image.height, image.width, 3)
            assert difference(np.asarray(upright[orientation]), image.pixels) < 4
            assert bool(image.passes) == ("detail" in options)


async def test_positions_are_right_for_sizes_that_the_reduction_does_not_divide(pool: DecodePool) -> None:
    """Positions shift by half a reduced pixel at most, in every orientation."""
    exif = Image.Exif()
    for orientation in (1, 3):
        exif[ORIENTATION] = orientation
        for beyond in (1, 7):
            image = Image.new("L", (15400 + beyond, 64))
            edge = 8000 if orientation == 1 else image.width - 8000
            image.paste(255, (0, 0, edge, 64) if orientation == 1 else (edge, 0, image.width, 64))
            with await pool.decode(encode(image, "JPEG", exif=exif)) as reduced:
                assert (reduced.width, reduced.scale) == (image.width, 0.125)
                shown = reduced.pixels[4, :, 0].astype(int).sum() / 255 / reduced.scale
                assert abs(shown - 8000) <= 4.1


@pytest.mark.parametrize(("width", "height"), [(1, 9000), (9000, 1), (3, 9000)])
async def test_a_jpeg_thinner_than_its_reduction_is_decoded(pool: DecodePool, width: int, height: int) -> None:
    with await pool.decode(encode(Image.new("RGB", (width, height), "red"), "JPEG")) as image:
        assert (image.width, image.height) == (width, height)
        assert corners(image.pixels) == ["red"] * 4


async def test_the_reduction_of_a_jpeg_follows_from_its_size(pool: DecodePool) -> None:
    grey = Image.new("L", (16, 16), 90)
    for side, scale in ((3800, 1.0), (3840, 0.5), (7600, 0.5), (7700, 0.25), (15400, 0.125)):
        with await pool.decode(encode(grey.resize((side, 64)), "JPEG")) as image:
            assert (image.width, image.height, image.scale) == (side, 64, scale)
            assert image.pixels.shape == (round(64 * scale), -(-side * scale // 1), 3)
    with await pool.decode(encode(grey.resize((7700, 64)), "PNG")) as image:
        assert image.scale == 1.0


@pytest.mark.parametrize(
    ("width", "height", "detail"), [(300, 200, "normal"), (1600, 1280, "normal"), (3000, 2112, "high")]
)
async def test_passes_are_the_plan(pool: DecodePool, width: int, height: int, detail: Any) -> None:
    original = noise(width, height)
    with await pool.decode(encode(original, "PNG", compress_level=1), detail=detail) as image:
        assert [part for part, _ in image.passes] == plan_passes(width, height, detail)
        for part, picture in image.passes:
            assert picture.shape == (*part.shape, 3)
            assert not picture[part.height :].any()
            assert not picture[:, part.width :].any()
            box = part.tile or (0, 0, width, height)
            expected = original.resize((part.width, part.height), Image.Resampling.BILINEAR, box)
            difference = np.abs(np.asarray(expected, float) - picture[: part.height, : part.width])
            assert difference.mean() < 1.5
            assert np.shares_memory(picture, image.pixels) == (
                part.scale == 1 and part.shape == (part.height, part.width)
            )


async def test_pixels_can_be_written_and_end_with_release(pool: DecodePool) -> None:
    image = await pool.decode(encode(quarters(), "PNG"))
    pixels = image.pixels
    pixels[0, 0] = 1  # torch warns of arrays that cannot be written
    image.release()
    image.release()
    assert pixels[0, 0].tolist() == [1, 1, 1]  # a view keeps the memory
    with pytest.raises(ValueError, match="released"):
        _ = image.pixels
    with pytest.raises(ValueError, match="released"):
        _ = image.passes


async def test_an_image_that_was_not_released_warns_and_frees_its_budget(pool: DecodePool) -> None:
    image: DecodedImage | None = await pool.decode(encode(quarters(), "PNG"))
    assert image is not None
    assert pool.budget.free < pool.budget.total
    with pytest.warns(ResourceWarning, match="without `release`"):
        image = None
    await asyncio.sleep(0)
    assert pool.budget.free == pool.budget.total


# What is refused


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"plain text, BM and all", b"BM plain text", b"%PDF-1.7 ...", random.Random(1).randbytes(5000)],
)
async def test_data_that_is_not_an_image_is_refused(pool: DecodePool, data: bytes) -> None:
    with pytest.raises(NotAnImage):
        await pool.decode(data)


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "PPM", "TGA", "JPEG2000", "DDS"])
async def test_formats_that_are_not_promised_are_refused(pool: DecodePool, form: str) -> None:
    with pytest.raises(NotAnImage):
        await pool.decode(encode(quarters(), form))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
async def test_a_truncated_image_is_refused(pool: DecodePool, form: str) -> None:
    data = encode(noise(200, 160), form)
    for length in (len(data) * 2 // 3, 40):
        with pytest.raises(UnreadableImage) as caught:
            await pool.decode(data[:length])
        message = caught.value.message
        assert any(words in message for words in ("truncated", "broken", "not supported")), message
        assert len(message) < 100
        assert not any(word in message for word in ("/", "0x", "BytesIO", "PIL", "Plugin")), message
    with pytest.raises(UnreadableImage, match="truncated"):
        await pool.decode(encode(noise(200, 160), "JPEG")[:3000])


async def test_an_image_with_broken_data_is_refused(pool: DecodePool) -> None:
    data = bytearray(encode(noise(200, 160), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    with pytest.raises(UnreadableImage, match="broken data"):
        await pool.decode(bytes(data))


async def test_an_image_with_too_many_pixels_is_refused(pool: DecodePool) -> None:
    """The header decides, even where it is wrong; decoding a bomb of 20,000 × 20,000 does not start."""
    with pytest.raises(TooManyPixels, match=r"50000 × 50000 = 2,500 million pixels, at most 120 million") as caught:
        await pool.decode(png_of(50_000, 50_000))
    assert caught.value.details == {"width": 50_000, "height": 50_000, "limit": 120_000_000}
    bomb = png_of(20_000, 20_000, bytes(20_001 * 20_000))
    assert len(bomb) < 4_000_000
    with pytest.raises(TooManyPixels):
        await pool.decode(bomb)
    canvas = (16_382).to_bytes(3, "little") * 2
    webp = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + canvas
    with pytest.raises(TooManyPixels):  # its decoder would take 2 GB before it tells the size
        await pool.decode(webp)
    vp8 = encode(Image.new("RGB", (640, 480)), "WEBP")
    vp8l = encode(Image.new("RGB", (640, 480)), "WEBP", lossless=True)
    async with DecodePool(workers=1, max_pixels=640 * 480 - 1) as small:
        for data in (vp8, vp8l, encode(Image.new("L", (640, 480)), "GIF"), encode(Image.new("L", (640, 480)), "TIFF")):
            with pytest.raises(TooManyPixels, match="640 × 480"):
                await small.decode(data)
    async with DecodePool(workers=1, max_pixels=640 * 480) as large_enough:
        for data in (vp8, vp8l):
            (await large_enough.decode(data)).release()


async def test_text_bombs_and_wrong_checksums_are_ignored(pool: DecodePool) -> None:
    data = encode(quarters(), "PNG")
    text = b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    bomb = struct.pack("!I", len(text)) + b"zTXt" + text + struct.pack("!I", zlib.crc32(b"zTXt" + text))
    wrong = struct.pack("!I", 4) + b"gAMA" + bytes(8)
    assert corners(await pixels_of(pool, data[:33] + bomb + wrong + data[33:])) == ["red", "green", "blue", "grey"]


# Accidents


def children() -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            continue
        if parent == os.getpid():
            found.add(int(stat.parent.name))
    return found


@asynccontextmanager
async def pool_of_one(**settings: Any) -> AsyncIterator[tuple[DecodePool, Callable[[], int]]]:
    """A pool with one child, and a function that returns the process id of the child."""
    others = children()
    async with DecodePool(workers=1, **settings) as alone:

        def child() -> int:
            (pid,) = children() - others
            return pid

        yield alone, child


def is_decoding(pid: int) -> bool:
    """Whether the child is decoding: then its memory file is open."""
    for link in links(pid):
        with suppress(FileNotFoundError):
            if "memfd:pixels" in os.readlink(link):
                return True
    return False


async def until_busy(pid: int, busy: bool = True) -> None:
    while is_decoding(pid) != busy:  # noqa: ASYNC110  # no event of ours tells it
        await asyncio.sleep(0.001)


def links(pid: int) -> list[str]:
    return [entry.path for entry in os.scandir(f"/proc/{pid}/fd")]


async def test_a_killed_child_fails_only_its_image(pool: DecodePool) -> None:
    slow = slow_png()
    small = encode(quarters(), "PNG")
    async with pool_of_one() as (alone, child):
        pid = child()
        lost = asyncio.create_task(alone.decode(slow))
        other = asyncio.create_task(pool.decode(small))
        next_one = asyncio.create_task(alone.decode(small))
        await until_busy(pid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(UnreadableImage, match="crashed"):
            await lost
        for task in (other, next_one):
            with await task as image:
                assert corners(image.pixels) == ["red", "green", "blue", "grey"]
        assert child() != pid
        assert alone.budget.free == alone.budget.total


async def test_a_child_killed_while_idle_costs_none() -> None:
    async with pool_of_one() as (alone, child):
        for _ in range(2):
            os.kill(child(), signal.SIGKILL)
            (await alone.decode(encode(quarters(), "PNG"))).release()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_hang_is_ended(busy: bool) -> None:
    """Stopped children do not answer, neither before nor after the header, like one in an endless loop."""
    async with pool_of_one(time_limit_s=1) as (alone, child):
        pid = child()
        if not busy:
            os.kill(pid, signal.SIGSTOP)
        task = asyncio.create_task(alone.decode(slow_png()))
        if busy:
            with suppress(FileNotFoundError, ProcessLookupError):  # on a busy machine the second may be over already
                await until_busy(pid)
                os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(UnreadableImage, match="longer than 1 seconds"):
                await task
        (await alone.decode(encode(quarters(), "PNG"))).release()
        assert pid not in children()


async def test_memory_is_limited(pool: DecodePool) -> None:
    data = encode(Image.new("L", (9000, 9000)), "PNG")
    async with DecodePool(workers=1, memory_limit=300 << 20) as small:
        with pytest.raises(UnreadableImage, match="memory"):
            await small.decode(data)
        (await small.decode(encode(quarters(), "PNG"))).release()
    (await pool.decode(data)).release()


@pytest.mark.parametrize("moment", ["header", "budget", "decoding"])
async def test_a_cancelled_decode_does_not_block_others(moment: str) -> None:
    data = slow_png()
    small = encode(quarters(), "PNG")
    async with pool_of_one(pixel_budget=12_000_000) as (alone, child):
        pid = child()
        held = await alone.decode(small)
        if moment == "header":
            os.kill(pid, signal.SIGSTOP)
        if moment != "budget":
            held.release()
        else:
            held.release()
            held = await alone.decode(data)
        if moment == "decoding":
            await until_busy(pid, False)  # the file before was sent, but may not be closed yet
        task = asyncio.create_task(alone.decode(data))
        await (until_busy(pid) if moment == "decoding" else asyncio.sleep(0.2))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.release()
        assert alone.budget.free == alone.budget.total
        (await alone.decode(small)).release()
        assert (child() == pid) == (moment == "budget")


async def test_the_pixel_budget_is_never_exceeded(pool: DecodePool) -> None:
    data = encode(noise(1000, 700), "PNG", compress_level=1)
    with await pool.decode(data) as image:
        cost = image.pixels.nbytes // 3 + sum(
            picture.nbytes // 3 for _, picture in image.passes if picture.base is not None
        )
    held: list[DecodedImage] = []
    most = 0

    async def one(pool: DecodePool) -> None:
        nonlocal most
        image = await pool.decode(data)
        held.append(image)
        most = max(most, len(held))
        await asyncio.sleep(0.01)
        held.remove(image)
        image.release()

    async with DecodePool(workers=2, pixel_budget=int(3.5 * 2_000_000)) as tight:
        tasks = [asyncio.create_task(one(tight)) for _ in range(24)]
        lowest = tight.budget.free
        while not all(task.done() for task in tasks):
            lowest = min(lowest, tight.budget.free)
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        assert 0 <= lowest < tight.budget.total
        assert most * 700_000 <= tight.budget.total
        assert tight.budget.free == tight.budget.total
    async with DecodePool(workers=1, pixel_budget=1000) as tiny:  # an image never takes more than the whole budget
        for _ in range(2):
            (await tiny.decode(data)).release()
    assert cost > 700_000


async def test_budget_is_first_come_first_served() -> None:
    budget, order = PixelBudget(10), list[str]()

    async def take(name: str, pixels: int) -> None:
        await budget.take(pixels)
        order.append(name)

    await budget.take(6)
    tasks = [asyncio.create_task(take(*each)) for each in (("large", 9), ("cancelled", 10), ("small", 1), ("last", 8))]
    await asyncio.sleep(0)
    assert order == []  # 4 are free, but the large one came first
    tasks[1].cancel()
    budget.give_back(6)
    await asyncio.sleep(0.01)
    assert order == ["large", "small"]
    assert budget.free == 0
    budget.give_back(9)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["large", "small", "last"]
    budget.give_back(9)
    assert budget.free == 10


async def test_images_decode_side_by_side() -> None:
    """With two workers, a small image overtakes a large one."""
    async with DecodePool(workers=2) as two:
        slow = asyncio.create_task(two.decode(slow_png()))
        await asyncio.sleep(0.01)
        (await two.decode(encode(quarters(), "PNG"))).release()
        assert not slow.done()
        (await slow).release()


async def test_a_closed_pool_leaves_no_process_and_no_open_file() -> None:
    gc.collect()  # what tests before this one have left open
    before, descriptors = children(), len(links(os.getpid()))
    data, broken = encode(quarters(), "JPEG"), encode(quarters(), "JPEG")[:500]
    async with DecodePool(workers=2) as two:
        assert len(children() - before) == 2
        (await two.decode(data)).release()
        open_now = len(links(os.getpid()))
        for _ in range(200):
            (await two.decode(data)).release()
        for _ in range(20):
            with pytest.raises(UnreadableImage):
                await two.decode(broken)
        gc.collect()
        assert len(links(os.getpid())) <= open_now
    assert children() == before
    assert len(links(os.getpid())) <= descriptors
    with pytest.raises(Unavailable):
        await two.decode(data)


async def test_closing_fails_waiting_decodes() -> None:
    data = slow_png()
    two = DecodePool(workers=2, pixel_budget=10_000_000)
    await two.start()
    held = await two.decode(data)
    tasks = [asyncio.create_task(two.decode(data)) for _ in range(5)]
    await asyncio.sleep(0.1)
    await two.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5
    assert held.pixels.any()
    held.release()
    await two.close()


async def test_a_child_that_cannot_start_raises_unavailable(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(Unavailable, match="did not start: it ended with status 1"):
        await DecodePool(workers=1).start()
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(Unavailable, match="did not start"):
        await DecodePool(workers=1).start()
    monkeypatch.undo()
    async with pool_of_one() as (alone, child):
        monkeypatch.setattr("sys.executable", "/bin/false")
        os.kill(child(), signal.SIGKILL)
        with pytest.raises(Unavailable):
            await alone.decode(encode(quarters(), "PNG"))
        monkeypatch.undo()
        async with asyncio.timeout(20):
            while True:
                try:
                    (await alone.decode(encode(quarters(), "PNG"))).release()
                except Unavailable:
                    continue
                break


async def test_children_run_the_code_of_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PYTHONPATH, and where the project is not installed, they still find the package that started them."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    async with pool_of_one() as (_, child):
        process = Path(f"/proc/{child()}")
        variables = (process / "environ").read_bytes().split(b"\0")
        assert f"PYTHONPATH={Path(__file__).parents[3]}".encode() in variables


async def test_children_have_limits_and_see_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSANDRA_PASSWORD", "hunter2")
    async with pool_of_one() as (alone, child):
        process = Path(f"/proc/{child()}")
        assert b"hunter2" not in (process / "environ").read_bytes()
        limits = {line[:26].strip(): line[26:].split()[0] for line in (process / "limits").read_text().splitlines()}
        assert limits["Max address space"] == str(2 << 30)
        assert limits["Max core file size"] == "0"
        maps = (process / "maps").read_text()
        assert "libtorch" not in maps
        os.kill(child(), signal.SIGINT)  # Ctrl+C reaches the whole group
        (await alone.decode(encode(quarters(), "PNG"))).release()
        assert (
            "Max cpu time              13 " in (process / "limits").read_text()
        )  # 10 s and a little, counted from the CPU time used so far


async def test_children_end_with_their_parent() -> None:
    """A stopped child cannot notice that its socket is closed: the kernel ends it."""
    program = (
        "import asyncio, psutil\n"
        "from processors.decoding.pool import DecodePool\n"
        "async def main():\n"
        "    pool = DecodePool(workers=1)\n"
        "    await pool.start()\n"
        "    (child,) = psutil.Process().children()\n"
        "    child.suspend()\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[3]
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=root
    )
    assert parent.stdout is not None
    status = Path("/proc") / (await parent.stdout.readline()).decode().strip() / "stat"
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while status.exists() and " Z " not in status.read_text():  # noqa: ASYNC110  # no event of ours tells it
            await asyncio.sleep(0.01)


async def test_the_loop_is_not_blocked(pool: DecodePool) -> None:
    """Sending 40 MB, and mapping and unmapping 36 MB, do not block it."""
    data = encode(noise(4000, 3000), "BMP")
    async with LoopWatch() as watch:
        for _ in range(3):
            (await pool.decode(data, full=True)).release()
    assert watch.longest_s < 0.05


async def test_errors_of_decoding_are_not_retriable(pool: DecodePool) -> None:
    for data in (b"x", encode(quarters(), "JPEG")[:500], png_of(50_000, 50_000)):
        with pytest.raises(FacestreamError) as caught:
            await pool.decode(data)
        assert not caught.value.retriable
