"""Edge cases of the gallery: no people, one person, more rows than a block, more probes than fit into one product."""

import numpy as np
import pytest

import sink.match.gallery
from backends.vectors import FaceBlock
from schemas.arrays import Float32Array
from sink.match.gallery import Gallery
from tests.records import face_id

DIMENSION = 16


def faces(people: list[str], vectors: Float32Array) -> FaceBlock:
    """One face each, with an id that follows from its index."""
    return FaceBlock(people, [face_id(i) for i in range(len(people))], vectors)


def random_vectors(count: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def test_an_empty_gallery_has_no_candidates() -> None:
    gallery = Gallery(DIMENSION)
    assert gallery.match(random_vectors(3), 5) == [[], [], []]
    assert (gallery.people, gallery.faces, len(gallery.stranger_similarities())) == (0, 0, 0)


def test_one_person_is_the_only_candidate_whatever_top_is() -> None:
    gallery = Gallery(DIMENSION)
    (mine,) = random_vectors(1)
    gallery.add(faces(["obama"], mine[None]))
    ((best,),) = gallery.match(3 * mine[None], 10)
    assert (best.person, best.face_id) == ("obama", face_id(0))
    assert best.similarity == pytest.approx(1, abs=1e-6)
    ((opposite,),) = gallery.match(-mine[None], 10)
    assert opposite.similarity == pytest.approx(-1, abs=1e-6)
    assert len(gallery.stranger_similarities()) == 0


def test_the_similarity_to_a_person_is_the_mean_of_the_best_and_of_all() -> None:
    gallery = Gallery(2)
    vectors = np.array([[1, 0], [0, 1], [1, 0.1]], np.float32)
    gallery.add(faces(["two", "two", "one"], vectors))
    first, second = gallery.match(np.array([[1, 0]], np.float32), 2)[0]
    assert (first.person, first.face_id) == ("one", face_id(2))
    assert first.similarity == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)
    assert (second.person, second.face_id) == ("two", face_id(0))
    assert second.similarity == pytest.approx((1 + 0.5) / 2, abs=1e-6)


def test_the_length_of_a_vector_does_not_count() -> None:
    one, other = Gallery(DIMENSION), Gallery(DIMENSION)
    people, vectors = [f"{i % 4}" for i in range(12)], random_vectors(12)
    one.load(faces(people, vectors))
    other.load(faces(people, vectors * np.linspace(0.1, 50, 12, dtype=np.float32)[:, None]))
    probe = random_vectors(1, seed=1)
    assert [it.person for it in one.match(probe, 4)[0]] == [it.person for it in other.match(7 * probe, 4)[0]]
    expected = [it.similarity for it in one.match(probe, 4)[0]]
    assert [it.similarity for it in other.match(7 * probe, 4)[0]] == pytest.approx(expected, abs=1e-5)


def test_a_thousand_probes_get_the_same_candidates_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery(DIMENSION)
    gallery.load(faces([f"{i // 3}" for i in range(300)], random_vectors(300)))
    probes = random_vectors(1_000, seed=1)
    monkeypatch.setattr(sink.match.gallery, "MOST_SIMILARITIES", 300 * 64)  # sixteen products
    together = gallery.match(probes, 3)
    assert len(together) == 1_000
    for i in range(0, 1_000, 53):
        (alone,) = gallery.match(probes[i : i + 1], 3)
        assert [(it.person, it.face_id) for it in together[i]] == [(it.person, it.face_id) for it in alone]
        assert [it.similarity for it in together[i]] == pytest.approx([it.similarity for it in alone], abs=1e-5)


@pytest.mark.parametrize("one_each", [True, False], ids=["one face each", "several faces"])
def test_rows_beyond_a_block_are_found(monkeypatch: pytest.MonkeyPatch, one_each: bool) -> None:
    monkeypatch.setattr(sink.match.gallery, "BLOCK_ROWS", 8)
    monkeypatch.setattr(sink.match.gallery, "LEAST_ROWS", 2)
    monkeypatch.setattr(sink.match.gallery, "DOUBLING_ROWS", 4)
    gallery = Gallery(DIMENSION)
    vectors = random_vectors(61)
    people = [f"{i if one_each else i % 20}" for i in range(61)]
    gallery.load(faces(people[:5], vectors[:5]))  # begins in the middle of a block, and spans several
    loaded = faces(people, vectors)
    gallery.load(FaceBlock(people[5:40], loaded.face_ids[5:40], vectors[5:40]))
    for i in range(40, 61):
        gallery.add(FaceBlock([people[i]], [loaded.face_ids[i]], vectors[i : i + 1]))
    best = [found[0] for found in gallery.match(vectors, 1)]
    if one_each:
        assert [it.person for it in best] == people
    nearest = [next(it for it in found if it.person == people[i]) for i, found in enumerate(gallery.match(vectors, 61))]
    assert [it.face_id for it in nearest] == [face_id(i) for i in range(61)]


def test_a_gallery_grows_face_by_face() -> None:
    gallery = Gallery(DIMENSION)
    vectors = random_vectors(300)
    for i, vector in enumerate(vectors):
        gallery.add(FaceBlock([f"{i}"], [face_id(i)], vector[None]))
    found = [it[0] for it in gallery.match(vectors, 1)]
    assert [(it.person, it.face_id) for it in found] == [(f"{i}", face_id(i)) for i in range(300)]
    assert [it.similarity for it in found] == pytest.approx([1] * 300, abs=1e-6)


def test_a_face_that_is_added_again_replaces_its_old_vector() -> None:
    gallery = Gallery(DIMENSION)
    before, after = random_vectors(2)
    gallery.add(faces(["obama"], before[None]))
    gallery.add(faces(["obama"], before[None]))
    assert (gallery.people, gallery.faces) == (1, 1)
    gallery.add(faces(["obama"], after[None]))
    assert gallery.faces == 1
    assert gallery.match(after[None], 1)[0][0].similarity == pytest.approx(1, abs=1e-6)


def test_ids_with_the_same_first_half_are_different_faces() -> None:
    one, other = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    gallery = Gallery(DIMENSION)
    vectors = random_vectors(2)
    for name, each in zip((one, other), vectors, strict=True):
        gallery.add(FaceBlock(["obama"], [name], each[None]))
    assert gallery.faces == 2
    assert [found[0].face_id for found in gallery.match(vectors, 1)] == [one, other]


def test_a_face_is_never_moved_to_another_person() -> None:
    gallery = Gallery(DIMENSION)
    one, other = random_vectors(2)
    gallery.add(faces(["obama"], one[None]))
    gallery.add(faces(["biden"], other[None]))
    assert (gallery.people, gallery.faces) == (1, 1)
    assert [it.person for it in gallery.match(other[None], 5)[0]] == ["obama"]


@pytest.mark.parametrize("number", [0.0, np.inf, np.nan, 3e38])
def test_vectors_of_unusable_length_do_not_affect_other_people(number: float) -> None:
    gallery = Gallery(DIMENSION)
    vectors = random_vectors(200)
    vectors[::3] = number
    gallery.load(faces([f"{i}" for i in range(200)], vectors))
    found = gallery.match(vectors[1::3], 1)
    assert [it[0].person for it in found] == [f"{i}" for i in range(1, 200, 3)]


def test_memory_in_use_grows_with_what_is_in_it() -> None:
    gallery = Gallery(DIMENSION)
    assert gallery.nbytes < 1_000
    gallery.load(faces([f"{i}" for i in range(3_000)], random_vectors(3_000)))
    raw = 3_000 * DIMENSION * 4
    assert raw < gallery.nbytes < 3 * raw
