"""A gallery: the faces of one directory in one generation, in memory, and exact matching against all of them.

The similarity of a probe to a person is the mean of two cosines: that of the person's best face, and the mean over all faces
of that person. The best alone draws strangers to people with many portraits (with 1 portrait for most and 7 to 9 for 28 % of
the people of LFW, 67 % of strangers came nearest to one of the 28 %, with the mean of both 33 %), the mean alone wastes a good
match among bad ones.
"""

import hashlib
import uuid
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.vectors import FaceBlock

Floats = NDArray[np.float32]

BLOCK_ROWS = 65_536
SENTINELS = 1_000  # people who play the stranger: enough for one in a hundred, and a deterministic choice of them
MOST_SIMILARITIES = 4_000_000  # of one matrix product, 16 MB: probes are taken in parts


@dataclass(frozen=True, slots=True)
class Candidate:
    """`face_id` is the person's best face, `similarity` as the module says."""

    person: str
    similarity: float
    face_id: str


class Gallery:
    """Not for several threads at once."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._blocks: list[Floats] = []  # (BLOCK_ROWS, D) each, unit length
        self._rows = 0
        self._person_of = np.empty(0, np.int32)  # (capacity,), the person of each row
        self._face_ids = np.empty((0, 2), np.uint64)  # (capacity, 2), the 16 bytes of each
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._strangers: _Strangers | None = None

    @property
    def people(self) -> int:
        return len(self._names)

    @property
    def faces(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        """Memory in use, roughly."""
        return sum(block.nbytes for block in self._blocks) + self._person_of.nbytes + self._face_ids.nbytes + 120 * self.people

    def load(self, block: FaceBlock) -> None:
        """Adds faces that are not there yet, many at a time."""
        begin, end = self._rows, self._rows + len(block.faces)
        self._reserve(end)
        units = _units(block.vectors)
        for i in range(begin // BLOCK_ROWS, -(-end // BLOCK_ROWS)):
            low, high = max(begin, i * BLOCK_ROWS), min(end, (i + 1) * BLOCK_ROWS)
            self._blocks[i][low - i * BLOCK_ROWS : high - i * BLOCK_ROWS] = units[low - begin : high - begin]
        ids = b"".join(uuid.UUID(face.face_id).bytes for face in block.faces)
        self._face_ids[begin:end] = np.frombuffer(ids, np.uint64).reshape(-1, 2)
        self._person_of[begin:end] = [self._person(face.person) for face in block.faces]
        self._rows = end
        self._strangers = None

    def add(self, block: FaceBlock) -> None:
        """Adds faces as they are learned; one that is there already (the same face_id) is replaced."""
        touched = set()
        for face, unit in zip(block.faces, _units(block.vectors), strict=True):
            row = self._row_of(face.face_id)
            if row is None:
                row = self._rows
                self._reserve(row + 1)
                self._face_ids[row] = _key(face.face_id)
                self._person_of[row] = self._person(face.person)
                self._rows += 1
            self._blocks[row // BLOCK_ROWS][row % BLOCK_ROWS] = unit
            touched.add(int(self._person_of[row]))
        if self._strangers is not None:
            for person in sorted(touched):
                self._strangers.changed(self, person)

    def match(self, probes: Floats, top: int) -> list[list[Candidate]]:
        """The `top` best people of each probe, best first. probes: (B, D), any length but zero."""
        if not self._rows:
            return [[] for _ in probes]
        found = []
        units = _units(probes)
        at_once = max(1, MOST_SIMILARITIES // self._rows)
        for begin in range(0, len(units), at_once):
            similarities, scores = self._scores(units[begin : begin + at_once])  # (b, rows), (b, people)
            for row_similarities, person_scores in zip(similarities, scores, strict=True):
                found.append(self._candidates(row_similarities, person_scores, top))
        return found

    def best_of_others(self) -> Floats:
        """For up to SENTINELS people, the best similarity of one of their faces to anybody else: how strangers fare here."""
        if self.people < 2:
            return np.empty(0, np.float32)
        if self._strangers is None:
            self._strangers = _Strangers(self)
        return self._strangers.best()

    def _candidates(self, similarities: Floats, scores: Floats, top: int) -> list[Candidate]:
        best: list[tuple[int, float]] = []
        for _ in range(min(top, len(scores))):
            person = int(scores.argmax())  # a few passes cost less than a partition
            score, scores[person] = float(scores[person]), -np.inf
            best.append((person, score))
        for person, score in best:
            scores[person] = score
        found = []
        for person, score in best:
            rows = self.rows_of(person)
            row = rows[int(np.argmax(similarities[rows]))]
            face_id = str(uuid.UUID(bytes=self._face_ids[row].tobytes()))
            found.append(Candidate(self._names[person], score, face_id))
        return found

    def _scores(self, units: Floats) -> tuple[Floats, Floats]:
        """units: (b, D). Returns the similarity to each face (b, rows) and to each person (b, people)."""
        similarities = np.empty((len(units), self._rows), np.float32)
        for i, block in enumerate(self._blocks):
            begin, end = i * BLOCK_ROWS, min((i + 1) * BLOCK_ROWS, self._rows)
            np.matmul(units, block[: end - begin].T, out=similarities[:, begin:end])
        if self._rows == self.people:  # one face a person, in order
            return similarities, similarities
        person_of = self._person_of[: self._rows]
        counts = np.bincount(person_of, minlength=self.people)
        scores = np.full((len(units), self.people), -2, np.float32)
        for row, best in zip(similarities, scores, strict=True):
            np.maximum.at(best, person_of, row)
            best += np.bincount(person_of, weights=row, minlength=self.people) / counts
            best /= 2
        return similarities, scores

    def rows_of(self, person: int) -> NDArray[np.intp]:
        if self._rows == self.people:  # one face a person, in order
            return np.array([person])
        return np.flatnonzero(self._person_of[: self._rows] == person)

    def rows(self, rows: NDArray[np.intp]) -> Floats:
        """(len(rows), D), unit length."""
        return np.stack([self._blocks[row // BLOCK_ROWS][row % BLOCK_ROWS] for row in rows])

    def first_row(self, person: int) -> int:
        """The row of a person's smallest face_id: a choice that does not depend on the order of learning."""
        rows = self.rows_of(person)
        return int(min(rows, key=lambda row: self._face_ids[row].tobytes()))

    def name(self, person: int) -> str:
        return self._names[person]

    def _row_of(self, face_id: str) -> int | None:
        high, low = _key(face_id)
        rows = np.flatnonzero(self._face_ids[: self._rows, 0] == high)
        return next((int(row) for row in rows if self._face_ids[row, 1] == low), None)

    def _person(self, name: str) -> int:
        person = self._index.setdefault(name, len(self._names))
        if person == len(self._names):
            self._names.append(name)
        return person

    def _reserve(self, rows: int) -> None:
        while rows > len(self._blocks) * BLOCK_ROWS:
            self._blocks.append(np.empty((BLOCK_ROWS, self._dimension), np.float32))
        if rows > len(self._person_of):
            capacity = max(64, rows + rows // 8)
            self._person_of = np.resize(self._person_of, capacity)
            self._face_ids = np.resize(self._face_ids, (capacity, 2))


class _Strangers:
    """The best similarity to anybody else of some people, those whose names have the smallest hashes, kept up to date."""

    def __init__(self, gallery: Gallery) -> None:
        hashes = sorted((_hash(gallery.name(person)), person) for person in range(gallery.people))
        self._members = hashes[:SENTINELS]
        self._best: dict[int, float] = {}
        self._nearest: dict[int, int] = {}
        self._units: dict[int, Floats] = {}
        self._look(gallery, [person for _, person in self._members])

    def best(self) -> Floats:
        return np.fromiter((self._best[person] for _, person in self._members), np.float32)

    def changed(self, gallery: Gallery, person: int) -> None:
        """A person is new, or has other faces than before."""
        stale = [person] if person in self._best else []
        units = np.stack([self._units[member] for member in self._best])  # (s, D)
        similarities = units @ gallery.rows(gallery.rows_of(person)).T  # (s, faces of the person)
        scores = (similarities.max(1) + similarities.mean(1)) / 2
        for member, score in zip(list(self._best), scores, strict=True):
            if member == person:
                continue
            if score >= self._best[member]:
                self._best[member], self._nearest[member] = float(score), person
            elif self._nearest[member] == person:
                stale.append(member)
        entry = (_hash(gallery.name(person)), person)
        if person not in self._best and (len(self._members) < SENTINELS or entry < self._members[-1]):
            insort(self._members, entry)
            stale.append(person)
            for _, evicted in self._members[SENTINELS:]:
                del self._best[evicted], self._nearest[evicted], self._units[evicted]
            del self._members[SENTINELS:]
        self._look(gallery, stale)

    def _look(self, gallery: Gallery, members: Sequence[int]) -> None:
        at_once = max(1, MOST_SIMILARITIES // max(1, gallery.faces))
        for begin in range(0, len(members), at_once):
            part = members[begin : begin + at_once]
            units = gallery.rows(np.array([gallery.first_row(person) for person in part]))
            _, scores = gallery._scores(units)  # (part, people)
            scores = scores.copy()
            scores[np.arange(len(part)), part] = -2
            for person, unit, nearest in zip(part, units, scores.argmax(1), strict=True):
                self._units[person], self._nearest[person] = unit, int(nearest)
            self._best.update(zip(part, map(float, scores.max(1)), strict=True))


def _units(vectors: Floats) -> Floats:
    """(n, D) of unit length."""
    vectors = np.asarray(vectors, np.float32)
    units: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return units


def _key(face_id: str) -> NDArray[np.uint64]:
    return np.frombuffer(uuid.UUID(face_id).bytes, np.uint64)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
