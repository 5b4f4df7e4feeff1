"""A series of requests: how many are in flight, and what ends it. A fake driver answers when the test says so."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from backends.cassandra.series import RequestSeries


class Asked:
    """Stands for a ResponseFuture."""

    def __init__(self, value: int) -> None:
        self.value = value
        self._callbacks: tuple[Any, ...] = ()

    def add_callbacks(self, *callbacks: Any, callback_args: Sequence[Any], errback_args: Sequence[Any]) -> None:
        self._callbacks = (*callbacks, callback_args, errback_args)

    def answer(self) -> None:
        callback, _, arguments, _ = self._callbacks
        callback(None, *arguments)

    def fail(self, error: Exception) -> None:
        _, errback, _, arguments = self._callbacks
        errback(error, *arguments)

    def clear_callbacks(self) -> None:
        """They are called again here, as if a second server had answered."""


class Driver:
    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def send(self, statement: str, values: Sequence[int]) -> Asked:
        if values[0] < 0:
            raise ValueError("cannot be sent")
        self.asked.append(Asked(values[0]))
        return self.asked[-1]

    @property
    def values(self) -> list[int]:
        return [it.value for it in self.asked]


def numbers(*values: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    return (("statement", (value,)) for value in values)


async def test_the_given_number_of_requests_is_in_flight_until_all_are_answered() -> None:
    driver = Driver()
    series = RequestSeries(numbers(*range(10)), driver.send)
    series.begin(4)
    assert driver.values == [0, 1, 2, 3]
    for number in (2, 0, 3, 1, 5, 4, 9, 8, 7):
        driver.asked[number].answer()
        await asyncio.sleep(0)
        assert not series.done.done()
    assert driver.values == list(range(10))
    driver.asked[6].answer()
    await series.done


async def test_a_series_of_no_requests_is_done() -> None:
    series = RequestSeries(numbers(), Driver().send)
    series.begin(4)
    await series.done


async def test_a_second_answer_to_the_same_request_does_not_count() -> None:
    driver = Driver()
    series = RequestSeries(numbers(*range(5)), driver.send)
    series.begin(2)
    for _ in range(5):
        driver.asked[0].answer()
    assert driver.values == [0, 1, 2]
    for number in (1, 2, 3):
        driver.asked[number].answer()
    await asyncio.sleep(0)
    assert not series.done.done()
    driver.asked[4].answer()
    await series.done


@pytest.mark.parametrize("late", ["fail", "answer"])
async def test_after_a_failure_no_more_are_sent(late: str) -> None:
    driver = Driver()
    series = RequestSeries(numbers(*range(10)), driver.send)
    series.begin(3)
    driver.asked[1].fail(KeyError("first"))
    if late == "answer":
        driver.asked[0].answer()
    else:
        driver.asked[0].fail(KeyError("second"))
    with pytest.raises(KeyError, match="first"):
        await series.done
    driver.asked[2].answer()
    assert driver.values == [0, 1, 2]


async def test_a_request_that_cannot_be_made_or_sent_ends_the_series() -> None:
    for requests in (numbers(1, -1, 2), (("statement", (1 // it,)) for it in (1, 0, 1))):
        driver = Driver()
        series = RequestSeries(requests, driver.send)
        series.begin(3)
        with pytest.raises((ValueError, ZeroDivisionError)):
            await series.done
        assert driver.values == [1]


async def test_one_that_is_stopped_sends_no_more() -> None:
    driver = Driver()
    series = RequestSeries(numbers(*range(10)), driver.send)
    series.begin(3)
    series.done.cancel()
    series.stop()
    driver.asked[0].answer()
    await asyncio.sleep(0)
    assert driver.values == [0, 1, 2]
