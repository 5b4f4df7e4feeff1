"""Checks of keys, metadata and fetched objects, the same for every object store."""

from collections.abc import Mapping

from schemas.errors import InvalidRequest, ObjectMissing, UploadTooLarge

LONGEST_KEY = 300
METADATA_BYTES = 2048
MEBI = 1 << 20


def check_key(key: str) -> None:
    """Raises InvalidRequest for a text that is not a key."""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise InvalidRequest(f"the key of an object has 1 to {LONGEST_KEY} characters, this one {len(key)}")
    check_text(key, "the key of an object")


def check_text(text: str, what: str) -> None:
    """Raises InvalidRequest for a lone surrogate, which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{what} is not valid text: {error.reason}") from None


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises InvalidRequest for names that are not ASCII, values that are not valid text, and more than 2 kB."""
    try:
        size = sum(len(name.encode("ascii")) + len(text.encode()) for name, text in metadata.items())
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"metadata: names are ASCII, values are text: {error.reason}") from None
    if size > METADATA_BYTES:
        raise InvalidRequest(f"metadata may have {METADATA_BYTES} bytes in all, these have {size}")


def check_fetched(name: str, size: int, etag: str, *, expected_etag: str | None, largest: int) -> None:
    """Raises UploadTooLarge above `largest` bytes, ObjectMissing for an object that no longer has the expected etag.
    An adapter need not have read, or hashed, more than one byte above `largest`.
    """
    if size > largest:
        raise UploadTooLarge(f"the object '{name}' has more than {largest / MEBI:.1f} MiB, the limit for a picture")
    if expected_etag is not None and expected_etag.strip('"') != etag.strip('"'):
        raise ObjectMissing(f"the object '{name}' was changed since it was announced: announce it again")
