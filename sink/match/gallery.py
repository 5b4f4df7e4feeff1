"""A gallery: the faces of one directory in one generation, in memory, and exact matching against all of them.

sink/match/people.py defines the similarity to a person, and finds the most similar people from the similarities to all
faces.
"""

import uuid
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from backends.vectors import FaceBlock
from schemas.arrays import Float32Array
from sink.match.names import NumberedNames
from sink.match.people import BELOW_ALL, FOLDS, Match, PersonIndex
from sink.match.strangers import StrangerEstimator

T = TypeVar("T", bound=np.generic)

BLOCK_ROWS = 65_536
MOST_SIMILARITIES = 8_000_000  # in one matrix product, 32 MB: more probes are matched in parts
FEW_IDS = 64  # fewer face ids than this are found faster one by one
LEAST_ROWS = 64
DOUBLING_ROWS = 4_096  # up to this many rows a gallery grows by doubling, above that by whole blocks


class Candidate(NamedTuple):
    """A person and the similarity to them; `face_id` is the person's most similar face."""

    person: str
    similarity: float
    face_id: str


class Gallery:
    """The faces of one directory in one generation. Not safe for several threads at once."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        # (BLOCK_ROWS, D) each, of unit length; that of a small gallery is smaller.
        self._blocks: list[Float32Array] = [np.empty((0, dimension), np.float32)]
        self._rows = 0
        self._person_of = np.empty(0, np.int32)  # (capacity,), the person of each row
        self._face_ids = np.empty((0, 2), np.uint64)  # (capacity, 2), the 16 bytes of each
        self._names = NumberedNames()
        self._index: PersonIndex | None = None  # of all rows; None if a row was added since it was made
        self._stranger_estimator: StrangerEstimator | None = None

    @property
    def people(self) -> int:
        return len(self._names)

    @property
    def faces(self) -> int:
        return self._rows

    def has_person(self, person: str) -> bool:
        return person in self._names

    @property
    def nbytes(self) -> int:
        """Approximate memory in use: rows that were never written take none."""
        return self._rows * (4 * self.dimension + 24) + self._names.nbytes + 8 * self.people

    def load(self, block: FaceBlock) -> None:
        """Adds faces whose ids are not in the gallery yet, many at a time."""
        self._append(_keys(block.face_ids), self._names.numbers(block.persons), block.vectors)
        self._stranger_estimator = None

    def add(self, block: FaceBlock) -> None:
        """Adds faces as they are learned; a face with an id that is in the gallery replaces the earlier one."""
        keys = _keys(block.face_ids)
        last = {key.tobytes(): i for i, key in enumerate(keys)}  # of several with the same id the last one is used
        known = self._rows_of(keys)
        new = [i for key, i in last.items() if key not in known]
        for key, row in known.items():
            i = last[key]
            _to_unit_length(block.vectors[i : i + 1], self._blocks[row // BLOCK_ROWS][row % BLOCK_ROWS][None])
        people = self._names.numbers([block.persons[i] for i in new])
        self._append(keys[new], people, block.vectors[new])
        if self._stranger_estimator is not None:
            self._stranger_estimator.update(
                self, sorted({*people.tolist(), *self._person_of[list(known.values())].tolist()})
            )

    def match(self, probes: Float32Array, top: int) -> list[list[Candidate]]:
        """The `top` most similar people for each probe, best first. probes: (B, D), of any length but zero."""
        units = np.empty(probes.shape, np.float32)
        _to_unit_length(probes, units)
        return [[self._candidate(it) for it in found] for found in self.best_matches(units, top)]

    def best_matches(self, units: Float32Array, top: int) -> list[list[Match]]:
        """As `match`, but with the numbers of people and rows. units: (B, D), unit length."""
        if not self._rows:
            return [[] for _ in units]
        index = self._person_index()
        height = -(-self._rows // FOLDS) * FOLDS
        part_size = max(1, MOST_SIMILARITIES // height)
        found = []
        for begin in range(0, len(units), part_size):
            part = units[begin : begin + part_size]
            similarities = np.empty((height, len(part)), np.float32)
            similarities[self._rows :] = BELOW_ALL
            for i, block in enumerate(self._blocks):
                low, high = i * BLOCK_ROWS, min((i + 1) * BLOCK_ROWS, self._rows)
                # in this order the product takes up to a third less time than in the transposed one
                np.matmul(block[: high - low], part.T, out=similarities[low:high])
            found += index.best_matches(similarities, top)
        return found

    def stranger_similarities(self) -> Float32Array:
        """Best similarities that strangers reach here, (s,), estimated with up to MOST_STAND_INS enrolled people.

        Each is the best similarity of one face of an enrolled person to any other person.
        """
        if self.people < 2:
            return np.empty(0, np.float32)
        if self._stranger_estimator is None:
            self._stranger_estimator = StrangerEstimator(self)
        return self._stranger_estimator.similarities()

    def name_of(self, person: int) -> str:
        return self._names[person]

    def vectors_of(self, person: int) -> Float32Array:
        """(faces of the person, D), unit length."""
        return np.stack([self._unit(row) for row in self._person_index().rows_of(person)])

    def first_vector_of(self, person: int) -> Float32Array:
        """(D,), the vector of the face with the smallest face_id: this choice does not depend on the order of
        learning.
        """
        return self._unit(min(self._person_index().rows_of(person), key=lambda row: self._face_ids[row].tobytes()))

    def _unit(self, row: int) -> Float32Array:
        unit: Float32Array = self._blocks[row // BLOCK_ROWS][row % BLOCK_ROWS]
        return unit

    def _person_index(self) -> PersonIndex:
        if self._index is None:
            self._index = PersonIndex(self._person_of[: self._rows], self.people)
        return self._index

    def _candidate(self, match: Match) -> Candidate:
        hex_ = self._face_ids[match.row].tobytes().hex()
        face_id = f"{hex_[:8]}-{hex_[8:12]}-{hex_[12:16]}-{hex_[16:20]}-{hex_[20:]}"
        return Candidate(self._names[match.person], match.similarity, face_id)

    def _append(self, keys: NDArray[np.uint64], people: NDArray[np.int32], vectors: Float32Array) -> None:
        begin, end = self._rows, self._rows + len(keys)
        self._reserve(end)
        for i in range(begin // BLOCK_ROWS, -(-end // BLOCK_ROWS)):
            low, high = max(begin, i * BLOCK_ROWS), min(end, (i + 1) * BLOCK_ROWS)
            rows = self._blocks[i][low - i * BLOCK_ROWS : high - i * BLOCK_ROWS]
            _to_unit_length(vectors[low - begin : high - begin], rows)
        self._face_ids[begin:end] = keys
        self._person_of[begin:end] = people
        self._rows = end
        self._index = None

    def _rows_of(self, keys: NDArray[np.uint64]) -> dict[bytes, int]:
        """The row of each key that is in the gallery."""
        firsts = self._face_ids[: self._rows, 0]
        if len(keys) < FEW_IDS:
            rows = [row for first in keys[:, 0] for row in np.flatnonzero(firsts == first)]
        else:
            rows = list(np.flatnonzero(np.isin(firsts, keys[:, 0])))
        found = {self._face_ids[row].tobytes(): int(row) for row in rows}
        return {key: found[key] for key in map(bytes, keys) if key in found}

    def _reserve(self, rows: int) -> None:
        """Makes room for this many rows. A large gallery grows by whole blocks, which are not copied."""
        while rows > len(self._person_of):
            length = max(2 * len(self._person_of), rows, LEAST_ROWS)
            if length > DOUBLING_ROWS:
                length = (len(self._person_of) // BLOCK_ROWS + 1) * BLOCK_ROWS
            if len(self._person_of) < BLOCK_ROWS:
                self._blocks = [_grow(block, length) for block in self._blocks]
            else:
                self._blocks.append(np.empty((BLOCK_ROWS, self.dimension), np.float32))
            self._person_of, self._face_ids = _grow(self._person_of, length), _grow(self._face_ids, length)


def _grow(values: NDArray[T], length: int) -> NDArray[T]:
    """A copy with room for `length` rows."""
    longer = np.empty((length, *values.shape[1:]), values.dtype)
    longer[: len(values)] = values
    return longer


def _to_unit_length(vectors: Float32Array, units: Float32Array) -> None:
    """Writes `vectors`, scaled to unit length, to `units`; both (n, D). Without a finite length a vector becomes 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        np.divide(vectors, np.maximum(lengths, 1e-12)[:, None], out=units)
    units[~np.isfinite(lengths)] = 0


def _keys(face_ids: Sequence[str]) -> NDArray[np.uint64]:
    """(n, 2), the 16 bytes of each id."""
    digits = "".join(face_ids).replace("-", "")
    if set(map(len, face_ids)) <= {36} and len(digits) == 32 * len(face_ids):  # as uuid writes them
        return np.frombuffer(bytes.fromhex(digits), np.uint64).reshape(-1, 2)
    return np.frombuffer(b"".join(uuid.UUID(it).bytes for it in face_ids), np.uint64).reshape(-1, 2)
