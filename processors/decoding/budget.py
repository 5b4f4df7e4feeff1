"""How much may be decoded at once: memory for pixels is given out in the order in which it is asked for."""

import asyncio
from collections import deque


class PixelBudget:
    """How many pixels may be decoded at once. Who comes first is served first: a large image is not passed over for
    ever.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._refusal: Exception | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, pixels: int) -> None:
        """Waits until `pixels` (at most the total) are free. Cancelled while waiting, nothing is taken."""
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
                self.give(pixels)
            else:
                self._serve()  # who stood behind may fit
            raise

    def refuse(self, error: Exception) -> None:
        """Ends the waiting of all who wait, and of all who come later."""
        self._refusal = error
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def give(self, pixels: int) -> None:
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
