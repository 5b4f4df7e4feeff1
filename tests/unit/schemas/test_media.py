"""Recognizing formats by their first bytes, with files that Pillow writes and with files that only look similar."""

import io

import pillow_heif
import pytest
from PIL import Image

from schemas.media import HEAD_BYTES, MEDIA_TYPES, extension, sniff

pillow_heif.register_heif_opener()


@pytest.mark.parametrize(
    ("form", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("HEIF", "image/heic"),
        ("AVIF", "image/avif"),
    ],
)
def test_what_pillow_writes(form: str, media_type: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, form)
    assert sniff(file.getvalue()[:HEAD_BYTES]) == media_type


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xd8",
        b"\x89PNG",
        b"BMW is a maker of cars and motor cycles, this is a text",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"8BPS\0\1",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\1\0\1\0",  # ICO
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",  # a video
        b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
        b"P6\n1 1\n255\n\0\0\0",
    ],
)
def test_other_files_are_not_recognized(head: bytes) -> None:
    assert sniff(head) is None


def test_containers_are_told_by_any_of_their_brands() -> None:
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "image/avif"
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf") == "image/heic"
    assert sniff(b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf") == "image/heif"
    assert sniff(b"\0\0\0\x14ftypisom\0\0\0\0isomavif") is None  # what follows the box is not its brands


def test_every_type_has_an_extension() -> None:
    extensions = [extension(media_type) for media_type in MEDIA_TYPES]
    assert extensions == ["jpg", "png", "webp", "gif", "bmp", "tiff", "heic", "heif", "avif"]
