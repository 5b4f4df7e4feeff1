"""The supported image formats, recognized by their first bytes.

The bytes decide, not a file name or a Content-Type, which the sender may get wrong. Only the format is recognized here,
without loading an image library: whether the rest of the file is intact is left to the decoder.
"""

from schemas.errors import NotAnImage

# Enough for every signature below, with the compatible brands of any real HEIF or AVIF file.
HEAD_BYTES = 96

_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/avif": "avif",
}
MEDIA_TYPES = tuple(_EXTENSIONS)
FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC and AVIF"  # for error messages
# Extensions of file names. The content decides nevertheless.
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
)

_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF
    (b"MM\0+", "image/tiff"),
)
# ISO 23000-22 (MIAF), ISO 23008-12 (HEIF) and the AVIF specification; a video has none of these.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS = {b"mif1", b"mif2", b"msf1"}
# A text may begin with "BM" too. The length of the second header distinguishes a picture from it.
_BMP_HEADER_LENGTHS = {12, 16, 40, 52, 56, 64, 108, 124}


def sniff(head: bytes) -> str | None:
    """The media type of a file that begins with `head` (HEAD_BYTES are enough), None for an unsupported format."""
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_LENGTHS:
        return "image/bmp"
    if head[4:8] == b"ftyp":
        return _iso_media_type(head)
    return None


def media_type_of(data: bytes) -> str:
    """The media type of a file. Raises NotAnImage."""
    media_type = sniff(data[:HEAD_BYTES])
    if media_type is None:
        raise NotAnImage(f"the file is none of {FORMATS}")
    return media_type


def extension(media_type: str) -> str:
    """The usual file name extension of a supported media type, without the dot."""
    return _EXTENSIONS[media_type]


def _iso_media_type(head: bytes) -> str | None:
    """The media type of an ISO container, by its brands: the major brand first, then (after a version) the compatible
    ones.
    """
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    for known, media_type in ((_AVIF_BRANDS, "image/avif"), (_HEVC_BRANDS, "image/heic")):
        if brands[0] in known:
            return media_type
    for known, media_type in ((_AVIF_BRANDS, "image/avif"), (_HEVC_BRANDS, "image/heic"), (_HEIF_BRANDS, "image/heif")):
        if not known.isdisjoint(brands):
            return media_type
    return None
