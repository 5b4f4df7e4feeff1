"""What every VectorStore promises, whatever stands behind it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backends.vectors import MOST_IN_BLOCK, ApiKey, Face, FaceVector, PersonSummary, StoredAnswer, VectorStore
from schemas.errors import Unavailable

OpenVectors = Callable[[], VectorStore]
Unique = Callable[[str], str]

# In order of code points, which is not that of any language, nor of UTF-16 (the emoji comes after U+FFFD).
NAMES = ["", "\0", "\n", " ", "'; --", "..", "/", "A", "B", "a", "a b", "a/b", "é", "\ufffd", "💙", "💙💙"]


@pytest.fixture
def vectors(open_vectors: OpenVectors) -> VectorStore:
    return open_vectors()


def a_face(directory: str, person: str, face_id: str, *, generation: str = "g1", timestamp: int = 1000, d: int = 8) -> FaceVector:
    vector = np.random.default_rng(abs(hash((person, face_id)))).normal(size=d).astype(np.float32)
    return FaceVector(directory, generation, Face(person, face_id, f"image of {face_id}", f"{face_id}#0", timestamp), vector)


async def gallery(vectors: VectorStore, directory: str, generation: str = "g1") -> dict[tuple[str, str], tuple[Face, bytes]]:
    """Each face with its vector, from the gallery and from the faces of its people."""
    found: dict[tuple[str, str], bytes] = {}
    async for block in vectors.read_gallery(directory, generation):
        assert block.vectors.dtype == np.float32
        assert block.vectors.ndim == 2
        assert 0 < len(block) == len(block.vectors) <= MOST_IN_BLOCK
        for person, face_id, vector in zip(block.persons, block.face_ids, block.vectors, strict=True):
            assert (person, face_id) not in found
            found[person, face_id] = vector.tobytes()
    people = await asyncio.gather(*(vectors.faces(directory, generation, it) for it in {person for person, _ in found}))
    faces = {(face.person, face.face_id): face for those in people for face in those}
    assert faces.keys() == found.keys()
    return {key: (faces[key], vector) for key, vector in found.items()}


async def test_faces_come_back_as_they_were_put(vectors: VectorStore, open_vectors: OpenVectors, unique: Unique) -> None:
    faces = [a_face(unique("acme"), person, f"{person}-{number}") for person in ("ann", "bob") for number in range(3)]
    await vectors.put_faces(faces)
    expected = {(each.face.person, each.face.face_id): (each.face, each.vector.tobytes()) for each in faces}
    assert await gallery(vectors, unique("acme")) == expected
    assert await gallery(open_vectors(), unique("acme")) == expected


async def test_special_numbers_survive(vectors: VectorStore, unique: Unique) -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38], np.float32)
    await vectors.put_faces([replace(a_face(unique("acme"), "ann", "1"), vector=special)])
    ((_, stored),) = (await gallery(vectors, unique("acme"))).values()
    assert stored == special.tobytes()


async def test_galleries_are_apart(vectors: VectorStore, unique: Unique) -> None:
    one, other = unique("one"), unique("other")
    await vectors.put_faces(
        [a_face(one, "ann", "1"), a_face(other, "ann", "2", d=4), a_face(one, "ann", "3", generation="g2", d=16)]
    )
    assert list(await gallery(vectors, one)) == [("ann", "1")]
    assert list(await gallery(vectors, other)) == [("ann", "2")]
    assert list(await gallery(vectors, one, "g2")) == [("ann", "3")]
    assert await gallery(vectors, unique("nobody")) == {}


async def test_the_same_face_is_overwritten_unless_the_stored_one_is_later(vectors: VectorStore, unique: Unique) -> None:
    def version(timestamp: int, image: str) -> FaceVector:
        face = Face("ann", "1", image, f"{image}#0", timestamp)
        return FaceVector(unique("acme"), "g1", face, np.full(4, timestamp, np.float32))

    async def stored() -> tuple[str, int, float]:
        ((face, vector),) = (await gallery(vectors, unique("acme"))).values()
        return face.image_id, face.timestamp, float(np.frombuffer(vector, np.float32)[0])

    await vectors.put_faces([version(2000, "first")])
    await vectors.put_faces([version(3000, "later")])
    assert await stored() == ("later", 3000, 3000.0)
    await vectors.put_faces([version(2500, "earlier")])
    assert await stored() == ("later", 3000, 3000.0)
    assert await vectors.persons(unique("acme"), "g1") == [PersonSummary("ann", 1)]


async def test_a_repeated_put_has_one_effect(vectors: VectorStore, unique: Unique) -> None:
    faces = [a_face(unique("acme"), "ann", f"{number}") for number in range(5)]
    await asyncio.gather(*(vectors.put_faces(faces) for _ in range(5)))
    assert len(await gallery(vectors, unique("acme"))) == 5
    assert await vectors.persons(unique("acme"), "g1") == [PersonSummary("ann", 5)]


async def test_names_are_any_text(vectors: VectorStore, unique: Unique) -> None:
    names = [*NAMES, "x" * 200, "💙" * 200]
    directories = [unique(name) for name in names]
    await vectors.put_faces([a_face(directory, name, "1") for directory in directories for name in names])
    for directory in directories:
        assert {person for person, _ in await gallery(vectors, directory)} == set(names)
        assert [face.face_id for face in await vectors.faces(directory, "g1", names[-1])] == ["1"]


async def test_directories_are_sorted_by_code_point(vectors: VectorStore, unique: Unique) -> None:
    generation = unique("g")
    await vectors.put_faces([a_face(name, "ann", "1", generation=generation) for name in reversed(NAMES[1:])])
    await vectors.put_faces([a_face("elsewhere", "ann", "1", generation=unique("another"))])
    assert await vectors.directories(generation) == sorted(NAMES[1:]) == NAMES[1:]
    assert await vectors.directories(unique("unknown")) == []


async def test_persons_are_paged_in_order_of_code_points(vectors: VectorStore, unique: Unique) -> None:
    names = sorted([*NAMES[1:], *(f"person {number:03}" for number in range(120))])
    counts = {name: 1 + number % 3 for number, name in enumerate(names)}
    await vectors.put_faces([a_face(unique("acme"), name, f"{n}") for name in reversed(names) for n in range(counts[name])])
    found: list[PersonSummary] = []
    while page := await vectors.persons(unique("acme"), "g1", after=found[-1].person if found else "", limit=50):
        assert len(page) <= 50
        found += page
    assert found == [PersonSummary(name, counts[name]) for name in names]
    assert len(await vectors.persons(unique("acme"), "g1")) == 100
    assert await vectors.persons(unique("acme"), "g2") == []


async def test_the_faces_of_a_person_are_sorted(vectors: VectorStore, unique: Unique) -> None:
    faces = [a_face(unique("acme"), "ann", f"{number:02}") for number in range(12)]
    await vectors.put_faces([*reversed(faces), a_face(unique("acme"), "anna", "00")])
    assert await vectors.faces(unique("acme"), "g1", "ann") == [each.face for each in faces]
    assert await vectors.faces(unique("acme"), "g1", "nobody") == []


async def test_a_gallery_of_more_than_a_block(vectors: VectorStore, unique: Unique) -> None:
    count = 4 * MOST_IN_BLOCK + 1_000
    numbers = np.arange(count, dtype=np.float32).repeat(2).reshape(count, 2)
    faces = [
        FaceVector(unique("big"), "g1", Face(f"person {number // 3}", f"{number}", "", "", 1), numbers[number])
        for number in range(count)
    ]
    for start in range(0, count, count // 6):
        await vectors.put_faces(faces[start : start + count // 6])
    sizes: list[int] = []
    seen: set[str] = set()
    async for block in vectors.read_gallery(unique("big"), "g1"):
        sizes.append(len(block))
        expected = np.array([float(face_id) for face_id in block.face_ids], np.float32)
        np.testing.assert_array_equal(block.vectors, np.stack([expected, expected], axis=1))
        assert list(block.persons) == [f"person {int(face_id) // 3}" for face_id in block.face_ids]
        seen.update(block.face_ids)
    assert sum(sizes) == len(seen) == count
    assert max(sizes) <= MOST_IN_BLOCK


async def test_putting_nothing_is_allowed(vectors: VectorStore) -> None:
    await vectors.put_faces([])
    await vectors.put_answers([])


async def test_answers(vectors: VectorStore, unique: Unique) -> None:
    answers = [StoredAnswer(unique(f"{number}"), f'{{"é": "💙\\u0000 {number}"}}', 4e9 + number) for number in range(3)]
    await vectors.put_answers(answers)
    assert [await vectors.answer(each.image_id) for each in answers] == answers
    assert await vectors.answer(unique("unknown")) is None
    changed = replace(answers[0], value="{}", expires_at=5e9)
    await vectors.put_answers([changed])
    assert await vectors.answer(changed.image_id) == changed


async def test_a_sweep_leaves_the_answers_that_are_not_expired(vectors: VectorStore, unique: Unique) -> None:
    await vectors.put_answers([StoredAnswer(unique(f"{number}"), "{}", 4e9 + number) for number in range(1200)])
    await vectors.sweep_answers(4e9 + 0)
    assert await vectors.answer(unique("0")) is not None
    await vectors.sweep_answers(1000.0)
    assert await vectors.answer(unique("1199")) == StoredAnswer(unique("1199"), "{}", 4e9 + 1199)


async def test_api_keys(vectors: VectorStore, unique: Unique) -> None:
    everywhere = ApiKey(unique("a"), "hash of a", "admin", None, 1.5)
    somewhere = ApiKey(unique("b"), "hash of b", "learn", "acme 💙", 2.5)
    for key in (somewhere, everywhere):
        await vectors.put_api_key(key)
    mine = [key for key in await vectors.api_keys() if key.key_id in (everywhere.key_id, somewhere.key_id)]
    assert sorted(mine, key=lambda key: key.key_id) == [everywhere, somewhere]
    await vectors.put_api_key(replace(somewhere, scope="recognize"))
    assert replace(somewhere, scope="recognize") in await vectors.api_keys()
    assert await vectors.delete_api_key(everywhere.key_id) is True
    assert await vectors.delete_api_key(everywhere.key_id) is False
    assert everywhere not in await vectors.api_keys()


async def test_a_closed_store_says_so(vectors: VectorStore) -> None:
    await vectors.ping()
    await vectors.close()
    for refused in (vectors.directories("g1"), vectors.put_faces([]), vectors.ping()):
        with pytest.raises(Unavailable):
            await refused
    await vectors.close()
