"""The metadata that the object store keeps with a picture: to whom it belongs, and when its image was received."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Self


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """The metadata of an original, a sheet of crops or the crop of a learned face.

    `received_at`: when the image was uploaded, in ms. `image_id`: set only for a crop, because the key of any other
    object contains it. `request_digest`: see ImageReceived. `source`: for an original that was copied from our own
    bucket, the part after `incoming/{directory}/` of its source's key. `erasures_seen`: the offset in `erasures` up to
    which the process that stored it knew the erasures. A field is None if the object has no such metadata.
    """

    directory: str | None = None
    person: str | None = None
    image_id: str | None = None
    request_digest: str | None = None
    received_at: int | None = None
    source: str | None = None
    erasures_seen: int | None = None

    def encode(self) -> dict[str, str]:
        """The names and texts in the store. Older versions rely on the first three being there."""
        metadata = {
            "directory": self.directory or "",
            "person": self.person or "",
            "request": self.request_digest or "",
        }
        if self.received_at is not None:
            metadata["received"] = str(self.received_at / 1000)  # seconds
        if self.image_id is not None:
            metadata["image_id"] = self.image_id
        if self.source is not None:
            metadata["source"] = self.source
        if self.erasures_seen is not None:
            metadata["erasures"] = str(self.erasures_seen)
        return metadata

    @classmethod
    def decode(cls, metadata: Mapping[str, str]) -> Self:
        """The inverse of `encode`. Raises ValueError if one of the numbers is none."""
        received, erasures = metadata.get("received"), metadata.get("erasures")
        return cls(
            directory=metadata.get("directory") or None,
            person=metadata.get("person") or None,
            image_id=metadata.get("image_id"),
            request_digest=metadata.get("request") or None,
            received_at=None if received is None else _milliseconds(received),
            source=metadata.get("source"),
            erasures_seen=None if erasures is None else int(erasures),
        )


def _milliseconds(seconds: str) -> int:
    """Converts seconds to milliseconds, rounded up: older versions wrote microseconds, and a picture received just
    after an erasure must not seem to be received before it. Decimal, because 1000 times a float is not exact.
    """
    try:
        return ceil(Decimal(seconds) * 1000)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"'{seconds}' is no number of seconds") from error
