"""Decodes one image with Pillow, from compressed bytes to upright RGB pictures. It runs in the decoding child only.

The header is read first, to know how many pixels decoding will take. Then the pixels and the detector's passes are
written to a file, one after the other. The bytes are not trusted: every failure of a decoder becomes
`ImageRefused`.
"""

import math
import zlib
from io import BytesIO, FileIO
from typing import Any, Literal

import pillow_heif
from PIL import AvifImagePlugin, Image, MpoImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin

from processors.passes import Pass, plan_passes
from schemas.media import HEAD_BYTES, sniff

# A reduced decode keeps at least this long side. The largest pass has 2,048 pixels; 6 % less lets a phone's 4,000
# pixels be halved.
LEAST_REDUCED_SIDE = 1920
LEAST_SHARE_OF_PASS = LEAST_REDUCED_SIDE / 2048

# Imported here so that the first image of a format does not wait for the import.
PLUGINS = (AvifImagePlugin, MpoImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin)
_ISO_FORMATS = ("HEIF", "AVIF")  # the two share brands, and each plugin checks them itself
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258
_PNG_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def set_up_pillow() -> None:
    """Sets Pillow up, once per process: our own pixel limit, and one thread, because each further one uses address
    space.
    """
    Image.MAX_IMAGE_PIXELS = None  # check_pixels is the limit
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    Image.preinit()


class ImageRefused(Exception):
    """The image cannot be decoded: with a code of schemas.errors, a message for the client, and details."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.answer = {"error": code, "message": message, "details": details}


class EncodedImage:
    """One image whose header is read and whose pixels are not decoded yet.

    width, height: of the upright original. scale: decoded pixels per original pixel. cost: the pixels of all pictures.
    """

    def __init__(self, data: bytes, *, full: bool, detail: Literal["normal", "high"], max_pixels: int) -> None:
        media_type = sniff(data[:HEAD_BYTES])
        if media_type is None:
            raise ImageRefused("not_an_image", "this is not an image of a supported format")
        self.name = media_type.removeprefix("image/").upper()
        if media_type == "image/webp":  # its decoder allocates the whole canvas before it returns the size
            check_pixels(webp_canvas(data), max_pixels)
        try:
            if media_type == "image/png":
                data = png_essentials(data)
            formats = _ISO_FORMATS if media_type in ("image/heic", "image/heif", "image/avif") else (self.name,)
            self.image: Image.Image = Image.open(BytesIO(data), formats=formats)
        except MemoryError:
            raise
        except Exception as error:
            raise ImageRefused(
                "unreadable_image", f"the header of this {self.name} file {describe_error(error, 'is broken')}"
            ) from error
        self.size = self.image.size
        check_pixels(self.size, max_pixels)
        self.full, self.detail, self.max_pixels = full, detail, max_pixels
        self.orientation = self._orientation()
        self._measure()
        self.reduction = 1 if full or detail == "high" else self._reduction()
        self.scale = 1 / self.reduction
        if self.reduction > 1:
            self.image.draft(None, (self.size[0] // self.reduction, self.size[1] // self.reduction))
        self.cost = math.prod(self.image.size) + sum(
            math.prod(part.shape) for part in self.passes if not self._is_view(part)
        )

    def _measure(self) -> None:
        self.width, self.height = self.size[::-1] if self.orientation >= 5 else self.size
        self.passes = [] if self.full else plan_passes(self.width, self.height, self.detail)

    def _orientation(self) -> int:
        """The EXIF orientation, 1 if there is none or it is broken: that is no reason to refuse an image."""
        if self.image.format in ("TIFF", "HEIF"):  # their decoders return these upright
            return 1
        exif = Image.Exif()
        try:
            exif.load(self.image.info.get("exif", b""))
            value = exif.get(_ORIENTATION)
        except Exception:
            return 1
        return value if isinstance(value, int) and value in _UPRIGHT else 1

    def _reduction(self) -> int:
        """The factor by which a JPEG is decoded smaller: that is several times faster, and faces stay large enough."""
        if self.image.format not in ("JPEG", "MPO") or not self.passes:
            return 1
        shortest, side = sorted(self.size)
        wanted = max(LEAST_REDUCED_SIDE, LEAST_SHARE_OF_PASS * side * max(part.scale for part in self.passes))
        return next((reduction for reduction in (8, 4, 2) if shortest >= reduction and side / reduction >= wanted), 1)

    def decode(self, file: FileIO) -> dict[str, Any]:
        """Decodes the image and writes its pixels and passes to `file`.

        Returns the layout of each picture in the file: [offset, height, width, bytes from row to row].
        """
        upright = self._upright()
        pixels = write_picture(file, upright)
        passes = [
            self._view(part, pixels) if self._is_view(part) else write_picture(file, self._picture(part, upright))
            for part in self.passes
        ]
        return {"width": self.width, "height": self.height, "scale": self.scale, "pixels": pixels, "passes": passes}

    def _upright(self) -> Image.Image:
        try:
            self.image.load()
            image = to_rgb(self.image)
        except MemoryError:
            raise
        except Exception as error:
            raise ImageRefused(
                "unreadable_image", f"this {self.name} file {describe_error(error, 'has broken data')}"
            ) from error
        if self.reduction == 1 and image.size != self.size:  # a HEIF image may differ from its header
            self.size = image.size
            check_pixels(self.size, self.max_pixels)
            self._measure()
        del self.image  # frees its memory before more is allocated
        if self.orientation == 1:
            return image
        if self.reduction > 1:
            # after rotation, a partial last row or column would come first and shift everything by almost a pixel
            width, height = self.size
            image = image.crop((0, 0, round(width / self.reduction), round(height / self.reduction)))
        return image.transpose(_UPRIGHT[self.orientation])

    def _is_view(self, part: Pass) -> bool:
        """Whether the picture of the pass is a part of the decoded pixels, unchanged."""
        return part.scale == self.scale == 1 and part.shape == (part.height, part.width)

    def _view(self, part: Pass, pixels: list[int]) -> list[int]:
        offset, _, _, row = pixels
        left, top, *_ = part.tile or (0, 0)
        return [offset + top * row + left * 3, part.height, part.width, row]

    def _picture(self, part: Pass, upright: Image.Image) -> Image.Image:
        left, top, right, bottom = (edge * self.scale for edge in part.tile or (0, 0, self.width, self.height))
        box = (left, top, min(right, upright.width), min(bottom, upright.height))
        picture = upright.resize((part.width, part.height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        height, width = part.shape
        return picture if picture.size == (width, height) else picture.crop((0, 0, width, height))


def check_pixels(size: tuple[int, int], limit: int) -> None:
    width, height = size
    if width * height > limit:
        has, most = (f"{pixels / 1e6:,.1f}".removesuffix(".0") for pixels in (width * height, limit))
        message = f"the image has {width} × {height} = {has} million pixels, at most {most} million are accepted"
        raise ImageRefused("too_many_pixels", f"{message}: send it smaller", width=width, height=height, limit=limit)
    if min(width, height) < 1:
        raise ImageRefused("unreadable_image", "the image has no pixels")


def webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height out of a WebP header (RFC 9649, 2.4 to 2.7), (1, 1) where the header is broken.

    The decoder refuses a broken one.
    """
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 1, 1


def png_essentials(data: bytes) -> bytes:
    """A PNG reduced to the chunks of its picture, the orientation first (it may follow the pixels).

    A small file can contain large compressed texts and colour profiles. And a wrong checksum in these, or a
    contradictory animation, is no reason to refuse a picture that every browser shows.
    """
    view, offset = memoryview(data), 8
    header, orientation, rest = view[:8], view[:0], []
    while offset < len(view):
        end = offset + 12 + int.from_bytes(view[offset : offset + 4], "big")
        kind = bytes(view[offset + 4 : offset + 8])
        if kind == b"IHDR" and offset == 8:
            header = view[:end]
        elif kind == b"eXIf" and zlib.crc32(view[offset + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big"):
            orientation = view[offset:end]
        elif kind in _PNG_PICTURE or end > len(view):  # a truncated chunk is left to the decoder
            rest.append(view[offset:end])
        offset = end
    return b"".join([header, orientation, *rest])


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: transparent parts become white, as on a web page; wide samples are scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return to_grey(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def to_grey(image: Image.Image) -> Image.Image:
    """Scales wide samples to 8 bits: 16 bits by the format's range, 32 bits and floats by their own range."""
    wide = image if image.mode == "F" else image.convert("I")
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 16)  # TIFF: 12 bits come in 16
        low, high = 0.0, 2.0 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    else:
        low, high = (float(value) for value in wide.getextrema())  # type: ignore[arg-type]  # one band: two numbers
        ceilings = (1.0, 255.0) if image.mode == "F" else (255.0, 65535.0)
        if low >= 0 and (ceiling := next((ceiling for ceiling in ceilings if high <= ceiling), None)):
            low, high = 0.0, ceiling
    scale = 255 / (high - low) if high > low else 1.0
    return wide.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")


def write_picture(file: FileIO, image: Image.Image) -> list[int]:
    """Appends a picture to the file and returns its layout. PPM is a short header and raw RGB, written in C."""
    image.save(file, "PPM")
    width, height = image.size
    return [file.tell() - width * height * 3, height, width, width * 3]


def describe_error(error: Exception, otherwise: str) -> str:
    """Describes a decoder's error to the client. The error's own text may contain internals."""
    text = str(error).lower()
    if any(
        word in text
        for word in ("truncated", "too early", "not enough", "end of file", "unexpected eof", "buffer is not large")
    ):
        return "ends too early: the file is truncated"
    if any(word in text for word in ("not supported", "unsupported", "not available", "unknown", "not implemented")):
        return "is of a kind that is not supported"
    return otherwise
