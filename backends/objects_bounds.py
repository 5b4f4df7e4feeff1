"""What may be a key and what may be metadata, the same for every object store."""

from collections.abc import Mapping

from schemas.errors import InvalidRequest

LONGEST_KEY = 300
METADATA_BYTES = 2048


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
