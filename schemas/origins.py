"""The order of images and erasures, which comes from offsets in the log and from no clock."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from schemas.json_types import Integer


class Origin(BaseModel):
    """The first record of an image: where it came into the stream. Retries and later stages carry it on."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: Integer = Field(ge=0, lt=2**31)
    offset: Integer = Field(ge=0, lt=2**53)


class Cut(BaseModel):
    """A moment in the topics in which images come into the stream: for each topic the next offset of every partition.
    What came before it lies below.
    """

    model_config = ConfigDict(frozen=True)

    next_offsets: dict[str, list[Annotated[int, Field(ge=0)]]]

    def covers(self, origin: Origin | None) -> bool:
        """Whether an image came before this moment. It did if its origin is unknown: if its record is one of an older
        version, or names a topic in which no images come in.
        """
        if origin is None or origin.topic not in self.next_offsets:
            return True
        offsets = self.next_offsets[origin.topic]
        return origin.partition < len(offsets) and origin.offset < offsets[origin.partition]

    def united(self, other: Self | None) -> Self:
        """The later of both moments, partition by partition."""
        if other is None:
            return self
        topics = self.next_offsets.keys() | other.next_offsets.keys()
        both = {it: (self.next_offsets.get(it, []), other.next_offsets.get(it, [])) for it in sorted(topics)}
        united = {
            it: [max(pair) for pair in zip(mine, theirs, strict=True)] if mine and theirs else mine or theirs
            for it, (mine, theirs) in both.items()
        }
        return self.model_copy(update={"next_offsets": united})
