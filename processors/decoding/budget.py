"""Limits the memory for decoded pixels. Requests are served in their order."""

import asyncio
from collections import deque


class PixelBudget:
    """A limit on the pixels that are decoded at the same time. First come, first served, so that a large image is not
    starved.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._refusal: Exception | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, pixels: int) -> None:
        """Waits until `pixels` (at most the total) are free, and takes them. When cancelled it takes nothing."""
        if self._refusal is not None:
            raise self._refusal
        if not self._waiting and pixels <= self.free:
            self.free -= pixels
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(pixels)
            else:
                self._serve()  # the next in line may fit
            raise

    def refuse(self, error: Exception) -> None:
        """Raises `error` in all waiting calls of `take` and in all later ones."""
        self._refusal = error
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def give_back(self, pixels: int) -> None:
        """Gives back what `take` has taken."""
        self.free += pixels
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            pixels, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
            elif pixels <= self.free:
                self._waiting.popleft()
                self.free -= pixels
                turn.set_result(None)
            else:
                return
