"""The promises of VectorStore, tested with every adapter."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backends.vectors import (
    ANSWERS_IN_PAGE,
    MOST_IN_BLOCK,
    ApiKey,
    Face,
    FaceVector,
    PersonSummary,
    StoredAnswer,
    VectorStore,
)
from schemas.errors import Unavailable

OpenVectors = Callable[[], VectorStore]
Unique = Callable[[str], str]

# In order of code points, which is not that of any language, nor of UTF-16 (the emoji comes after U+FFFD).
NAMES = ["", "\0", "\n", " ", "'; --", "..", "/", "A", "B", "a", "a b", "a/b", "é", "\ufffd", "💙", "💙💙"]


@pytest.fixture
def vectors(open_vectors: OpenVectors) -> VectorStore:
    return open_vectors()


def a_face(
    directory: str, person: str, face_id: str, *, generation: str = "g1", timestamp: int = 1000, d: int = 8
) -> FaceVector:
    vector = np.random.default_rng(abs(hash((person, face_id)))).normal(size=d).astype(np.float32)
    return FaceVector(
        directory, generation, Face(person, face_id, f"image of {face_id}", f"{face_id}#0", timestamp), vector
    )


async def gallery(
    vectors: VectorStore, directory: str, generation: str = "g1"
) -> dict[tuple[str, str], tuple[Face, bytes]]:
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


async def face_keys(vectors: VectorStore, directory: str, generation: str = "g1") -> set[str]:
    """person/face_id of each face in the gallery. Checks that all listings agree."""
    found = await gallery(vectors, directory, generation)
    listed = [face async for page in vectors.read_faces(directory, generation) for face in page]
    assert listed == [face for _, (face, _) in sorted(found.items())]
    people = Counter(person for person, _ in found if person)  # no page begins before ""
    assert await vectors.persons(directory, generation, limit=10_000) == [
        PersonSummary(*it) for it in sorted(people.items())
    ]
    assert (directory in await vectors.directories(generation)) is bool(found)
    return {f"{person}/{face_id}" for person, face_id in found}


async def test_faces_come_back_as_they_were_put(
    vectors: VectorStore, open_vectors: OpenVectors, unique: Unique
) -> None:
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


async def test_directories_and_generations_have_separate_galleries(vectors: VectorStore, unique: Unique) -> None:
    one, other = unique("one"), unique("other")
    await vectors.put_faces(
        [a_face(one, "ann", "1"), a_face(other, "ann", "2", d=4), a_face(one, "ann", "3", generation="g2", d=16)]
    )
    assert list(await gallery(vectors, one)) == [("ann", "1")]
    assert list(await gallery(vectors, other)) == [("ann", "2")]
    assert list(await gallery(vectors, one, "g2")) == [("ann", "3")]
    assert await gallery(vectors, unique("nobody")) == {}


async def test_the_same_face_is_overwritten_unless_the_stored_one_is_later(
    vectors: VectorStore, unique: Unique
) -> None:
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
    await vectors.put_faces(
        [a_face(unique("acme"), name, f"{n}") for name in reversed(names) for n in range(counts[name])]
    )
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


async def test_a_large_gallery_is_read_in_several_blocks(vectors: VectorStore, unique: Unique) -> None:
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


async def test_the_faces_of_a_gallery_are_read_in_order(vectors: VectorStore, unique: Unique) -> None:
    count = 2 * MOST_IN_BLOCK + 1_000
    # One with more faces than a page, some with a few.
    names = [*NAMES, *("many" for _ in range(MOST_IN_BLOCK + 700)), *(f"{number % 700}" for number in range(count))][
        :count
    ]
    faces = [a_face(unique("acme"), name, f"{number:05}", timestamp=number, d=2) for number, name in enumerate(names)]
    for first in range(0, count, 1_000):
        await vectors.put_faces(faces[first : first + 1_000])
    pages = [page async for page in vectors.read_faces(unique("acme"), "g1")]
    assert [face for page in pages for face in page] == sorted(
        (it.face for it in faces), key=lambda face: (face.person, face.face_id)
    )
    assert 0 < min(map(len, pages)) <= max(map(len, pages)) <= MOST_IN_BLOCK
    assert [page async for page in vectors.read_faces(unique("nobody"), "g1")] == []


async def test_faces_are_read_while_some_are_deleted(vectors: VectorStore, unique: Unique) -> None:
    faces = [a_face(unique("acme"), f"{number % 500}", f"{number:05}", d=2) for number in range(MOST_IN_BLOCK + 3_000)]
    for first in range(0, len(faces), 1_000):
        await vectors.put_faces(faces[first : first + 1_000])
    read: list[Face] = []
    async for page in vectors.read_faces(unique("acme"), "g1"):
        if not read:
            await asyncio.gather(
                *(vectors.delete_faces(unique("acme"), ["g1"], 1_000, person=f"{it}") for it in range(100, 500))
            )
        read += page
    left = {it.face.face_id for it in faces if int(it.face.person) < 100}
    assert left <= {face.face_id for face in read}
    assert len({face.face_id for face in read}) == len(read) <= len(faces)
    assert len(await face_keys(vectors, unique("acme"))) == len(left)


async def test_a_person_a_face_or_a_directory_is_deleted(vectors: VectorStore, unique: Unique) -> None:
    one, other = unique("one"), unique("other")
    everybody = {"/1", "ann/1", "ann/2", "ann\0/1", "anna/1", "💙/1", "💙/2"}
    faces = [a_face(directory, *it.split("/")) for directory in (one, other) for it in everybody]
    await vectors.put_faces(
        [*faces, a_face(one, "ann", "1", generation="g2"), a_face(one, "ann", "2", generation="g2")]
    )
    await vectors.delete_faces(one, ["g1"], 1_000, person="ann")
    assert await face_keys(vectors, one) == everybody - {"ann/1", "ann/2"}
    await vectors.delete_faces(one, ["g1", "g2"], 1_000, person="ann", face_id="2")
    await vectors.delete_faces(one, ["g1"], 1_000, person="💙", face_id="1")
    await vectors.delete_faces(one, ["g1"], 1_000, person="")
    assert await face_keys(vectors, one) == {"ann\0/1", "anna/1", "💙/2"}
    assert await face_keys(vectors, one, "g2") == {"ann/1"}
    await vectors.delete_faces(one, ["g1", "g2", "g3"], 1_000)
    for generation in ("g1", "g2", "g3"):
        assert await face_keys(vectors, one, generation) == set()
    assert await face_keys(vectors, other) == everybody
    await vectors.delete_faces(one, [], 1_000)
    with pytest.raises(ValueError, match="person"):
        await vectors.delete_faces(one, ["g1"], 1_000, face_id="1")


async def test_many_faces_are_deleted(vectors: VectorStore, unique: Unique) -> None:
    """More than are deleted in one step, every third of them with a time after the erasure."""
    faces = [
        a_face(unique("acme"), f"{number % 3}", f"{number:05}", timestamp=1_000 + number % 3, d=2)
        for number in range(3_600)
    ]
    await vectors.put_faces(faces)
    await vectors.delete_faces(unique("acme"), ["g1"], 1_000, person="0")
    assert await vectors.persons(unique("acme"), "g1") == [PersonSummary("1", 1_200), PersonSummary("2", 1_200)]
    await vectors.delete_faces(unique("acme"), ["g1"], 1_001)
    assert await face_keys(vectors, unique("acme")) == {f"2/{number:05}" for number in range(2, 3_600, 3)}


@pytest.mark.parametrize("only", [{}, {"person": "ann"}, {"person": "ann", "face_id": "1"}])
async def test_a_face_that_is_put_after_its_erasure_stays_erased(
    vectors: VectorStore, open_vectors: OpenVectors, unique: Unique, only: dict[str, str]
) -> None:
    early, last, later = (a_face(unique("acme"), "ann", "1", timestamp=timestamp) for timestamp in (900, 1_000, 1_001))
    await vectors.put_faces([early])
    await vectors.delete_faces(unique("acme"), ["g1"], 1_000, **only)
    await vectors.delete_faces(unique("acme"), ["g1"], 500, **only)  # an earlier one, again
    for late in (early, last):
        await open_vectors().put_faces([late])
        assert await face_keys(vectors, unique("acme")) == set()
    await vectors.put_faces([early, later, last])
    assert await face_keys(vectors, unique("acme")) == {"ann/1"}
    assert await vectors.faces(unique("acme"), "g1", "ann") == [later.face]
    await vectors.delete_faces(unique("acme"), ["g1"], 1_000, **only)
    assert await face_keys(vectors, unique("acme")) == {"ann/1"}


async def test_other_faces_may_be_put_after_an_erasure(vectors: VectorStore, unique: Unique) -> None:
    await vectors.put_faces([a_face(unique("acme"), "ann", "1")])
    await vectors.delete_faces(unique("acme"), ["g1"], 2_000, person="ann", face_id="1")
    await vectors.put_faces([a_face(unique("acme"), "ann", "1"), a_face(unique("acme"), "ann", "2")])
    await vectors.put_faces([a_face(unique("acme"), "ann", "1", generation="g2")])
    assert await face_keys(vectors, unique("acme")) == {"ann/2"}
    await vectors.delete_faces(unique("acme"), ["g1"], 2_000, person="ann")
    assert await face_keys(vectors, unique("acme")) == set()
    await vectors.delete_faces(unique("acme") + "bob", ["g1"], 2_000)
    await vectors.put_faces([a_face(unique("acme"), "ann", "2"), a_face(unique("acme"), "bob", "3")])
    await vectors.put_faces([a_face(unique("else"), "ann", "1")])
    assert await face_keys(vectors, unique("acme")) == {"bob/3"}
    assert await face_keys(vectors, unique("acme"), "g2") == {"ann/1"}
    assert await face_keys(vectors, unique("else")) == {"ann/1"}


async def test_an_erasure_also_covers_faces_that_are_stored_later_for_the_first_time(
    vectors: VectorStore, unique: Unique
) -> None:
    await vectors.delete_faces(unique("acme"), ["g1"], 1_000, person="ann")
    await vectors.put_faces([a_face(unique("acme"), "ann", "1")])
    assert await face_keys(vectors, unique("acme")) == set()
    await vectors.put_faces([a_face(unique("acme"), "ann", "1", timestamp=1_001), a_face(unique("acme"), "bob", "2")])
    assert await face_keys(vectors, unique("acme")) == {"ann/1", "bob/2"}


async def test_a_sweep_keeps_erasures_that_are_still_valid(vectors: VectorStore, unique: Unique) -> None:
    await vectors.put_faces([a_face(unique("acme"), "ann", "1"), a_face(unique("acme"), "bob", "1")])
    await vectors.delete_faces(unique("acme"), ["g1"], 1_000, person="ann")
    for _ in range(2):
        await vectors.sweep_erasures()
        await vectors.put_faces([a_face(unique("acme"), "ann", "1")])
        assert await face_keys(vectors, unique("acme")) == {"bob/1"}


async def test_a_generation_is_deleted(vectors: VectorStore, unique: Unique) -> None:
    old, new = unique("old"), unique("new")
    directories = [unique(name) for name in ("one", "other", "")]
    for directory in directories:
        names = [f"{number % 70}" for number in range(900)]
        faces = [a_face(directory, name, f"{n}", timestamp=n, d=2, generation=old) for n, name in enumerate(names)]
        await vectors.put_faces([*faces, a_face(directory, "ann", "1", generation=new)])
    ahead_ms = 9_000_000_000_000  # a clock may be ahead of ours
    await vectors.put_faces([a_face(directories[0], "ann", "1", timestamp=ahead_ms, generation=old)])
    await vectors.delete_faces(directories[1], [old], 1_000)
    assert await vectors.delete_generation(old) == 1_801
    assert await vectors.delete_generation(old) == 0
    assert await vectors.directories(old) == []
    for directory in directories:
        assert await face_keys(vectors, directory, old) == set()
        assert await face_keys(vectors, directory, new) == {"ann/1"}
    assert await vectors.delete_generation(unique("unknown")) == 0


async def test_putting_nothing_is_allowed(vectors: VectorStore) -> None:
    await vectors.put_faces([])
    await vectors.put_answers([])
    await vectors.delete_answers([])


async def test_an_answer_is_stored_and_replaced(vectors: VectorStore, unique: Unique) -> None:
    answers = [StoredAnswer(unique(f"{number}"), f'{{"é": "💙\\u0000 {number}"}}', 4e9 + number) for number in range(3)]
    await vectors.put_answers(answers)
    assert [await vectors.answer(each.image_id) for each in answers] == answers
    assert await vectors.answer(unique("unknown")) is None
    changed = replace(answers[0], value="{}", expires_at=5e9)
    await vectors.put_answers([changed])
    assert await vectors.answer(changed.image_id) == changed


async def test_all_answers_are_read_in_pages(vectors: VectorStore, unique: Unique) -> None:
    answers = {unique(f"{number}"): f'{{"é": {number}}}' for number in range(3 * ANSWERS_IN_PAGE + 5)}
    expired_at = time.time() - 3_600  # and kept
    await vectors.put_answers([StoredAnswer(image_id, value, expired_at) for image_id, value in answers.items()])
    pages = [page async for page in vectors.read_answers()]
    assert 0 < min(map(len, pages)) <= max(map(len, pages)) <= ANSWERS_IN_PAGE
    read = [it for page in pages for it in page]
    assert sorted(it.image_id for it in read) == sorted({it.image_id for it in read})
    mine = [it for it in read if it.image_id in answers]
    assert {it.image_id: it.value for it in mine} == answers
    assert {it.expires_at for it in mine} == {expired_at}


async def test_answers_are_deleted(vectors: VectorStore, unique: Unique) -> None:
    answers = [StoredAnswer(unique(f"{number}"), "{}", 4e9) for number in range(1_100)]
    await vectors.put_answers(answers)
    await vectors.delete_answers([unique("unknown"), *(it.image_id for it in answers[1:])])
    mine = {it.image_id for it in answers}
    assert [it async for page in vectors.read_answers() for it in page if it.image_id in mine] == answers[:1]
    await vectors.put_answers(answers[5:6])
    assert await vectors.answer(answers[5].image_id) == answers[5]


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


async def test_a_closed_store_raises_unavailable(vectors: VectorStore) -> None:
    await vectors.ping()
    await vectors.close()
    for refused in (vectors.directories("g1"), vectors.put_faces([]), vectors.ping()):
        with pytest.raises(Unavailable):
            await refused
    await vectors.close()
