"""The port `VectorStore`: faces with their vectors, the answers, and the hashes of API keys.

It stores and lists; matching is the gallery's (sink/), in memory.
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
    """A learned face in one generation. `vector`: (D,) float32, as the embedder gave it, not normalised."""

    directory: str
    generation: str
    face: Face
    vector: NDArray[np.float32]

    def check(self) -> None:
        """Raises InvalidRequest for what no store can keep."""
        if self.vector.ndim != 1 or self.vector.dtype != np.float32:
            raise InvalidRequest(f"a vector is (D,) float32, this one {self.vector.shape} {self.vector.dtype}")
        face = self.face
        names = (self.directory, self.generation, face.person, face.face_id, face.image_id, face.source)
        try:
            "".join(names).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"a name of a face is no text: {error.reason}") from None


@dataclass(frozen=True, slots=True)
class FaceBlock:
    """Some faces of a gallery, no more of each than matching needs. `vectors`: (n, D) float32, in the order of the n
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
    """An answer as JSON text, gone after `expires_at` (seconds since the epoch)."""

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


MOST_IN_BLOCK = 2_048  # faces: few enough to be taken in between two others of the event loop's tasks
ANSWERS_IN_PAGE = 256  # some kB each
EXPIRED_KEPT_S = 7 * 86_400.0  # an expired answer is told from one that never was for so long
ERASURES_KEPT_S = 10 * 86_400.0  # what is put so long after it was erased is there again: gc_grace_seconds of Cassandra


class VectorStore(ABC):
    """Names of people and directories are any text up to 200 characters. Every write is durable on return; writes raise
    StorageFull or Unavailable, reads Unavailable.
    """

    @abstractmethod
    async def create(self) -> None:
        """Creates what the store needs on its server (keyspace and tables), or brings it up to date; safe when it is
        there, and when several do it at once. Raises Unavailable.
        """

    @abstractmethod
    async def put_faces(self, faces: Sequence[FaceVector], *, listed: Container[tuple[str, str]] = ()) -> None:
        """Writes all or says it failed. The same (directory, generation, person, face_id) is overwritten, unless what
        is stored has a later timestamp. `listed`: (directory, generation) of which the caller has read a face that is
        not erased since.
        """

    @abstractmethod
    def read_gallery(self, directory: str, generation: str) -> AsyncIterator[FaceBlock]:
        """All faces of a gallery, in blocks of at most MOST_IN_BLOCK, in no order that counts. Memory in use is that of
        a few.
        """

    @abstractmethod
    def read_faces(self, directory: str, generation: str) -> AsyncIterator[list[Face]]:
        """All faces of a gallery without their vectors, sorted by (person, face_id) by code point, in pages of at most
        MOST_IN_BLOCK. Memory in use is that of a few. What is put or deleted meanwhile is among them or is not.
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
        generations, as far as their timestamp is at most `erased_at` (ms); when it failed, do it again. For
        ERASURES_KEPT_S what is put later with such a timestamp is not there either: who wakes late brings nothing back.
        A directory that has no faces left is not listed. Whoever puts into a directory must not do so while its faces
        are deleted, but for who wakes late, and repeats.
        """

    @abstractmethod
    async def delete_generation(self, generation: str) -> int:
        """Deletes every face of a generation; returns how many there were. Others' writes go on meanwhile; where it was
        interrupted, the next call deletes the rest. What becomes of faces put into that generation later is open.
        """

    @abstractmethod
    async def sweep_erasures(self) -> None:
        """Forgets erasures older than ERASURES_KEPT_S, and overwrites what deletes have left unused but readable in the
        store's files. Servers do so by themselves.
        """

    @abstractmethod
    async def directories(self, generation: str) -> list[str]:
        """Names of all directories with at least one face, sorted by code point."""

    @abstractmethod
    async def persons(
        self, directory: str, generation: str, *, after: str = "", limit: int = 100
    ) -> list[PersonSummary]:
        """People of a directory with their face counts, sorted by code point, those after the name `after`."""

    @abstractmethod
    async def faces(self, directory: str, generation: str, person: str) -> list[Face]:
        """The faces of a person, sorted by face_id; [] where there is no such person."""

    @abstractmethod
    async def put_answers(self, answers: Sequence[StoredAnswer]) -> None:
        """Writes answers, over those with the same image_id."""

    @abstractmethod
    async def answer(self, image_id: str) -> StoredAnswer | None:
        """The answer, expired ones too for EXPIRED_KEPT_S or until they are swept; None where there is none."""

    @abstractmethod
    def read_answers(self) -> AsyncIterator[list[StoredAnswer]]:
        """All answers, expired ones too as long as they are kept, in no order that counts, in pages of at most
        ANSWERS_IN_PAGE. Memory in use is that of a few. What is put or deleted meanwhile is among them or is not.
        """

    @abstractmethod
    async def delete_answers(self, image_ids: Sequence[str]) -> None:
        """Deletes the answers to these images, where there are any. One that is put later is there."""

    @abstractmethod
    async def sweep_answers(self, expired_before: float) -> None:
        """Deletes answers that expired before that time. Engines with a TTL do nothing."""

    @abstractmethod
    async def put_api_key(self, key: ApiKey) -> None: ...

    @abstractmethod
    async def api_keys(self) -> list[ApiKey]: ...

    @abstractmethod
    async def delete_api_key(self, key_id: str) -> bool:
        """True where there was one."""

    @abstractmethod
    async def ping(self) -> None:
        """Raises Unavailable when the store cannot be reached."""

    @abstractmethod
    async def close(self) -> None: ...


def check_erased(person: str | None, face_id: str | None) -> tuple[str, ...]:
    """Whom delete_faces was asked for within a directory: nobody alone, a person, or a person and the face_id."""
    if person is None and face_id is not None:
        raise ValueError("a face is deleted by its person and face_id")
    return tuple(it for it in (person, face_id) if it is not None)
