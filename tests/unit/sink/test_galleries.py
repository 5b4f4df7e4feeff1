"""The galleries in memory, and the faces that are added to them."""

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from backends.sqlite.vectors import SqliteVectors
from backends.vectors import Face, FaceBlock, FaceVector
from sink.match.galleries import Galleries
from sink.match.gallery import Gallery

DIMENSION = 4


class SlowVectors(SqliteVectors):
    """A store that waits before the first block of a gallery until `go_on` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reading, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def read_gallery(self, directory: str, generation: str) -> AsyncIterator[FaceBlock]:
        self.reading.set()
        await self.go_on.wait()
        async for block in super().read_gallery(directory, generation):
            yield block


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SlowVectors]:
    store = SlowVectors(tmp_path / "vectors.db")
    yield store
    await store.close()


@pytest.fixture
def galleries(vectors: SlowVectors) -> Galleries:
    return Galleries(vectors, 1 << 30)


def a_face(person: str, number: int, directory: str = "acme", generation: str = "g") -> FaceVector:
    vector = np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32)
    return FaceVector(directory, generation, Face(person, str(uuid.UUID(int=number)), "", "", 1), vector)


def best(gallery: Gallery, face: FaceVector) -> tuple[str, str]:
    ((found,),) = gallery.match(face.vector[None], 1)
    return found.person, found.face_id


async def test_a_gallery_that_becomes_stale_while_it_is_read_is_not_kept(
    vectors: SlowVectors, galleries: Galleries
) -> None:
    await vectors.put_faces([a_face("ann", 1)])
    vectors.go_on.clear()
    getting = asyncio.create_task(galleries.get("acme", "g", DIMENSION))
    await vectors.reading.wait()
    galleries.drop(lambda directory: directory == "acme")
    vectors.go_on.set()
    assert (await getting).faces == 1
    await vectors.put_faces([a_face("bob", 2)])  # by the sink that has the directory meanwhile
    assert (await galleries.get("acme", "g", DIMENSION)).faces == 2


async def test_learned_faces_are_added_to_loaded_galleries(vectors: SlowVectors, galleries: Galleries) -> None:
    await vectors.put_faces([a_face("ann", 1)])
    acme, empty = await galleries.get("acme", "g", DIMENSION), await galleries.get("acme", "candidate", DIMENSION)
    new = [
        a_face("bob", 2),
        a_face("ann", 3),
        a_face("ann", 3, generation="candidate"),
        a_face("eve", 4, directory="not loaded"),
        a_face("bob", 2),
        a_face("ann", 1),
    ]
    galleries.add_learned(new)
    assert (acme.faces, acme.people, empty.faces) == (3, 2, 1)
    for it in new[:2]:
        assert best(acme, it) == (it.face.person, it.face.face_id)
    assert best(empty, new[2]) == ("ann", new[2].face.face_id)
    await vectors.put_faces([new[3]])
    assert (await galleries.get("not loaded", "g", DIMENSION)).faces == 1


async def test_a_hundred_faces_learned_at_once_replace_those_that_are_there(
    vectors: SlowVectors, galleries: Galleries
) -> None:
    gallery = await galleries.get("acme", "g", DIMENSION)
    faces = [a_face(f"{number % 7}", number) for number in range(100)]
    galleries.add_learned(faces[:60])
    galleries.add_learned(faces[30:])
    assert (gallery.faces, gallery.people) == (100, 7)
    changed = [FaceVector("acme", "g", it.face, -it.vector) for it in faces]
    galleries.add_learned(changed)
    assert gallery.faces == 100
    for it in changed:
        nearest = gallery.match(it.vector[None], 7)[0]
        assert next(found for found in nearest if found.person == it.face.person).face_id == it.face.face_id


async def test_the_metrics_count_the_galleries_of_all_objects_in_use(vectors: SlowVectors) -> None:
    def metrics() -> list[float]:
        gc.collect()
        names = ("facestream_galleries", "facestream_gallery_faces", "facestream_gallery_bytes")
        return [REGISTRY.get_sample_value(name) or 0 for name in names]

    before = np.array(metrics())
    await vectors.put_faces([a_face("ann", 1), a_face("bob", 2, directory="other")])
    one, other = Galleries(vectors, 1 << 30), Galleries(vectors, 1 << 30)
    sizes = [(await one.get(name, "g", DIMENSION)).nbytes for name in ("acme", "other")]
    assert (metrics() - before).tolist() == [2, 2, sum(sizes)]
    another = await other.get("acme", "g", DIMENSION)
    other.add_learned([a_face("eve", 3)])
    assert (metrics() - before).tolist() == [3, 4, sum(sizes) + another.nbytes]
    one.drop(lambda directory: directory == "other")
    assert (metrics() - before).tolist() == [2, 3, sizes[0] + another.nbytes]
    del other
    assert (metrics() - before).tolist() == [1, 1, sizes[0]]
