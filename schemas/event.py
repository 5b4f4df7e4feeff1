"""The base of every record: versioned, frozen, read from JSON and written as JSON."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from schemas.errors import UnreadableRecord
from schemas.json_types import WHOLE, NotTrue

Header = tuple[str, bytes | None]  # of a record: a name, which may occur several times, and a value

LONGEST_PART = 100  # characters of a name in a message

# Cassandra counts microseconds in 63 bits.
Milliseconds = Annotated[int, Strict(), Field(ge=0, lt=2**53, description="since the epoch, by the log's clock"), WHOLE]


class EventRecord(BaseModel):
    """Base of the records in topics. A record of another version is refused; unknown members are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    version: Annotated[Literal[1], NotTrue] = 1

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Parses a record's value. Raises UnreadableRecord, which names the member that does not fit."""
        if value is None:
            raise UnreadableRecord(f"a tombstone is not a valid {cls.__name__}")
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            raise schema_mismatch(error, cls.__name__) from None

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


def schema_mismatch(error: ValidationError, what: str) -> UnreadableRecord:
    """The error of a record that does not fit: it names the first wrong member, never the content. Names are shortened:
    that of an unknown member may be as large as a record, and the answer must fit into one.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part)[:LONGEST_PART] for part in first["loc"])
    details = {"field": field} if field else {}
    article = "an" if what[0] in "AEIO" else "a"
    reason = first["msg"].removeprefix("Value error, ")
    return UnreadableRecord(f"not {article} {what}: {field or 'the record'}: {reason}", **details)
