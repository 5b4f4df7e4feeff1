"""The ports of the object store: named bytes, written whole or not at all.

Most code only reads. `ObjectReader` reads, `ObjectDeleter` deletes as well, `ObjectStore` can do everything: whoever
takes one of the smaller ports cannot put by mistake.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredObject:
    data: bytes
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`modified` is in seconds since the epoch, by the store's clock."""

    key: str
    size: int
    modified: float


class ObjectReader(ABC):
    """Keys are any text of 1 to 300 characters, '/' separates levels; any other character, '..' and NUL too, is only a
    character. Values are up to 1 GB.

    Metadata is a handful of ASCII names with any text, under 2 kB in all.
    """

    @abstractmethod
    async def get(self, key: str) -> StoredObject:
        """Raises ObjectMissing, Unavailable."""

    @abstractmethod
    async def metadata(self, key: str) -> Mapping[str, str] | None:
        """The metadata alone; None where there is no such object."""

    @abstractmethod
    async def fetch(self, bucket: str, name: str, *, etag: str | None, largest: int) -> bytes:
        """An object of any bucket on this store's server, by its name there, as other systems know it. For a folder,
        its own name is the bucket, and keys are the names. Raises ObjectMissing, also when the object is no longer what
        `etag` says, UploadTooLarge above `largest` bytes, Unavailable.
        """

    @abstractmethod
    def key_of(self, bucket: str, name: str) -> str | None:
        """The key of the object that other systems know by this name; None where it is not in this store."""

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """All objects whose key starts with the prefix, in no particular order."""

    @abstractmethod
    async def ping(self) -> None:
        """Raises Unavailable when the store cannot be reached."""


class ObjectDeleter(ObjectReader):
    """Reads and deletes: what the eraser and the sweeps need."""

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes; durable on return. A key that is not there is no error."""


class ObjectStore(ObjectDeleter):
    """Everything. What belongs to a person or an image is put through stream.erase.guarded_store alone."""

    @abstractmethod
    async def create(self) -> None:
        """Creates what the store needs on its server (a bucket); safe when it is there, and when several do it at once.
        Raises Unavailable.
        """

    @abstractmethod
    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        """Stores under the key, over what was there; durable on return, and never seen in part. With `if_absent`, an
        object that is there already stays as it is, and the answer is False: of several that put at once, one gets
        True. Raises StorageFull, Unavailable, InvalidRequest (a key or metadata out of bounds).
        """

    @abstractmethod
    async def close(self) -> None: ...
