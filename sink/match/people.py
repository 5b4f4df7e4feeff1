"""Finds the most similar people from the similarities to every face: exactly, but without scoring every person.

The similarity of a probe to a person is the mean of two cosines: that of the person's best face, and the mean over all
faces of that person. With the best face alone, strangers are nearest to people with many portraits: in
bench/accuracy/portraits.py, 28 % of the people of LFW have 7 to 9 portraits and the others one, and 67 % of strangers
were nearest to one of the 28 %. With the mean of both it was 33 %. With the mean over all faces alone, one good match
among bad ones is lost.

The similarity to a person is never higher than the cosine of the person's best face. So the scores of a few promising
people give a lower limit for the best scores, and only people with a face above that limit are scored. Scoring all
people would take several times as long as the matrix product.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.arrays import Float32Array

Rows = NDArray[np.int32]
Indices = NDArray[np.signedinteger]

FOLDS = 16  # rows whose highest similarity is computed first, to skip all of them at once if possible
LIMIT_PARTS = 24  # parts of the gallery: the best person of each is scored to find the limit
MOST_CANDIDATES = 4_000_000  # similarities compared with the limit in one step
BELOW_ALL = -2.0  # less than any cosine
EVERYBODY = -1.5  # a limit that every person reaches: more than BELOW_ALL, less than any cosine
ROUNDING = 1e-5  # the float32 mean of some cosines may be above the highest of them by this


class Match(NamedTuple):
    """A person by number, and the similarity of a probe to them."""

    person: int
    similarity: float
    row: int  # of the best face


class PersonIndex:
    """An index of the rows of each person's faces in a gallery."""

    def __init__(self, person_of: Rows, people: int) -> None:
        """person_of: (rows,), the person of each row, numbers from 0 to people - 1, each at least once."""
        self._person_of = person_of
        self._counts = np.bincount(person_of, minlength=people).astype(np.int32)
        self._ends = np.cumsum(self._counts, dtype=np.int32)
        self._rows = np.argsort(person_of, kind="stable").astype(np.int32)  # person by person

    def rows_of(self, person: int) -> Rows:
        end = self._ends[person]
        return self._rows[end - self._counts[person] : end]

    def best_matches(self, similarities: Float32Array, top: int) -> list[list[Match]]:
        """For each probe the `top` most similar people, best first.

        similarities: (height, b), of b probes to every row. height: a multiple of FOLDS, padded with BELOW_ALL.
        """
        height, b = similarities.shape
        folds = similarities.reshape(FOLDS, height // FOLDS, b)
        highest = folds.max(0)  # (height / FOLDS, b)
        limits = self._limits(folds, highest, top)
        places, probes = np.divmod(np.flatnonzero(highest >= limits), b)
        if b > 1 and FOLDS * len(places) > MOST_CANDIDATES:
            halves = np.ascontiguousarray(similarities[:, : b // 2]), np.ascontiguousarray(similarities[:, b // 2 :])
            return self.best_matches(halves[0], top) + self.best_matches(halves[1], top)
        fold, columns = np.nonzero(folds[:, places, probes] >= limits[probes])
        pairs = np.sort(probes[columns] * len(self._counts) + self._person_of[fold * len(highest) + places[columns]])
        new = np.empty(len(pairs), bool)
        new[:1] = True
        np.not_equal(pairs[1:], pairs[:-1], out=new[1:])
        probes, people = np.divmod(pairs[new], len(self._counts))
        per_face, rows, begins = self._similarities(similarities, people, probes)
        best, scores = self._scores(per_face, begins, people)
        high = np.flatnonzero(scores >= limits[probes])
        order = high[np.lexsort((-scores[high], probes[high]))]
        probes = probes[order]
        first = np.arange(len(order)) - np.searchsorted(probes, probes) < top  # of each probe
        order, probes = order[first], probes[first]
        is_best = np.flatnonzero(per_face == np.repeat(best, self._counts[people]))
        rows = rows[is_best[np.searchsorted(is_best, begins[order])]]
        found: list[list[Match]] = [[] for _ in range(b)]
        for probe, *match in zip(*(it.tolist() for it in (probes, people[order], scores[order], rows)), strict=True):
            found[probe].append(Match(*match))
        return found

    def _limits(self, folds: Float32Array, highest: Float32Array, top: int) -> Float32Array:
        """For each probe a score that at least `top` people reach: (b,)."""
        height, b = highest.shape
        part = max(1, height // LIMIT_PARTS)
        parts = height // part
        if parts < top:
            return np.full(b, EVERYBODY, np.float32)
        probes = np.arange(b)
        places = highest[: parts * part].reshape(parts, part, b).argmax(1) + np.arange(0, parts * part, part)[:, None]
        rows = folds[:, places, probes].argmax(0) * height + places  # (parts, b)
        people = np.sort(self._person_of[rows.T])  # (b, parts)
        per_face, _, begins = self._similarities(folds.reshape(-1, b), people.ravel(), np.repeat(probes, parts))
        scores = self._scores(per_face, begins, people.ravel())[1].reshape(b, parts)
        scores[:, 1:][people[:, 1:] == people[:, :-1]] = EVERYBODY
        scores.partition(parts - top)
        return scores[:, parts - top] - np.float32(ROUNDING)

    def _scores(self, per_face: Float32Array, begins: Indices, people: Indices) -> tuple[Float32Array, Float32Array]:
        """The similarity to each person's best face, and to the person: (n,) both. per_face, begins: see
        _similarities.
        """
        best = np.maximum.reduceat(per_face, begins)
        mean = np.add.reduceat(per_face, begins) / self._counts[people]
        return best, ((best + mean) / 2).astype(np.float32)

    def _similarities(
        self, similarities: Float32Array, people: Indices, probes: Indices
    ) -> tuple[Float32Array, Indices, Indices]:
        """The similarities of each person's faces to one probe, and their rows, person by person, and where each person
        begins.

        people, probes: (n,), pairs.
        """
        counts = self._counts[people]
        ends = np.cumsum(counts)
        rows = self._rows[np.arange(ends[-1]) + np.repeat(self._ends[people] - ends, counts)].astype(np.intp)
        per_face = similarities.reshape(-1)[rows * similarities.shape[1] + np.repeat(probes, counts)]
        return per_face, rows, ends - counts
