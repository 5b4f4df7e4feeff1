"""Compares NumberedNames with a dict."""

import random
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from sink.match.names import NumberedNames

NAMES = st.lists(st.one_of(st.text(max_size=4), st.integers(0, 40).map(str)), max_size=60)


def require_same(names: NumberedNames, expected: dict[str, int]) -> None:
    assert len(names) == len(expected)
    assert [names[number] for number in range(len(names))] == list(expected)
    assert list(names.numbers(list(expected))) == list(expected.values())
    assert all(name in names for name in expected)


@given(st.lists(NAMES, max_size=8))
@settings(max_examples=150, deadline=None)
def test_names_are_numbered_as_they_come(batches: list[list[str]]) -> None:
    names, expected = NumberedNames(), dict[str, int]()
    for batch in batches:
        assert ("" in names) == ("" in expected)
        assert list(names.numbers(batch)) == [expected.setdefault(name, len(expected)) for name in batch]
        require_same(names, expected)


def test_many_names_are_numbered_in_order() -> None:
    chance = random.Random(1)
    names, expected = NumberedNames(), dict[str, int]()
    for _ in range(40):
        batch = [f"{chance.randrange(20_000)}é💙" for _ in range(700)]
        assert list(names.numbers(batch)) == [expected.setdefault(name, len(expected)) for name in batch]
    require_same(names, expected)
    assert "20000é💙" not in names


def test_names_whose_hashes_are_equal_are_told_apart() -> None:
    """The table keeps 32 bits of a hash; a search finds two names that share them."""
    seen: dict[int, str] = {}
    pair: tuple[str, str] | None = None
    for number in range(1_000_000):
        other = seen.setdefault(hash(f"{number}") & 0xFFFF_FFFF, f"{number}")
        if other != f"{number}":
            pair = (other, f"{number}")
            break
    assert pair is not None
    names = NumberedNames()
    assert list(names.numbers([pair[0]])) == [0]
    assert pair[1] not in names
    assert list(names.numbers([pair[1], pair[0], pair[1]])) == [1, 0, 1]
    assert [names[0], names[1]] == list(pair)
    together = NumberedNames()
    assert list(together.numbers(list(pair))) == [0, 1]


def test_numbered_names_take_less_memory_than_a_dict() -> None:
    given_ = [f"person {number:05}" for number in range(50_000)]
    names = NumberedNames()
    names.numbers(given_)
    index = {name: number for number, name in enumerate(given_)}
    assert names.nbytes < (sys.getsizeof(index) + sum(sys.getsizeof(it) for item in index.items() for it in item)) / 2
