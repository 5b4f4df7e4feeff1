"""The galleries in memory: loaded from the vector store at first use, dropped by least recent use."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from weakref import WeakSet

import numpy as np
from prometheus_client import Gauge, Histogram

from backends.vectors import FaceBlock, FaceVector, VectorReader
from sink.match.gallery import Gallery

LOADED = Gauge("facestream_galleries", "Galleries in memory")
FACES = Gauge("facestream_gallery_faces", "Faces in the galleries in memory")
BYTES = Gauge("facestream_gallery_bytes", "Approximate memory of the galleries")
LOAD_SECONDS = Histogram(
    "facestream_gallery_load_seconds",
    "Time that it takes to read a gallery from the vector store",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)


class Galleries:
    """Galleries by directory and generation. One caller at a time for each directory; different directories may be
    loaded concurrently.
    """

    def __init__(self, vectors: VectorReader, memory: int) -> None:
        """memory: bytes that the galleries may take together; the gallery in use may exceed this."""
        self._vectors, self._memory = vectors, memory
        self._galleries: OrderedDict[tuple[str, str], Gallery] = OrderedDict()
        self._drops = 0  # how often `drop` was called
        _IN_USE.add(self)

    async def get(self, directory: str, generation: str, dimension: int) -> Gallery:
        """The gallery, loaded if it is not in memory. Raises Unavailable."""
        key = (directory, generation)
        gallery = self._galleries.get(key)
        if gallery is None:
            gallery, drops = Gallery(dimension), self._drops
            with LOAD_SECONDS.time():
                async for block in self._vectors.read_gallery(directory, generation):
                    gallery.load(block)
            if drops != self._drops:  # it may have become stale while it was read, so it is used only for this call
                return gallery
            self._galleries[key] = gallery
        self._galleries.move_to_end(key)
        self._shrink()
        return gallery

    def add_learned(self, faces: list[FaceVector]) -> None:
        """Adds faces that are already in the vector store. A gallery that is not loaded will get them from there."""
        by_gallery: dict[tuple[str, str], list[FaceVector]] = {}
        for it in faces:
            by_gallery.setdefault((it.directory, it.generation), []).append(it)
        for key, new in by_gallery.items():
            if (gallery := self._galleries.get(key)) is not None:
                persons, face_ids = [it.face.person for it in new], [it.face.face_id for it in new]
                gallery.add(FaceBlock(persons, face_ids, np.stack([it.vector for it in new])))

    def loaded_with_faces(self, keys: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the keys (directory, generation) whose gallery is in memory and has faces."""
        return {key for key in keys if key in self._galleries and self._galleries[key].faces}

    def drop(self, stale: Callable[[str], bool]) -> None:
        """Drops the galleries of the directories for which `stale` holds."""
        self._drops += 1
        for key in [key for key in self._galleries if stale(key[0])]:
            del self._galleries[key]

    def _shrink(self) -> None:
        while len(self._galleries) > 1 and sum(gallery.nbytes for gallery in self._galleries.values()) > self._memory:
            self._galleries.popitem(last=False)


_IN_USE: WeakSet[Galleries] = WeakSet()


def _in_memory() -> Iterator[Gallery]:
    for galleries in list(_IN_USE):
        yield from galleries._galleries.values()


LOADED.set_function(lambda: sum(1 for _ in _in_memory()))
FACES.set_function(lambda: sum(gallery.faces for gallery in _in_memory()))
BYTES.set_function(lambda: sum(gallery.nbytes for gallery in _in_memory()))
