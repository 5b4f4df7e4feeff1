"""The galleries in memory: loaded from the vector store at first use, the least recently used dropped when memory is short."""

from collections import OrderedDict
from collections.abc import Callable

from backends.vectors import FaceBlock, FaceVector, VectorStore
from sink.gallery import Gallery


class Galleries:
    """One caller at a time for each directory; different directories may load side by side."""

    def __init__(self, vectors: VectorStore, memory: int) -> None:
        """memory: bytes that the galleries together may take; the one in use may take more."""
        self._vectors, self._memory = vectors, memory
        self._galleries: OrderedDict[tuple[str, str], Gallery] = OrderedDict()

    async def get(self, directory: str, generation: str, dimension: int) -> Gallery:
        """Raises Unavailable."""
        key = (directory, generation)
        if key not in self._galleries:
            gallery = Gallery(dimension)
            async for block in self._vectors.read_gallery(directory, generation):
                gallery.load(block)
            self._galleries[key] = gallery
        self._galleries.move_to_end(key)
        self._shrink()
        return self._galleries[key]

    def learned(self, faces: list[FaceVector]) -> None:
        """Adds faces that the vector store has by now; a gallery that is not loaded will find them there."""
        for it in faces:
            gallery = self._galleries.get((it.directory, it.generation))
            if gallery is not None:
                gallery.add(FaceBlock([it.face], it.vector[None]))

    def drop(self, stale: Callable[[str], bool]) -> None:
        """Drops the galleries of the directories for which `stale` holds."""
        for key in [key for key in self._galleries if stale(key[0])]:
            del self._galleries[key]

    def _shrink(self) -> None:
        while len(self._galleries) > 1 and sum(gallery.nbytes for gallery in self._galleries.values()) > self._memory:
            self._galleries.popitem(last=False)
