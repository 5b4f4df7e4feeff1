"""Names, numbered in the order in which they came, in little more memory than their letters.

A dict of str takes 150 bytes a name, which in a gallery with one face a person is a third of its vectors.
"""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FREE = -1
HASH = 0xFFFF_FFFF  # 32 bits
AT_ONCE = 4_096


class Names:
    """`names[number]` is a name, `names.numbers` gives the numbers of names. A name never goes."""

    def __init__(self) -> None:
        self._count = 0
        # Arrays that are longer than what is in them; what was not written to yet takes no memory.
        self._text = np.empty(64, np.uint8).data  # UTF-8, one after the other
        self._ends = np.empty(0, np.int64).data  # of each in the text
        self._hashes = np.empty(0, np.uint32).data  # of each
        # A hash table by linear probing: each slot holds a number.
        self._slots = np.empty(0, np.int32).data
        self._spread(8)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> str:
        return str(self._bytes(number), "utf-8")

    def __contains__(self, name: str) -> bool:
        return self._find(name)[0] != FREE

    @property
    def nbytes(self) -> int:
        return sum(it.nbytes for it in (self._text, self._ends, self._hashes, self._slots))

    def numbers(self, names: Sequence[str]) -> NDArray[np.int32]:
        """The number of each; new ones are added. Equal names in a row cost next to nothing."""
        found = array("i")
        previous, number = None, FREE
        for name in names:
            if name != previous:
                previous, number = name, self._number(name)
            found.append(number)
        return np.frombuffer(found, np.int32)

    def _number(self, name: str) -> int:
        number, slot = self._find(name)
        if number == FREE:
            number = self._count
            self._slots[slot] = number
            self._append(name)
        return number

    def _find(self, name: str) -> tuple[int, int]:
        """Its number and its slot, FREE and the slot for it where it is new."""
        slots, hashes = self._slots, self._hashes
        mask, hash_ = len(slots) - 1, hash(name) & HASH
        slot = hash_ & mask
        while (number := slots[slot]) != FREE:
            if hashes[number] == hash_ and self._bytes(number) == name.encode():
                break
            slot = slot + 1 & mask
        return number, slot

    def _append(self, name: str) -> None:
        text = name.encode()
        begin = self._ends[self._count - 1] if self._count else 0
        end = begin + len(text)
        if end > len(self._text):
            self._text = _longer(self._text, begin, 2 * end)
        self._text[begin:end] = text
        self._ends[self._count], self._hashes[self._count] = end, hash(name) & HASH
        self._count += 1
        if self._count == len(self._ends):
            self._spread(2 * len(self._slots))

    def _bytes(self, number: int) -> memoryview:
        return self._text[self._ends[number - 1] if number else 0 : self._ends[number]]

    def _spread(self, size: int) -> None:
        """Makes room for two thirds of so many names, a power of two: fuller, a search in the table would take long."""
        self._ends = _longer(self._ends, self._count, 2 * size // 3)
        self._hashes = _longer(self._hashes, self._count, 2 * size // 3)
        slots = np.full(size, FREE, np.int32)
        for begin in range(0, self._count, AT_ONCE):
            left = np.arange(begin, min(begin + AT_ONCE, self._count), dtype=np.int32)
            at = np.asarray(self._hashes)[left] & np.uint32(size - 1)
            while len(left):  # each goes on from a slot that another one took
                free = slots[at] == FREE
                slots[at[free]] = left[free]
                on = slots[at] != left
                left, at = left[on], at[on] + 1 & size - 1
        self._slots = slots.data


def _longer(values: memoryview, count: int, length: int) -> memoryview:
    """The first `count` of them, with room for so many."""
    known = np.asarray(values)
    longer = np.empty(length, known.dtype)
    longer[:count] = known[:count]
    return longer.data
