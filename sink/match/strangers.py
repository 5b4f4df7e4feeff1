"""How strangers fare in a gallery: the best similarity to anybody else of some of its people, who play the stranger."""

import hashlib
from bisect import bisect
from heapq import nsmallest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.arrays import Float32Array

if TYPE_CHECKING:
    from sink.match.gallery import Gallery

SENTINELS = 1_000  # people who play the stranger: enough for one in a hundred, and a deterministic choice of them


class Strangers:
    """Those whose names have the smallest hashes, kept up to date. All arrays are in the order of the hashes."""

    def __init__(self, gallery: "Gallery") -> None:
        self._hashes = nsmallest(SENTINELS, ((_hash(gallery.name(person)), person) for person in range(gallery.people)))
        self._members = np.array([person for _, person in self._hashes], np.int32)  # (s,)
        self._units = np.empty((len(self._members), gallery.dimension), np.float32)  # (s, D), a face of each
        self._best = np.empty(len(self._members), np.float32)  # (s,), the similarity to the nearest other person
        self._nearest = np.empty(len(self._members), np.int32)  # (s,), who that is
        self._look(gallery, np.arange(len(self._members)))

    def best(self) -> Float32Array:
        return self._best.copy()

    def changed(self, gallery: "Gallery", people: list[int]) -> None:
        """These people are new, or have other faces than before."""
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
                self._enter(gallery, person)
        self._look(gallery, np.flatnonzero(np.isin(self._members, list(stale))))

    def _enter(self, gallery: "Gallery", person: int) -> None:
        """Takes the place of one with a larger hash, if there is one."""
        entry = (_hash(gallery.name(person)), person)
        at = bisect(self._hashes, entry)
        self._hashes = [*self._hashes[:at], entry, *self._hashes[at:]][:SENTINELS]
        self._members = np.insert(self._members, at, person)[:SENTINELS]
        self._units = np.insert(self._units, at, 0, axis=0)[:SENTINELS]
        self._best = np.insert(self._best, at, 0)[:SENTINELS]
        self._nearest = np.insert(self._nearest, at, person)[:SENTINELS]

    def _look(self, gallery: "Gallery", places: NDArray[np.intp]) -> None:
        """Looks for the nearest person of the members at these places anew."""
        for place in places:
            self._units[place] = gallery.first_vector_of(int(self._members[place]))
        for place, found in zip(places, gallery.best(self._units[places], 2), strict=True):
            other = next(it for it in found if it.person != self._members[place])
            self._best[place], self._nearest[place] = other.similarity, other.person


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
