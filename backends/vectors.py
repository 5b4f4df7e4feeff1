"""The ports of the vector store: faces with their vectors, the answers, and the hashes of API keys.

Most code only reads. `VectorReader` reads, `VectorDeleter` deletes as well, `VectorStore` can do everything: code that
takes one of the smaller ports cannot put by mistake. Matching is done in memory by the gallery (sink/), not here.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Face:
    """A learned face. `source` identifies the picture and the face in it (see schemas.ids), `timestamp` is the event's
    append time in ms.
    """

    person: str
    face_id: str
    image_id: str
    source: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class FaceVector:
    """A learned face in one generation. `vector`: (D,) float32, as the embedder returned it, not normalised."""

    directory: str
    generation: str
    face: Face
    vector: NDArray[np.float32]

    def check(self) -> None:
        """Raises InvalidRequest for values that a store cannot keep."""
        if self.vector.ndim != 1 or self.vector.dtype != np.float32:
            raise InvalidRequest(f"a vector is (D,) float32, this one {self.vector.shape} {self.vector.dtype}")
        face = self.face
        names = (self.directory, self.generation, face.person, face.face_id, face.image_id, face.source)
        try:
            "".join(names).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"a name of a face is not valid text: {error.reason}") from None


@dataclass(frozen=True, slots=True)
class FaceBlock:
    """Some faces of a gallery, with only what matching needs. `vectors`: (n, D) float32, in the order of the n
    `persons` and `face_ids`.
    """

    persons: Sequence[str]
    face_ids: Sequence[str]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.face_ids)


@dataclass(frozen=True, slots=True)
class PersonSummary:
    person: str
    faces: int


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as JSON text. It expires at `expires_at` (seconds since the epoch)."""

    image_id: str
    value: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret. `directory` None means every directory."""

    key_id: str
    secret_hash: str
    scope: str
    directory: str | None
    created_at: float


MOST_IN_BLOCK = 2_048  # faces: few enough that one block does not hold up the event loop
ANSWERS_IN_PAGE = 256  # some kB each
EXPIRED_KEPT_S = 7 * 86_400.0  # during this time an expired answer can be distinguished from one that never existed
ERASURES_KEPT_S = 10 * 86_400.0  # during this time an erased face cannot be put again: gc_grace_seconds of Cassandra


class VectorReader(ABC):
    """Reads faces and answers. Names of people and directories are any text up to 200 characters. Reads raise
    Unavailable.
    """

    @abstractmethod
    def read_gallery(self, directory: str, generation: str) -> AsyncIterator[FaceBlock]:
        """All faces of a gallery, in blocks of at most MOST_IN_BLOCK, in no particular order. A few blocks are in
        memory at a time.
        """

    @abstractmethod
    def read_faces(self, directory: str, generation: str) -> AsyncIterator[list[Face]]:
        """All faces of a gallery without their vectors, sorted by (person, face_id) by code point, in pages of at most
        MOST_IN_BLOCK. A few pages are in memory at a time. What is put or deleted meanwhile may be among them or not.
        """

    @abstractmethod
    async def directories(self, generation: str) -> list[str]:
        """Names of all directories with at least one face, sorted by code point."""

    @abstractmethod
    async def persons(
        self, directory: str, generation: str, *, after: str = "", limit: int = 100
    ) -> list[PersonSummary]:
        """The people of a directory whose names come after `after`, with their face counts, sorted by code point."""

    @abstractmethod
    async def faces(self, directory: str, generation: str, person: str) -> list[Face]:
        """The faces of a person, sorted by face_id; [] if there is no such person."""

    @abstractmethod
    async def answer(self, image_id: str) -> StoredAnswer | None:
        """The answer; an expired one for EXPIRED_KEPT_S or until it is swept; None if there is none."""

    @abstractmethod
    def read_answers(self) -> AsyncIterator[list[StoredAnswer]]:
        """All answers, including expired ones that are still kept, in no particular order, in pages of at most
        ANSWERS_IN_PAGE. A few pages are in memory at a time. What is put or deleted meanwhile may be among them or not.
        """

    @abstractmethod
    async def api_keys(self) -> list[ApiKey]: ...

    @abstractmethod
    async def ping(self) -> None:
        """Raises Unavailable when the store cannot be reached."""


class VectorDeleter(VectorReader):
    """Reads and deletes, for the eraser and the sweeps. Deletes are durable on return and raise StorageFull or
    Unavailable.
    """

    @abstractmethod
    async def delete_faces(
        self,
        directory: str,
        generations: Sequence[str],
        erased_at: int,
        *,
        person: str | None = None,
        face_id: str | None = None,
    ) -> None:
        """Deletes the faces of a directory, of one person in it, or the one face `face_id` of `person`, in these
        generations, if their timestamp is at most `erased_at` (ms). After a failure, call it again. For
        ERASURES_KEPT_S, a face that is put later with such a timestamp stays deleted, so that a worker that was
        suspended and has lost its partition cannot restore it. A directory without faces is not listed. Only such a
        worker may put into a directory while its faces are being deleted.
        """

    @abstractmethod
    async def delete_generation(self, generation: str) -> int:
        """Deletes every face of a generation; returns how many there were. Other writes continue meanwhile. After an
        interruption the next call deletes the rest. Whether faces put into that generation later are kept is undefined.
        """

    @abstractmethod
    async def delete_answers(self, image_ids: Sequence[str]) -> None:
        """Deletes the answers to these images, if there are any. Later answers to them can still be put."""

    @abstractmethod
    async def sweep_erasures(self) -> None:
        """Forgets erasures older than ERASURES_KEPT_S, and overwrites deleted data that is still readable in unused
        parts of the store's files. Servers do so on their own.
        """

    @abstractmethod
    async def sweep_answers(self, expired_before: float) -> None:
        """Deletes answers that expired before that time. Engines with a TTL do nothing."""


class VectorStore(VectorDeleter):
    """Reads, deletes and puts. Faces and answers are put only through stream.erase.guarded_store. Every write is
    durable on return; writes raise StorageFull or Unavailable.
    """

    @abstractmethod
    async def create(self) -> None:
        """Creates what the store needs on its server (keyspace and tables), or migrates it; safe if it exists already,
        and if several processes do it at once. Raises Unavailable.
        """

    @abstractmethod
    async def put_faces(self, faces: Sequence[FaceVector], *, listed: Container[tuple[str, str]] = ()) -> None:
        """Writes all faces or raises. A face with the same (directory, generation, person, face_id) is overwritten,
        unless the stored one has a later timestamp. `listed`: pairs of (directory, generation) that need not be listed
        again, because the caller has read a face of them that was not erased since.
        """

    @abstractmethod
    async def put_answers(self, answers: Sequence[StoredAnswer]) -> None:
        """Writes answers. They replace those with the same image_id."""

    @abstractmethod
    async def put_api_key(self, key: ApiKey) -> None: ...

    @abstractmethod
    async def delete_api_key(self, key_id: str) -> bool:
        """Deletes an API key. Returns whether there was one."""

    @abstractmethod
    async def close(self) -> None: ...


def deleted_key_prefix(person: str | None, face_id: str | None) -> tuple[str, ...]:
    """The part of a directory that delete_faces deletes: () for all, (person,) or (person, face_id). Checks the
    arguments.
    """
    if person is None and face_id is not None:
        raise ValueError("a face is deleted by its person and face_id")
    return tuple(it for it in (person, face_id) if it is not None)
