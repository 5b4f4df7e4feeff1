"""Out of the similarities to every face, the people who are most similar: exactly, and without looking at everybody.

The similarity of a probe to a person is the mean of two cosines: that of the person's best face, and the mean over all faces
of that person. The best alone draws strangers to people with many portraits (with 1 portrait for most and 7 to 9 for 28 % of
the people of LFW, 67 % of strangers came nearest to one of the 28 %, with the mean of both 33 %), the mean alone wastes a good
match among bad ones.

Nobody is more similar than the best face. So some people who are among the best for sure give a limit, and who has no face above
it needs no second look: of 100,000 faces a few hundred are left. A second look at all of them takes several times as long as the
matrix product before it.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Numbers = NDArray[np.int32]

CHUNK = 256  # faces: of each chunk the best one is known first
ROUNDING = 1e-5  # by which a mean of float32 may exceed the largest of them


class People:
    """Whose faces the rows of a gallery are. `person_of`: (rows,), numbers from 0 to people - 1, each at least once."""

    def __init__(self, person_of: Numbers, people: int) -> None:
        self._person_of = person_of
        self._counts = np.bincount(person_of, minlength=people)
        self._ends = np.cumsum(self._counts)
        self._rows = np.argsort(person_of, kind="stable").astype(np.int32)  # (rows,), person by person

    def __len__(self) -> int:
        return len(self._counts)

    def rows_of(self, person: int) -> Numbers:
        end = self._ends[person]
        return self._rows[end - self._counts[person] : end]

    def best(self, similarities: Floats, top: int) -> list[list[tuple[int, float, int]]]:
        """The `top` most similar people of each probe, best first: person, similarity, and the row of their best face.

        similarities: (b, width), to every row, width a multiple of CHUNK; what is beyond the rows is less than any similarity.
        """
        b, width = similarities.shape
        chunked = similarities.reshape(b, width // CHUNK, CHUNK)
        highest = chunked.max(2)  # (b, chunks)
        found = []
        for i in range(b):
            to_rows = similarities[i, : len(self._rows)]
            limit = self._limit(chunked[i], highest[i], to_rows, top)
            people = np.unique(self._person_of[np.flatnonzero(to_rows >= limit - ROUNDING)])
            found.append(self._first(people, *self._scores(to_rows, people), top))
        return found

    def _limit(self, chunked: Floats, highest: Floats, to_rows: Floats, top: int) -> float:
        """What at least `top` people reach: those of the best faces of some chunks. -inf where there are not so many people."""
        chunks = len(highest)
        taken = 4 * top
        while top < len(self):
            best = np.argpartition(highest, -taken)[-taken:] if taken < chunks else np.arange(chunks)
            rows = best * CHUNK + chunked[best].argmax(1)
            people = np.unique(self._person_of[rows])
            if len(people) >= top:
                scores, _ = self._scores(to_rows, people)
                return float(np.partition(scores, -top)[-top])
            if taken >= chunks:
                break
            taken *= 4
        return -np.inf

    def _scores(self, to_rows: Floats, people: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The similarity to each of these people, and the row of their best face."""
        counts = self._counts[people]
        ends = np.cumsum(counts)
        begins = ends - counts
        rows = self._rows[np.arange(ends[-1]) + np.repeat(self._ends[people] - ends, counts)]
        each = to_rows[rows]
        best = np.maximum.reduceat(each, begins)
        scores = (best + np.add.reduceat(each, begins, dtype=np.float64) / counts) / 2
        return scores, rows

    def _first(self, *_: object) -> list[tuple[int, float, int]]:
        raise NotImplementedError
