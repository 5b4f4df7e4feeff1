"""Broken picture files, made from drawn ones: truncated, of the wrong kind, or with wrong lengths and sizes."""

import io
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pillow_heif
from PIL import Image, ImageDraw

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
SIZE = (96, 64)
HEADER_BYTES = 256  # sizes and lengths are in the first of them, whatever the format
MOST_PIXELS = 65_000  # a side that no picture here has

pillow_heif.register_heif_opener()


def drawn(form: str, mode: str = "RGB") -> bytes:
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    for step in range(8):
        draw.ellipse((step * 9, step * 4, step * 9 + 40, step * 4 + 30), fill=(30 * step, 255 - 30 * step, 99))
    file = io.BytesIO()
    picture.convert(mode).save(file, form)
    return file.getvalue()


def whole() -> dict[str, bytes]:
    """Files that any viewer shows."""
    modes = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "RGBA", "L", "1", "P"), "TIFF": ("RGB", "L", "CMYK", "1")}
    return {f"{mode}.{form}": drawn(form, mode) for form in FORMATS for mode in modes.get(form, ("RGB",))}


def broken() -> dict[str, bytes]:
    """Some hundred files that a decoder may refuse, by a name that says what is wrong with each."""
    found = {
        "empty": b"",
        "one byte": b"\xff",
        "zeros": bytes(4096),
        "text": b"this is not a picture\n" * 50,
        "page": b"<!DOCTYPE html><html><body>no picture</body></html>",
        "noise": random.Random(0).randbytes(4096),
    }
    for form in FORMATS:
        data = drawn(form)
        found |= {f"{form} {name}": changed for name, changed in _changed(data)}
        other = drawn(FORMATS[(FORMATS.index(form) + 1) % len(FORMATS)])
        found[f"{form} before another format"] = data[:32] + other[32:]
    found |= {f"PNG of {width} x {height}": _png(width, height) for width, height in _SIZES}
    found |= {
        f"JPEG of {width} x {height}": _jpeg(width, height) for width, height in _SIZES if max(width, height) < 2**16
    }
    found["PNG with a chunk that is too long"] = _png(*SIZE, length=2**31 - 1)
    found["PNG with a wrong checksum"] = _png(*SIZE, checksum=1)
    return found


def further_photos() -> list[Path]:
    """All files in the folder PHOTOS of the environment, if there is one."""
    folder = os.environ.get("PHOTOS")
    return sorted(path for path in Path(folder).rglob("*") if path.is_file()) if folder else []


_SIZES = ((0, 0), (0, 64), (1, MOST_PIXELS), (MOST_PIXELS, 1), (MOST_PIXELS, MOST_PIXELS), (2**31 - 1, 2**31 - 1))


def _changed(data: bytes) -> Iterator[tuple[str, bytes]]:
    for eighths in range(1, 8):
        yield f"cut at {eighths}/8", data[: len(data) * eighths // 8]
    yield "cut before its last byte", data[:-1]
    yield "signature alone", data[:16]
    yield "without signature", bytes(4) + data[4:]
    for begin in range(4, min(HEADER_BYTES, len(data) - 4), 8):
        for value in (b"\xff\xff\xff\xff", bytes(4)):
            yield f"{value[:1].hex()} at {begin}", data[:begin] + value + data[begin + 4 :]
    for seed in range(8):
        chance, flipped = random.Random(seed), bytearray(data)
        for _ in range(1 + len(data) // 100):
            flipped[chance.randrange(16, len(data))] = chance.randrange(256)
        yield f"flipped {seed}", bytes(flipped)


def _png(width: int, height: int, *, length: int | None = None, checksum: int = 0) -> bytes:
    """A PNG. length: the length to write for the chunk of pixels. checksum: a number to add to the header's
    checksum.
    """

    def chunk(kind: bytes, body: bytes, length: int | None = None, added: int = 0) -> bytes:
        said = len(body) if length is None else length
        return struct.pack("!I", said) + kind + body + struct.pack("!I", (zlib.crc32(kind + body) + added) % 2**32)

    header = chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0), added=checksum)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99)), length) + chunk(b"IEND", b"")


def _jpeg(width: int, height: int) -> bytes:
    """The drawn picture with another size in its frame header."""
    data = drawn("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack("!HH", height, width) + data[at + 4 :]
