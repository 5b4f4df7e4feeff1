"""Reads a multipart upload: one file and a few text fields, in any order, within limits.

Compressed bodies are refused: a picture is compressed already, and a small body that expands to gigabytes would keep
the event loop busy.
"""

import asyncio
from dataclasses import dataclass, field

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from schemas.errors import (
    InvalidRequest,
    MissingField,
    NotAnImage,
    TooMuchInFlight,
    UnsupportedEncoding,
    UploadStalled,
    UploadTooLarge,
)

LONGEST_FIELD = 4_096
MOST_PARTS = 32
FIELDS_ROOM = 64 * 1024
CHUNK = 256 * 1024
SILENCE_S = 60.0  # after which an upload is given up of which nothing more comes: it holds memory


@dataclass
class Upload:
    """A read upload. `data` is the file's bytes; `fields` are the text fields, including those of the query."""

    data: bytes
    filename: str
    fields: dict[str, str] = field(default_factory=dict)


class UploadMemory:
    """Limits the bytes of uploads that are being read."""

    def __init__(self, limit: int, largest: int) -> None:
        self._limit, self._largest = limit, largest
        self._used = 0

    def reserve(self, content_length: int | None) -> int:
        """The number of reserved bytes, for `give_back`. Raises UploadTooLarge, TooMuchInFlight (memory is used up)."""
        if content_length is not None and content_length > self._largest + FIELDS_ROOM:
            raise UploadTooLarge(
                f"the upload has {content_length:,} bytes, the limit is {self._largest:,}", limit=self._largest
            )
        size = self._largest if content_length is None else content_length
        if self._used and self._used + size > self._limit:
            raise TooMuchInFlight("too many uploads at once: send this one again in a second", retry_after=1)
        self._used += size
        return size

    def give_back(self, size: int) -> None:
        self._used -= size


async def read_upload(request: web.Request, largest: int) -> Upload:
    """Reads the body and the query. Raises MissingField, InvalidRequest, NotAnImage (an empty file), UploadTooLarge,
    UnsupportedEncoding, UploadStalled; CancelledError if the caller has left.
    """
    encoding = ", ".join(request.headers.getall("Content-Encoding", []))
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedEncoding("a body with a Content-Encoding is not read: send it as it is")
    if not request.content_type.startswith("multipart/form-data"):
        raise InvalidRequest("send multipart/form-data: curl -F directory=acme -F file=@photo.jpg")
    upload: Upload | None = None
    fields = query_fields(request)
    try:
        parts = 0
        async with asyncio.timeout(SILENCE_S) as silence:
            async for part in await request.multipart():
                parts += 1
                if parts > MOST_PARTS or not isinstance(part, BodyPartReader):
                    raise InvalidRequest(f"at most {MOST_PARTS} plain parts are read")
                if part.name == "file":
                    if upload is not None:
                        raise InvalidRequest("there are two files: send one image a request")
                    data = await _read_bytes(part, largest, silence)
                    upload = Upload(data, _decode_header(part.filename or ""))
                elif part.name:
                    _add(fields, _decode_header(part.name), await _read_text(part))
                else:
                    raise InvalidRequest("a part has no name: the picture's is 'file'")
    except TimeoutError:
        raise UploadStalled(f"nothing of the upload came for {SILENCE_S:.0f} s: send it again") from None
    except ConnectionError:  # nobody is there to be answered
        raise asyncio.CancelledError("the caller has left") from None
    except HttpProcessingError as error:  # bad headers of a part
        raise InvalidRequest(f"the multipart body is malformed: {_decode_header(error.message)}") from None
    except (ValueError, AssertionError, RuntimeError) as error:
        raise InvalidRequest(f"the multipart body is malformed: {_decode_header(str(error))}") from None
    if upload is None:
        raise MissingField("the field 'file' is missing: curl -F file=@photo.jpg", field="file")
    if not upload.data:
        raise NotAnImage("the file is empty: send a picture")
    upload.fields = fields
    return upload


def query_fields(request: web.Request) -> dict[str, str]:
    """The fields of the query. Raises InvalidRequest for one that is there twice."""
    fields: dict[str, str] = {}
    for name, text in request.query.items():
        _add(fields, name, text)
    return fields


def _add(fields: dict[str, str], name: str, text: str) -> None:
    if name in fields:
        raise InvalidRequest(
            f"the field '{name}' is there twice: send it once, in the form or in the query", field=name
        )
    fields[name] = text


def _decode_header(header: str) -> str:
    """The text of a header. aiohttp decodes bytes that are not UTF-8 as lone surrogates. They are replaced, because no
    record can contain them.
    """
    return header.encode(errors="surrogateescape").decode(errors="replace")


async def _read_bytes(part: BodyPartReader, largest: int, silence: asyncio.Timeout) -> bytes:
    chunks, size = [], 0
    while chunk := await part.read_chunk(CHUNK):
        silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
        size += len(chunk)
        if size > largest:
            raise UploadTooLarge(f"the file has more than {largest:,} bytes, which is the limit", limit=largest)
        chunks.append(chunk)
    return b"".join(chunks)


async def _read_text(part: BodyPartReader) -> str:
    data = bytearray()
    while chunk := await part.read_chunk(LONGEST_FIELD + 1):
        data += chunk
        if len(data) > LONGEST_FIELD:
            raise InvalidRequest(f"the field '{part.name}' is longer than {LONGEST_FIELD} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the field '{part.name}' is not UTF-8") from None
