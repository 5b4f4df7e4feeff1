"""Matching: from similarities to the persons of an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.vectors import FaceBlock
from schemas.answers import RecognizedPerson
from schemas.arrays import Float32Array
from schemas.calibration import Calibration
from schemas.faces import EmbeddedFace
from schemas.generation_records import Generation
from schemas.options import Options
from sink.match.gallery import Gallery
from sink.match.matching import Photo, match_photos
from tests.records import embedded_face, face_id
from weights.manifest import manifest

GENERATION = manifest().generation("dlib-resnet29-mirror")
DIMENSION = GENERATION.dimension


def probe(number: int) -> EmbeddedFace:
    return embedded_face(face_id(f"seen {number}"), box=[number, 0, number + 50, 50])


def axis(number: int) -> Float32Array:
    one: Float32Array = np.eye(DIMENSION, dtype=np.float32)[number]
    return one


def near(vector: Float32Array, cosine: float, *, towards: int) -> Float32Array:
    """A vector at that cosine to another one."""
    result: Float32Array = cosine * vector + np.float32(np.sqrt(1 - cosine**2)) * axis(towards)
    return result


def gallery(**people: Float32Array) -> Gallery:
    made = Gallery(DIMENSION)
    if people:
        made.add(FaceBlock(list(people), [face_id(name) for name in people], np.stack(list(people.values()))))
    return made


def members(persons: Sequence[RecognizedPerson]) -> list[dict[str, Any]]:
    """As they are encoded."""
    return [it.members() for it in persons]


def match(
    probes: list[Float32Array], known: Gallery, options: Options | None = None, generation: Generation = GENERATION
) -> list[dict[str, Any]]:
    vectors = np.stack(probes) if probes else np.empty((0, DIMENSION), np.float32)
    photo = Photo([probe(i) for i in range(len(probes))], vectors, list(range(len(probes))), options or Options())
    return members(match_photos([photo], known, generation)[0])


def test_a_face_gets_the_name_of_the_person_it_is_like() -> None:
    (person,) = match([near(axis(0), 0.98, towards=9)], gallery(obama=axis(0), biden=axis(1)))
    assert person["id"] == "obama"
    assert "reason" not in person
    assert person["similarity"] == pytest.approx(0.98, abs=1e-4)
    assert person["similarity"] >= person["threshold"]
    assert person["probability"] == person["candidates"][0]["probability"] > 0.99
    assert [it["id"] for it in person["candidates"]] == ["obama", "biden"]
    assert person["candidates"][0]["face_id"] == face_id("obama")
    assert (person["face_id"], person["box"]) == (face_id("seen 0"), [0, 0, 50, 50])


def test_a_stranger_gets_no_name_but_the_candidates() -> None:
    (person,) = match([near(axis(0), 0.85, towards=9)], gallery(obama=axis(0), biden=axis(1)))
    assert (person["id"], person["reason"]) == (None, "below-threshold")
    assert person["similarity"] == pytest.approx(0.85, abs=1e-4)
    assert person["similarity"] < person["threshold"]
    assert [it["id"] for it in person["candidates"]] == ["obama", "biden"]


def test_with_strangers_1_the_nearest_person_is_always_named() -> None:
    (person,) = match([near(axis(0), 0.1, towards=9)], gallery(obama=axis(0), biden=axis(1)), Options(strangers=1))
    assert person["id"] == "obama"
    assert person["threshold"] == -1


def test_an_empty_directory_gives_no_candidates() -> None:
    (person,) = match([axis(0)], gallery(), Options(strangers=1))
    assert (person["id"], person["reason"], person["candidates"]) == (None, "empty-directory", [])
    assert (person["similarity"], person["probability"]) == (None, None)


@pytest.mark.parametrize("known", [gallery(), gallery(obama=axis(0))], ids=["empty", "obama"])
def test_a_face_without_a_vector_is_too_small(known: Gallery) -> None:
    photo = Photo([probe(0)], np.empty((0, DIMENSION), np.float32), [], Options(strangers=1))
    (person,) = members(match_photos([photo], known, GENERATION)[0])
    assert (person["id"], person["reason"], person["candidates"]) == (None, "too-small", [])


def test_small_faces_between_others_keep_their_place() -> None:
    faces = [probe(0), probe(1), probe(2)]
    photo = Photo(faces, np.stack([axis(0), axis(1)]), [0, 2], Options())
    found = members(match_photos([photo], gallery(a=axis(0), b=axis(1)), GENERATION)[0])
    assert [it["id"] for it in found] == ["a", None, "b"]
    assert found[1]["reason"] == "too-small"
    assert [it["face_id"] for it in found] == [it.face_id for it in faces]


def test_photos_matched_together_are_answered_as_each_alone() -> None:
    known = gallery(a=axis(0), b=axis(1), c=axis(2))
    photos = [
        Photo([probe(0), probe(1)], np.stack([axis(0), near(axis(1), 0.9, towards=7)]), [0, 1], Options(top=1)),
        Photo([probe(2)], np.empty((0, DIMENSION), np.float32), [], Options()),
        Photo([probe(3), probe(4)], np.stack([near(axis(2), 0.5, towards=8)]), [1], Options(top=3, strangers=1)),
    ]
    together = match_photos(photos, known, GENERATION)
    assert together == [match_photos([photo], known, GENERATION)[0] for photo in photos]
    assert [[len(person.candidates) for person in persons] for persons in together] == [[1, 1], [0], [0, 3]]


def test_of_two_faces_with_the_same_name_the_less_similar_has_also_matched() -> None:
    probes = [near(axis(0), 0.97, towards=9), axis(1), near(axis(0), 0.99, towards=8), near(axis(0), 0.98, towards=7)]
    found = match(probes, gallery(twin=axis(0), other=axis(1)))
    assert [it["id"] for it in found] == ["twin", "other", "twin", "twin"]
    assert [it.get("also_matched") for it in found] == [face_id("seen 2"), None, None, face_id("seen 2")]


def test_faces_without_a_name_never_have_also_matched() -> None:
    found = match([near(axis(0), 0.5, towards=9)] * 2, gallery(obama=axis(0)))
    assert [it["id"] for it in found] == [None, None]
    assert all("also_matched" not in it for it in found)


# With these midpoints several candidates of one face have a high probability.
LENIENT = GENERATION.model_copy(
    update={"calibration": Calibration(people=[1, 100], midpoint=[0.2, 0.3], slope=[20, 30])}
)


@given(
    people=st.integers(1, 12),
    portraits=st.integers(1, 3),
    top=st.integers(1, 10),
    seed=st.integers(0, 1_000),
    generation=st.sampled_from([GENERATION, LENIENT]),
    strangers=st.sampled_from([0.001, 0.01, 0.5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_every_answer_is_consistent(
    people: int, portraits: int, top: int, seed: int, generation: Generation, strangers: float
) -> None:
    random = np.random.default_rng(seed)
    base = random.standard_normal(DIMENSION)
    vectors = (base + random.standard_normal((people * portraits, DIMENSION))).astype(np.float32)
    known = Gallery(DIMENSION)
    names = [f"{i % people}" for i in range(people * portraits)]
    known.add(FaceBlock(names, [face_id(i) for i in range(len(names))], vectors))
    probes = [(base + random.standard_normal(DIMENSION)).astype(np.float32) for _ in range(3)]
    for person in match(probes, known, Options(top=top, strangers=strangers), generation):
        candidates = person["candidates"]
        assert len(candidates) == min(top, people)
        assert len({it["id"] for it in candidates}) == len(candidates)
        assert [it["similarity"] for it in candidates] == sorted((it["similarity"] for it in candidates), reverse=True)
        assert all(0 <= it["probability"] <= 1 for it in candidates)
        assert sum(it["probability"] for it in candidates) <= 1 + len(candidates) * 0.00005 + 1e-9  # each is rounded
        assert (person["id"] is None) == ("reason" in person)
        assert person["id"] in (None, candidates[0]["id"])
        if strangers == 1:
            assert person["id"] == candidates[0]["id"]
