"""The ports of the object store: named byte strings, each written completely or not at all.

Most code only reads. `ObjectReader` reads, `ObjectDeleter` deletes as well, `ObjectStore` can do everything: code that
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
    """The key and the time of an object. `modified` is in seconds since the epoch, by the store's clock. `version` is
    None, except for an older version: one that was replaced, or whose object was deleted.
    """

    key: str
    size: int
    modified: float
    version: str | None = None


class ObjectReader(ABC):
    """Reads objects. A key is any text of 1 to 300 characters. '/' separates levels; all other characters, also '..'
    and NUL, have no special meaning. Values are up to 1 GB.

    Metadata is a few ASCII names, each with any text, under 2 kB in all.
    """

    @abstractmethod
    async def get(self, key: str) -> StoredObject:
        """Raises ObjectMissing, Unavailable."""

    @abstractmethod
    async def metadata(self, key: str, *, version: str | None = None) -> Mapping[str, str] | None:
        """The metadata alone, of the object or of an older version; None if there is none."""

    @abstractmethod
    async def fetch(self, bucket: str, name: str, *, etag: str | None, largest: int) -> bytes:
        """An object of any bucket on this store's server, by the name that other systems use. In a file store, the
        bucket is the name of the store's folder, and the names are the keys. Raises ObjectMissing, also when the object
        is no longer what `etag` says, UploadTooLarge above `largest` bytes, Unavailable.
        """

    @abstractmethod
    def key_of(self, bucket: str, name: str) -> str | None:
        """The key of the object that other systems know by this name; None if it is not in this store."""

    @abstractmethod
    def list(self, prefix: str = "", *, versions: bool = False) -> AsyncIterator[ObjectInfo]:
        """All objects whose key starts with the prefix, in no particular order. With `versions`, also older versions,
        where something outside this program has the store keep them.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Raises Unavailable when the store cannot be reached, ConfigurationError if nothing can be erased in it."""


class ObjectDeleter(ObjectReader):
    """Reads and deletes: what the eraser and the sweeps need."""

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes objects with all their versions; durable on return. A key without an object is no error."""

    @abstractmethod
    async def delete_older(self, keys: Sequence[str]) -> None:
        """Deletes the older versions of objects, durably, and leaves the objects."""


class ObjectStore(ObjectDeleter):
    """Reads, deletes and puts. Anything that belongs to a person or an image is put only through
    stream.erase.guarded_store.
    """

    @abstractmethod
    async def create(self) -> None:
        """Creates what the store needs on its server (a bucket); safe if it exists already, and if several processes do
        it at once. Raises Unavailable, and ConfigurationError as `ping` does.
        """

    @abstractmethod
    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        """Stores an object under the key and replaces an existing one. It is durable on return, and never visible in
        part. With `if_absent`, an existing object stays as it is, and the result is False: of several concurrent puts,
        one returns True. Raises StorageFull, Unavailable, InvalidRequest (a key or metadata out of bounds).
        """

    @abstractmethod
    async def close(self) -> None: ...
