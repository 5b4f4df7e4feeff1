"""Decodes images in child processes, so that an image that crashes, hangs or bloats its decoder affects no other
image.

Compressed bytes go to a child over a socket. Pixels come back in a memory file that parent and child share: no pixel is
copied between processes, and a killed child leaves nothing behind. Only the children (`processors.decoding.child`) use
Pillow; this file runs on the event loop, keeps the pixel budget and replaces children.
"""

import asyncio
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from mmap import mmap
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from processors.decoding.budget import PixelBudget
from processors.decoding.process import ChildGone, DecodingProcess
from processors.decoding.wire import GO, REQUEST, SKIP
from processors.passes import Pass, plan_passes
from schemas.errors import FacestreamError, NotAnImage, TooManyPixels, Unavailable, UnreadableImage
from schemas.media import HEAD_BYTES, sniff

Detail = Literal["normal", "high"]
Picture = NDArray[np.uint8]  # (height, width, 3), RGB

# Bytes. Measured: the kernel frees 4 MB in a millisecond. More than this is unmapped in a thread, not on the event
# loop.
UNMAP_HERE_BYTES = 8 << 20

_ERRORS: Final[dict[str, type[FacestreamError]]] = {
    error.code: error for error in (NotAnImage, TooManyPixels, UnreadableImage)
}


class DecodedImage:
    """Upright RGB pictures of one image, views on memory that `release` gives back; use it as a context manager.

    width, height: of the upright original. scale: decoded pixels per original pixel, 1.0 unless a large JPEG was
    decoded reduced. pixels: (height · scale, width · scale, 3), rounded up or down. passes: the pictures for the
    detector, each padded with zeros to its pass's `shape`. A view that is kept after `release` keeps its memory too,
    which the budget no longer counts.
    """

    def __init__(
        self, mapping: mmap, answer: dict[str, Any], detail: Detail, on_release: Callable[[mmap], None]
    ) -> None:
        self.width: int = answer["width"]
        self.height: int = answer["height"]
        self.scale: float = answer["scale"]
        self._mapping = mapping
        # np.frombuffer exports the mapping's buffer for as long as a view lives: the mapping cannot be closed before.
        self._bytes = np.frombuffer(mapping, np.uint8)
        self._pixels = self._view(answer["pixels"])
        layouts = answer["passes"]
        planned = plan_passes(self.width, self.height, detail) if layouts else []
        self._passes = [(part, self._view(layout)) for part, layout in zip(planned, layouts, strict=True)]
        self._on_release: Callable[[mmap], None] | None = on_release
        self._loop = asyncio.get_running_loop()

    def _view(self, layout: list[int]) -> Picture:
        offset, height, width, row = layout
        # raises where the view would exceed the mapping
        return np.ndarray((height, width, 3), np.uint8, self._bytes, offset, (row, 3, 1))

    @property
    def pixels(self) -> Picture:
        self._check()
        return self._pixels

    @property
    def passes(self) -> list[tuple[Pass, Picture]]:
        self._check()
        return self._passes

    def _check(self) -> None:
        if self._on_release is None:
            raise ValueError("the pixels of this image were released")

    def release(self) -> None:
        """Unmaps the pictures and returns their pixels to the budget. Call it on the event loop; it may be called
        again.
        """
        if self._on_release is None:
            return
        on_release, self._on_release = self._on_release, None
        del self._pixels, self._passes, self._bytes
        on_release(self._mapping)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        on_release = getattr(self, "_on_release", None)
        if on_release is not None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(on_release, self._mapping)
            warnings.warn("a decoded image was dropped without `release`", ResourceWarning, stacklevel=2, source=self)


def _unmap(mapping: mmap) -> None:
    with suppress(BufferError):  # a view is still in use: the last one unmaps
        mapping.close()


class _Worker:
    """A slot of the pool: its process, or the reason why the last one did not start."""

    def __init__(self) -> None:
        self.process: DecodingProcess | None = None
        self.failure: str = ""
        self.usable = True  # the process is between two requests


class DecodePool:
    """A pool of child processes that decode images.

    max_pixels: of an original. pixel_budget: pixels of all pictures that are decoded and not yet released, passes
    included; one image never takes more than the whole budget. time_limit_s: for one image, without waiting.
    memory_limit: the address space of a child, in bytes.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        max_pixels: int = 120_000_000,
        pixel_budget: int = 150_000_000,
        time_limit_s: float = 10,
        memory_limit: int = 2 << 30,
    ) -> None:
        self.workers = workers or min(4, len(os.sched_getaffinity(0)))
        self.time_limit_s = time_limit_s
        self.budget = PixelBudget(pixel_budget)
        self._settings = {"max_pixels": max_pixels, "memory_limit": memory_limit, "cpu_limit_s": int(time_limit_s) + 2}
        self._idle: asyncio.Queue[_Worker | None] = asyncio.Queue()
        self._all: list[_Worker] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._under_way: set[asyncio.Future[None]] = set()
        self._closed = False
        # A child is killed when the thread that started it ends (PR_SET_PDEATHSIG), so that thread runs as long as the
        # pool.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decode-start")

    async def start(self) -> None:
        """Starts the children, and returns when all are ready. Raises Unavailable if one does not start."""
        self._all = [_Worker() for _ in range(self.workers)]
        await asyncio.gather(*(self._fill(worker) for worker in self._all))
        if failure := next((worker.failure for worker in self._all if worker.process is None), None):
            await self.close()
            raise Unavailable(failure)

    async def close(self) -> None:
        """Stops every child. Decodes under way fail with Unavailable; images that were returned stay usable."""
        self._closed = True
        self._idle.put_nowait(None)
        self.budget.refuse(Unavailable("the decoder was stopped"))
        for worker in self._all:
            if worker.process is not None:
                worker.process.kill()
        for pending in (self._under_way, self._starting):
            if pending:
                await asyncio.wait(pending)
        for worker in self._all:
            await self._empty(worker)
        self._starter.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def decode(self, data: bytes | memoryview, *, detail: Detail = "normal", full: bool = False) -> DecodedImage:
        """Decodes pixels and passes; with `full`, the pixels at their full size and no passes.

        Raises NotAnImage, UnreadableImage, TooManyPixels; Unavailable if no child can be started. Release an image
        before you decode it again: callers that hold one image and wait for another could wait for each other for ever.
        """
        if not self._all:
            raise RuntimeError("the pool was not started")
        view = memoryview(data).cast("B")
        if sniff(bytes(view[:HEAD_BYTES])) is None:
            raise NotAnImage(
                "this is not an image of a supported format" if view else "the image is empty: nothing was sent"
            )
        done = asyncio.get_running_loop().create_future()
        self._under_way.add(done)
        try:
            return await self._attempt(view, detail, full)
        finally:
            self._under_way.remove(done)
            done.set_result(None)

    async def _attempt(self, data: memoryview, detail: Detail, full: bool) -> DecodedImage:
        for last in (False, True):
            worker = await self._take()
            try:
                return await self._decode(worker, data, detail, full)
            except ChildGone as gone:
                if self._closed:
                    raise Unavailable("the decoder was stopped") from gone
                # The child may have been killed while it was idle. A second time the image is at fault.
                if gone.decoding or last:
                    raise UnreadableImage("decoding this image crashed the decoder: its data is broken") from gone
            except TimeoutError as error:
                raise UnreadableImage(f"decoding this image took longer than {self.time_limit_s:g} seconds") from error
            finally:
                if worker.usable:
                    self._idle.put_nowait(worker)
                else:
                    self._refill(worker)
        raise AssertionError("the second attempt returns or raises")

    async def _decode(self, worker: _Worker, data: memoryview, detail: Detail, full: bool) -> DecodedImage:
        process = worker.process
        assert process is not None
        loop = asyncio.get_running_loop()
        began = loop.time()
        worker.usable = False
        async with asyncio.timeout(self.time_limit_s):
            await process.send(REQUEST.pack(len(data), full, detail == "high"), data)
            offer = await process.answer()
        self._raise_error(worker, offer)
        cost = min(offer["pixels"], self.budget.total)
        spent = loop.time() - began
        try:
            await self.budget.take(cost)
        except BaseException:
            process.send_byte(SKIP)
            worker.usable = True
            raise
        try:
            process.send_byte(GO)
            async with asyncio.timeout(self.time_limit_s - spent):
                answer = await process.answer(decoding=True)
            self._raise_error(worker, answer)
            image = DecodedImage(process.take_mapping(), answer, detail, partial(self._release, cost))
        except BaseException:
            self.budget.give_back(cost)
            raise
        worker.usable = True
        return image

    def _release(self, cost: int, mapping: mmap) -> None:
        self.budget.give_back(cost)
        if len(mapping) > UNMAP_HERE_BYTES and not self._closed:
            self._starter.submit(_unmap, mapping)
        else:
            _unmap(mapping)

    def _raise_error(self, worker: _Worker, answer: dict[str, Any]) -> None:
        if "error" in answer:
            worker.usable = not answer.get("last", False)
            raise _ERRORS[answer["error"]](answer["message"], **answer.get("details", {}))

    async def _take(self) -> _Worker:
        """The worker that has been idle longest. A worker whose process has ended gets a new one, and the next worker
        is tried.
        """
        while True:
            worker = await self._idle.get()
            if worker is None:
                self._idle.put_nowait(None)  # for the other callers that wait
                raise Unavailable("the decoder was stopped")
            if worker.process is not None and worker.process.is_alive():
                return worker
            failure = worker.failure if worker.process is None else ""
            self._refill(worker)
            if failure:
                raise Unavailable(failure)

    def _refill(self, worker: _Worker) -> None:
        if worker.process is not None:
            worker.process.kill()
        task = asyncio.get_running_loop().create_task(self._fill(worker))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _fill(self, worker: _Worker) -> None:
        """Starts a new process in place of the old one, before the next image comes."""
        await self._empty(worker)
        if self._closed:
            return
        process = None
        loop = asyncio.get_running_loop()
        try:
            process = await loop.run_in_executor(self._starter, DecodingProcess, self._settings)
            await process.wait_until_ready()
        except (ChildGone, OSError) as error:  # a time-out is an OSError
            why = f"{error}" if process is None else await loop.run_in_executor(self._starter, process.stop)
            worker.failure = f"a decoding process did not start: {why}"
        else:
            worker.process, worker.usable = process, True
        self._idle.put_nowait(worker)

    async def _empty(self, worker: _Worker) -> None:
        process, worker.process = worker.process, None
        if process is not None:
            await asyncio.get_running_loop().run_in_executor(self._starter, process.stop)
