"""Backpressure: requests that would wait too long are refused before anything is accepted."""

from collections.abc import Callable

from schemas.errors import TooMuchInFlight


class Backpressure:
    """Refuses requests while images wait too long. age_s: the age of the oldest interactive image that is not finished.
    `max_age` is in seconds.
    """

    def __init__(self, age_s: Callable[[], float], max_age: float) -> None:
        self._age_s, self._max_age = age_s, max_age

    def check(self) -> None:
        """Raises TooMuchInFlight with the seconds after which to try again: the time in which the age can fall to half
        of the limit, by one second per second.
        """
        age = self._age_s()
        if age > self._max_age:
            seconds = max(1, min(60, round(age - self._max_age / 2)))
            raise TooMuchInFlight(
                f"images wait {age:.0f} s for their turn: try again in {seconds} s, or send Prefer: respond-async",
                retry_after=seconds,
            )
