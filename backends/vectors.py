"""The port `VectorStore`: faces with their vectors, the answers, and the hashes of API keys.

It stores and lists; matching is the gallery's (sink/), in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Face:
    """A learned face. `source` identifies the picture and the face in it (see schemas.ids), `timestamp` is the event's append
    time in ms.
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


@dataclass(frozen=True, slots=True)
class FaceBlock:
    """Some faces of a gallery. `vectors`: (len(faces), D) float32, in the order of `faces`."""

    faces: Sequence[Face]
    vectors: NDArray[np.float32]


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


class VectorStore(ABC):
    """Names of people and directories are any text up to 200 characters. Every write is durable on return; writes raise
    StorageFull or Unavailable, reads Unavailable.
    """

    @abstractmethod
    async def put_faces(self, faces: Sequence[FaceVector]) -> None:
        """Writes all or says it failed. The same (directory, generation, person, face_id) is overwritten, unless what is stored
        has a later timestamp.
        """

    @abstractmethod
    def read_gallery(self, directory: str, generation: str) -> AsyncIterator[FaceBlock]:
        """All faces of a gallery, in blocks of at most 65,536, in no order that counts. Memory in use is a block at a time."""

    @abstractmethod
    async def directories(self, generation: str) -> list[str]:
        """Names of all directories with at least one face, sorted by code point."""

    @abstractmethod
    async def persons(self, directory: str, generation: str, *, after: str = "", limit: int = 100) -> list[PersonSummary]:
        """People of a directory with their face counts, sorted by code point, those after the name `after`."""

    @abstractmethod
    async def faces(self, directory: str, generation: str, person: str) -> list[Face]:
        """The faces of a person, sorted by face_id; [] where there is no such person."""

    @abstractmethod
    async def put_answers(self, answers: Sequence[StoredAnswer]) -> None:
        """Writes answers, over those with the same image_id."""

    @abstractmethod
    async def answer(self, image_id: str) -> StoredAnswer | None:
        """The answer, expired ones too as long as they are not swept; None where there is none."""

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


def open_vectors(url: str) -> VectorStore:
    """The store that a URL names: `sqlite:///relative/vectors.db`, `sqlite:////absolute/vectors.db`."""
    from backends.urls import path_of, scheme_of

    scheme = scheme_of(url, known=("sqlite",), setting="FACESTREAM_VECTORS")
    assert scheme == "sqlite"
    from backends.vectors_sqlite import SqliteVectors

    return SqliteVectors(path_of(url))
