"""What may be a key, what may be metadata, and what a fetched object has to be: the same for every object store."""

from collections.abc import Mapping

from schemas.errors import InvalidRequest, ObjectMissing, UploadTooLarge

LONGEST_KEY = 300
METADATA_BYTES = 2048
MEBI = 1 << 20


def check_key(key: str) -> None:
    """Raises InvalidRequest for what is no key."""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise InvalidRequest(f"the key of an object has 1 to {LONGEST_KEY} characters, this one {len(key)}")
    check_text(key, "the key of an object")


def check_text(text: str, what: str) -> None:
    """Raises InvalidRequest for a lone surrogate, which no encoding takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{what} is no text: {error.reason}") from None


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises InvalidRequest for names that are not ASCII, values that are no text, and more than there is room for."""
    try:
        size = sum(len(name.encode("ascii")) + len(text.encode()) for name, text in metadata.items())
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"metadata: names are ASCII, values are text: {error.reason}") from None
    if size > METADATA_BYTES:
        raise InvalidRequest(f"metadata may have {METADATA_BYTES} bytes in all, these have {size}")


def check_fetched(name: str, size: int, etag: str, *, wanted: str | None, largest: int) -> None:
    """Raises UploadTooLarge, and ObjectMissing for one that was changed since it had the `wanted` etag."""
    if wanted is not None and wanted.strip('"') != etag.strip('"'):
        raise ObjectMissing(f"the object '{name}' was changed since it was announced: announce it again")
    if size > largest:
        raise UploadTooLarge(
            f"the object '{name}' has {size / MEBI:.1f} MiB, the largest picture may have {largest / MEBI:.1f}"
        )
