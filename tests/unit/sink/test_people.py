"""Compares the search for the best people, from the similarities to all faces, with a naive search."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import sink.match.people
from schemas.arrays import Float32Array
from sink.match.people import BELOW_ALL, FOLDS, ROUNDING, Match, PersonIndex

CLOSE = 1e-5


def padded(similarities: Float32Array) -> Float32Array:
    rows, probes = similarities.shape
    filled = np.full((-(-rows // FOLDS) * FOLDS, probes), BELOW_ALL, np.float32)
    filled[:rows] = similarities
    return filled


def scores(similarities: Float32Array, person_of: NDArray[np.int32]) -> list[float]:
    """The similarity of one probe to each person."""
    faces = [similarities[person_of == person].astype(float) for person in range(person_of.max() + 1)]
    return [float((it.max() + it.mean()) / 2) for it in faces]


def require_right(found: list[Match], similarities: Float32Array, person_of: NDArray[np.int32], top: int) -> None:
    """Checks the result. Equally similar people may be in any order."""
    every = scores(similarities, person_of)
    assert [it.similarity for it in found] == pytest.approx(sorted(every, reverse=True)[:top], abs=CLOSE)
    assert len({it.person for it in found}) == len(found)
    for it in found:
        assert it.similarity == pytest.approx(every[it.person], abs=CLOSE)
        assert person_of[it.row] == it.person
        assert similarities[it.row] == similarities[person_of == it.person].max()


def some_people(random: np.random.Generator, people: int, most: int, *, mixed: bool) -> NDArray[np.int32]:
    """The person of each row; the rows of a person are adjacent or not."""
    person_of = np.repeat(np.arange(people, dtype=np.int32), random.integers(1, most + 1, people))
    return random.permutation(person_of) if mixed else person_of


@given(
    people=st.integers(1, 60),
    most=st.sampled_from([1, 2, 9]),
    probes=st.integers(1, 5),
    top=st.integers(1, 10),
    levels=st.sampled_from([3, 1_000]),
    mixed=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_few_people_are_ranked_as_by_a_naive_search(
    people: int, most: int, probes: int, top: int, levels: int, mixed: bool, seed: int
) -> None:
    """levels: the number of different similarities; with few of them many people are equally similar."""
    random = np.random.default_rng(seed)
    person_of = some_people(random, people, most, mixed=mixed)
    similarities = (random.integers(-levels, levels + 1, (len(person_of), probes)) / levels).astype(np.float32)
    found = PersonIndex(person_of, people).best_matches(padded(similarities), top)
    for probe in range(probes):
        require_right(found[probe], similarities[:, probe], person_of, top)


@pytest.mark.parametrize("mixed", [False, True], ids=["in order", "mixed"])
@pytest.mark.parametrize(("people", "most"), [(9_000, 1), (2_000, 9), (30, 900), (3, 9_000)])
def test_many_faces_are_ranked_as_by_a_naive_search(people: int, most: int, mixed: bool) -> None:
    random = np.random.default_rng(people)
    person_of = some_people(random, people, most, mixed=mixed)
    own = random.normal(0.5, 0.2, (people, 4))[person_of]  # how similar people are on the whole
    similarities = np.clip(own + random.normal(0, 0.1, own.shape), -1, 1).astype(np.float32)
    for top in (1, 10):
        found = PersonIndex(person_of, people).best_matches(padded(similarities), top)
        for probe in range(4):
            require_right(found[probe], similarities[:, probe], person_of, top)


def test_one_person_with_thousands_of_nearest_faces_is_ranked_right() -> None:
    """The best faces of most parts of the gallery are hers, so the limit for other people is low."""
    random = np.random.default_rng(1)
    person_of = np.zeros(20_000, np.int32)
    person_of[::500] = np.arange(40)
    similarities = random.uniform(-1, 0.5, (20_000, 2)).astype(np.float32)
    similarities[person_of == 0] += 0.5
    found = PersonIndex(person_of, 40).best_matches(padded(similarities), 5)
    for probe in range(2):
        require_right(found[probe], similarities[:, probe], person_of, 5)


def peak_memory(search: Callable[[], list[list[Match]]]) -> tuple[list[list[Match]], int]:
    """What a search returns, and the most bytes that it needed at a time."""
    tracemalloc.start()
    try:
        return search(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_too_many_candidates_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    person_of = some_people(random, 700, 5, mixed=True)
    similarities = padded(random.uniform(0, ROUNDING, (len(person_of), 9)).astype(np.float32))  # all are candidates
    people = PersonIndex(person_of, 700)
    together, at_once = peak_memory(lambda: people.best_matches(similarities, 5))
    monkeypatch.setattr(sink.match.people, "MOST_CANDIDATES", 1)
    one_by_one, in_parts = peak_memory(lambda: people.best_matches(similarities, 5))
    assert one_by_one == together
    assert in_parts < at_once / 3


def test_only_few_of_many_people_are_scored() -> None:
    """Of 20,000 people only a few hundred are scored: the memory of the search shows how many."""
    random = np.random.default_rng(3)
    person_of = np.repeat(np.arange(20_000, dtype=np.int32), 5)
    own = random.normal(0.5, 0.1, (20_000, 4))[person_of]
    similarities = padded((own + random.normal(0, 0.03, own.shape)).astype(np.float32))
    people = PersonIndex(person_of, 20_000)
    _, peak = peak_memory(lambda: people.best_matches(similarities, 5))
    assert peak < 500_000  # to score everybody takes 23 MB
