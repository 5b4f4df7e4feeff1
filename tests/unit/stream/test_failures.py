"""What the worker does after a failure: how long it waits."""

from itertools import pairwise

from stream.failures import BACKOFF_FIRST_S, BACKOFF_MOST_S, backoff_s


def test_the_wait_between_tries_doubles_up_to_a_maximum() -> None:
    waits = [min(backoff_s(failures) for _ in range(200)) for failures in range(1, 12)]
    assert BACKOFF_FIRST_S <= waits[0] < 2 * BACKOFF_FIRST_S
    assert all(later > 1.3 * earlier for earlier, later in pairwise(waits[:6]))
    assert all(BACKOFF_MOST_S / 2 <= backoff_s(failures) <= BACKOFF_MOST_S for failures in (20, 1_024, 100_000))
