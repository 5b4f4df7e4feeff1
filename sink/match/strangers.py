"""Estimates how similar strangers are to a gallery, with the gallery's own people.

Some of its people are treated as strangers: the best similarity of each to any other person is what a stranger would
reach.
"""

import hashlib
from bisect import bisect
from collections.abc import Sequence
from heapq import nsmallest
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.arrays import Float32Array
from sink.match.people import Match

MOST_STAND_INS = (
    1_000  # people who are treated as strangers: enough to estimate a false positive rate of one in a hundred
)


class EnrolledPeople(Protocol):
    """The part of a gallery that `StrangerEstimator` needs. People are numbers from 0 to people - 1."""

    dimension: int

    @property
    def people(self) -> int: ...

    def name_of(self, person: int) -> str: ...

    def vectors_of(self, person: int) -> Float32Array:
        """(faces of the person, D), unit length."""

    def first_vector_of(self, person: int) -> Float32Array:
        """(D,), of one face, which does not depend on the order of learning."""

    def best_matches(self, units: Float32Array, top: int) -> Sequence[Sequence[Match]]:
        """The `top` most similar people of each, best first. units: (B, D), unit length."""


class StrangerEstimator:
    """The people whose names have the smallest hashes, and the similarity of each to the nearest other person.

    The hash makes the choice deterministic. All arrays are in the order of the hashes.
    """

    def __init__(self, gallery: EnrolledPeople) -> None:
        self._hashes = nsmallest(
            MOST_STAND_INS, ((_hash(gallery.name_of(person)), person) for person in range(gallery.people))
        )
        self._members = np.array([person for _, person in self._hashes], np.int32)  # (s,)
        self._units = np.empty((len(self._members), gallery.dimension), np.float32)  # (s, D), a face of each
        self._best = np.empty(len(self._members), np.float32)  # (s,), the similarity to the nearest other person
        self._nearest = np.empty(len(self._members), np.int32)  # (s,), who that is
        self._find_nearest(gallery, np.arange(len(self._members)))

    def similarities(self) -> Float32Array:
        """(s,), the similarity of each to the nearest other person."""
        return self._best.copy()

    def update(self, gallery: EnrolledPeople, people: list[int]) -> None:
        """Updates the similarities for people who are new or whose faces have changed."""
        stale = set(people)
        for person in people:
            similarities = self._units @ gallery.vectors_of(person).T  # (s, faces of the person)
            scores = (similarities.max(1) + similarities.mean(1)) / 2
            others = self._members != person
            stale.update(self._members[others & (self._nearest == person) & (scores < self._best)].tolist())
            nearer = others & (scores >= self._best)
            self._best[nearer], self._nearest[nearer] = scores[nearer], person
        for person in people:
            if person not in self._members:
                self._insert(gallery, person)
        self._find_nearest(gallery, np.flatnonzero(np.isin(self._members, list(stale))))

    def _insert(self, gallery: EnrolledPeople, person: int) -> None:
        """Adds the person in place of one with a larger hash, if there is one."""
        entry = (_hash(gallery.name_of(person)), person)
        place = bisect(self._hashes, entry)
        self._hashes = [*self._hashes[:place], entry, *self._hashes[place:]][:MOST_STAND_INS]
        self._members = np.insert(self._members, place, person)[:MOST_STAND_INS]
        self._units = np.insert(self._units, place, 0, axis=0)[:MOST_STAND_INS]
        self._best = np.insert(self._best, place, 0)[:MOST_STAND_INS]
        self._nearest = np.insert(self._nearest, place, person)[:MOST_STAND_INS]

    def _find_nearest(self, gallery: EnrolledPeople, indices: NDArray[np.intp]) -> None:
        """Searches the whole gallery for the nearest other person to each of the members at these indices."""
        for i in indices:
            self._units[i] = gallery.first_vector_of(int(self._members[i]))
        for i, found in zip(indices, gallery.best_matches(self._units[indices], 2), strict=True):
            nearest = next(it for it in found if it.person != self._members[i])
            self._best[i], self._nearest[i] = nearest.similarity, nearest.person


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
