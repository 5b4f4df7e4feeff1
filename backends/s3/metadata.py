"""Metadata as S3 stores it: ASCII headers with names in lower case, 2,048 bytes of names and values.

Each name has its own header with a percent-encoded value, so that other tools can read it. Metadata that does not fit
in this way is compressed into one header.
"""

import json
import re
import zlib
from base64 import b85decode, b85encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from urllib.parse import quote, unquote

from pydantic import TypeAdapter

from schemas.errors import InvalidRequest

_PREFIX = "x-amz-meta-"
_PACKED = "x-amz-meta-packed"
_NAME = re.compile(r"[a-z0-9-]+")
_LARGEST = 2048
_LARGEST_UNPACKED = 32 << 10  # JSON may need 14 bytes for a name of one byte
_TEXTS = TypeAdapter(dict[str, str])


def headers_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """The headers of metadata. Raises InvalidRequest when they do not fit even compressed."""
    headers = {_PREFIX + name: quote(text) for name, text in metadata.items()}
    if all(map(_NAME.fullmatch, metadata)) and _PACKED not in headers and _size(headers) <= _LARGEST:
        return headers
    headers = {_PACKED: b85encode(zlib.compress(json.dumps(dict(metadata), ensure_ascii=False).encode())).decode()}
    if _size(headers) > _LARGEST:
        raise InvalidRequest(f"metadata has {_size(headers)} bytes as S3 carries it, and may have {_LARGEST}")
    return headers


def metadata_of(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The metadata in the headers of a response, also for an object that another system has written."""
    found = {name.lower(): text for name, text in headers}
    if _PACKED in found:
        with suppress(ValueError, zlib.error):  # a header of another system
            return _TEXTS.validate_json(zlib.decompressobj().decompress(b85decode(found[_PACKED]), _LARGEST_UNPACKED))
    return {name.removeprefix(_PREFIX): unquote(text) for name, text in found.items() if name.startswith(_PREFIX)}


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(name) + len(text) for name, text in headers.items())
