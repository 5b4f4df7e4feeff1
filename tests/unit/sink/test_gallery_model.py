"""Compares the gallery with a naive one: a list that is searched face by face."""

import hashlib
import uuid
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sink.match.strangers
from backends.vectors import FaceBlock
from schemas.arrays import Float32Array
from sink.match.gallery import Candidate, Gallery

DIMENSION = 4
CLOSE = 1e-5
# Few people with many faces each, so that they mix.
PEOPLE = [f"person {number}" for number in range(9)]
FACE_IDS = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{number}")) for number in range(24)]


VECTORS = st.tuples(*[st.integers(-3, 3)] * DIMENSION).filter(any).map(lambda numbers: np.array(numbers, np.float32))
# A face belongs to one person for good: its id follows from the image that was learned.
LEARNS = st.tuples(st.integers(0, len(FACE_IDS) - 1), VECTORS)


def owner(face: int) -> str:
    return PEOPLE[face * 7 % len(PEOPLE)]


@dataclass
class Naive:
    faces: list[tuple[str, str, Float32Array]] = field(default_factory=list)

    def learn(self, person: str, face_id: str, vector: Float32Array) -> None:
        self.faces = [it for it in self.faces if it[1] != face_id] + [(person, face_id, vector)]

    @property
    def people(self) -> set[str]:
        return {person for person, _, _ in self.faces}

    def similarity(self, probe: Float32Array, person: str) -> tuple[float, set[str]]:
        """The similarity, and the ids of the nearest faces, which may be several."""
        cosines = {face_id: cosine(probe, it) for name, face_id, it in self.faces if name == person}
        best = max(cosines.values())
        nearest = {face_id for face_id, each in cosines.items() if each > best - CLOSE}
        return (best + sum(cosines.values()) / len(cosines)) / 2, nearest

    def first_face(self, person: str) -> Float32Array:
        faces = {face_id: it for name, face_id, it in self.faces if name == person}
        return faces[min(faces)]

    def stranger_similarities(self, most: int) -> list[float]:
        """For the people whose names have the smallest hashes, in that order."""
        chosen = sorted(self.people, key=name_hash)[:most]
        return [
            max(self.similarity(self.first_face(person), other)[0] for other in self.people - {person})
            for person in chosen
        ]


def name_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def cosine(a: Float32Array, b: Float32Array) -> float:
    left, right = a.astype(np.float64), b.astype(np.float64)
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def block(*faces: tuple[str, str, Float32Array]) -> FaceBlock:
    """(person, face_id, vector) each."""
    persons, face_ids, vectors = zip(*faces, strict=True)
    return FaceBlock(persons, face_ids, np.stack(vectors))


def require_same(found: list[Candidate], naive: Naive, probe: Float32Array, top: int) -> None:
    """The right people with the right similarities, best first; equally similar people in any order."""
    expected = sorted((naive.similarity(probe, person)[0] for person in naive.people), reverse=True)[:top]
    assert [it.similarity for it in found] == pytest.approx(expected, abs=CLOSE)
    assert len({it.person for it in found}) == len(found)
    for it in found:
        similarity, nearest = naive.similarity(probe, it.person)
        assert it.similarity == pytest.approx(similarity, abs=CLOSE)
        assert it.face_id in nearest


@given(
    loaded=st.lists(LEARNS, max_size=12, unique_by=lambda it: it[0]),
    learned=st.lists(st.lists(LEARNS, min_size=1, max_size=4), max_size=8),
    probes=st.lists(VECTORS, min_size=1, max_size=4),
    top=st.integers(1, 10),
)
@settings(max_examples=150, deadline=None)
def test_the_gallery_finds_what_a_search_face_by_face_finds(
    loaded: list[tuple[int, Float32Array]],
    learned: list[list[tuple[int, Float32Array]]],
    probes: list[Float32Array],
    top: int,
) -> None:
    gallery, naive = Gallery(DIMENSION), Naive()
    if loaded:
        gallery.load(block(*((owner(face), FACE_IDS[face], it) for face, it in loaded)))
    for face, it in loaded:
        naive.learn(owner(face), FACE_IDS[face], it)
    for batch in [[], *learned]:
        if batch:
            gallery.add(block(*((owner(face), FACE_IDS[face], it) for face, it in batch)))
        for face, it in batch:
            naive.learn(owner(face), FACE_IDS[face], it)
        assert (gallery.people, gallery.faces) == (len(naive.people), len(naive.faces))
        for probe, found in zip(probes, gallery.match(np.stack(probes), top), strict=True):
            require_same(found, naive, probe, top)


@given(
    learned=st.lists(LEARNS, min_size=1, max_size=20, unique_by=lambda it: it[0]), probe=VECTORS, cut=st.integers(0, 20)
)
@settings(max_examples=60, deadline=None)
def test_loaded_and_learned_galleries_answer_alike(
    learned: list[tuple[int, Float32Array]], probe: Float32Array, cut: int
) -> None:
    faces = [(owner(face), FACE_IDS[face], it) for face, it in learned]
    one, other, mixed = Gallery(DIMENSION), Gallery(DIMENSION), Gallery(DIMENSION)
    one.load(block(*faces))
    for face in faces:
        other.add(block(face))
    for part in (faces[cut:], faces[:cut]):
        if part:
            mixed.load(block(*part))
    answers = [it.match(probe[None], 10)[0] for it in (one, other, mixed)]
    scores = [{it.person: it.similarity for it in found} for found in answers]
    assert scores[1] == pytest.approx(scores[0], abs=CLOSE)
    assert scores[2] == pytest.approx(scores[0], abs=CLOSE)
    strangers = [it.stranger_similarities() for it in (one, other, mixed)]
    assert strangers[1] == pytest.approx(strangers[0], abs=CLOSE)
    assert strangers[2] == pytest.approx(strangers[0], abs=CLOSE)


@pytest.mark.parametrize("sentinels", [2, 4, 1_000])
@given(
    begin=st.lists(LEARNS, min_size=1, max_size=6),
    learned=st.lists(st.lists(LEARNS, min_size=1, max_size=3), max_size=12),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_stranger_similarities_are_kept_up_to_date(
    sentinels: int, begin: list[tuple[int, Float32Array]], learned: list[list[tuple[int, Float32Array]]]
) -> None:
    """After each step they equal those computed anew, also when a new person becomes a sentinel in place of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink.match.strangers, "MOST_STAND_INS", sentinels)
        gallery, naive = Gallery(DIMENSION), Naive()
        for batch in [begin, *learned]:
            gallery.add(block(*((owner(face), FACE_IDS[face], it) for face, it in batch)))
            for face, it in batch:
                naive.learn(owner(face), FACE_IDS[face], it)
            kept = gallery.stranger_similarities()
            if len(naive.people) < 2:
                assert len(kept) == 0
                continue
            assert kept == pytest.approx(naive.stranger_similarities(sentinels), abs=CLOSE)
