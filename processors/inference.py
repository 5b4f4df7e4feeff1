"""The one thread that runs the networks. Pictures of several images are detected and embedded together, in chunks.

Images are served in the order in which their processing began. For each finished picture, a request is treated as if it
had begun a little later, so that a crowd of a thousand faces does not delay a portrait.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from processors.boxes import Detections
from processors.networks import Detector, Embedder

Picture = NDArray[np.uint8] | NDArray[np.float32]
Kind = str | tuple[str, tuple[int, ...]]
DEFERRED_PARTS = 4  # deferred requests (`since` in the future) get one of this many parts of a chunk
PICTURE_DONE_S = 0.01  # by which a request moves back for each finished picture: a few times the time of a chip


@dataclass(eq=False)  # compared by identity: comparing pictures would be wrong and slow
class _Request:
    """Pictures to run. A chunk has requests of one kind: a generation, or a detector and the shape of its pictures."""

    kind: Kind
    pictures: Sequence[Picture]
    future: Future[list[Any]]
    since: float
    taken: int = 0
    missing: int = 0
    results: list[Any] = field(default_factory=list)

    @property
    def turn(self) -> float:
        return self.since + self.taken * PICTURE_DONE_S


@dataclass(frozen=True)
class Networks:
    """Detectors by name and embedders by generation, added when they are first needed.

    `chunk_pixels` and `chunk_chips` limit one forward: how long other requests wait for it, and its memory.
    """

    chunk_pixels: int
    chunk_chips: int
    detectors: dict[str, Detector] = field(default_factory=dict)
    embedders: dict[str, Embedder] = field(default_factory=dict)

    def chunk_limit(self, kind: Kind) -> int:
        """The number of pictures of a kind that fit into a chunk."""
        if isinstance(kind, str):
            return self.chunk_chips
        detector, (height, width, *_) = kind
        forwards = 2 if self.detectors[detector].mirror else 1
        return max(1, self.chunk_pixels // (height * width * forwards))


class Inference:
    """Owns the networks and the thread that runs them.

    The networks are loaded in that thread too: each thread that calls torch gets its own OpenMP threads, and with more
    of them than cores every small forward takes 1.5 times as long.
    """

    def __init__(self, networks: Networks, threads: int = 0) -> None:
        """threads: for one forward on a CPU; 0 means one per core."""
        self._networks = networks
        self._threads = threads or len(os.sched_getaffinity(0))
        self._waiting: list[_Request] = []
        self._loading: list[tuple[Callable[[], None], Future[None]]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    async def detect(
        self, detector: str, pictures: Sequence[NDArray[np.uint8]], since: float | None = None
    ) -> list[Detections]:
        """The raw detections of each picture, (h, w, 3) with sides that are multiples of 32, in its own pixels.

        since: when the processing of the image began, as time.monotonic(); None means now. Raises KeyError for a
        detector that was not added.
        """
        self._networks.detectors[detector]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(pictures):
            by_shape.setdefault(picture.shape, []).append(i)
        requests = [
            self._submit((detector, shape), [pictures[i] for i in indices], since)
            for shape, indices in by_shape.items()
        ]
        found: dict[int, Detections] = {}
        for indices, results in zip(by_shape.values(), await asyncio.gather(*requests), strict=True):
            found.update(zip(indices, results, strict=True))
        return [found[i] for i in range(len(pictures))]

    async def embed(self, generation: str, chips: Sequence[Picture], since: float | None = None) -> NDArray[np.float32]:
        """The vectors, (n, D). chips: (side, side, 3) each, in the generation's template. since: as for `detect`."""
        return np.stack(await self._submit(generation, chips, since))

    async def add_detector(self, name: str, load: Callable[[], Detector]) -> None:
        """Loads a detector, between two chunks. Raises what `load` raises."""
        await self._add(lambda: self._networks.detectors.__setitem__(name, load()))

    async def add_embedder(self, generation: str, load: Callable[[], Embedder]) -> None:
        """Loads an embedder, between two chunks. Raises what `load` raises."""
        await self._add(lambda: self._networks.embedders.__setitem__(generation, load()))

    async def _add(self, load: Callable[[], None]) -> None:
        loaded: Future[None] = Future()
        with self._wake:
            self._loading.append((load, loaded))
            self._wake.notify()
        await asyncio.wrap_future(loaded)

    def close(self) -> None:
        """Ends the thread and cancels waiting requests."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, kind: Kind, pictures: Sequence[Picture], since: float | None) -> asyncio.Future[list[Any]]:
        since = time.monotonic() if since is None else since
        request = _Request(kind, pictures, Future(), since, missing=len(pictures), results=[None] * len(pictures))
        with self._wake:
            if self._closed:
                raise RuntimeError("the inference thread has ended")
            self._waiting.append(request)
            self._wake.notify()
        return asyncio.wrap_future(request.future)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        networks = self._networks
        while True:
            with self._wake:
                while not self._waiting and not self._loading and not self._closed:
                    self._wake.wait()
                if self._closed:
                    for request in self._waiting:
                        request.future.cancel()
                    for _, loaded in self._loading:
                        loaded.cancel()
                    return
                loading, self._loading = self._loading, []
                chunk = self._next_chunk() if self._waiting else []
            for load, loaded in loading:
                try:
                    load()
                except BaseException as error:
                    loaded.set_exception(error)
                else:
                    loaded.set_result(None)
            if not chunk:
                continue
            try:
                pictures: list[Any] = [request.pictures[i] for request, i in chunk]
                kind = chunk[0][0].kind
                if isinstance(kind, str):
                    results: list[Any] = list(networks.embedders[kind].embed(pictures))
                else:
                    results = networks.detectors[kind[0]].detect(pictures)
            except Exception as error:
                for request in {id(request): request for request, _ in chunk}.values():
                    self._fail(request, error)
                continue
            for (request, i), result in zip(chunk, results, strict=True):
                request.results[i] = result
                request.missing -= 1
                if request.missing == 0 and request.future.set_running_or_notify_cancel():
                    request.future.set_result(request.results)

    def _fail(self, request: _Request, error: Exception) -> None:
        with self._wake:
            if request in self._waiting:
                self._waiting.remove(request)
        if not request.future.done() and request.future.set_running_or_notify_cancel():
            request.future.set_exception(error)

    def _next_chunk(self) -> list[tuple[_Request, int]]:
        """As many pictures as there is room for, of the kind whose turn it is, taken from its requests in turn."""
        turn, now = attrgetter("turn"), time.monotonic()
        first = min(self._waiting, key=turn)
        kind, deferred = first.kind, first.since > now
        room = self._networks.chunk_limit(kind)
        if deferred:
            room = max(1, room // DEFERRED_PARTS)
        same = [request for request in self._waiting if request.kind == kind and (request.since > now) == deferred]
        chunk: list[tuple[_Request, int]] = []
        while same and len(chunk) < room:
            request = min(same, key=turn)
            chunk.append((request, request.taken))
            request.taken += 1
            if request.taken == len(request.pictures):
                same.remove(request)
                self._waiting.remove(request)
        return chunk
