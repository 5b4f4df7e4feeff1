"""A set of names that numbers the names, in little more memory than their characters take.

A dict of str takes 150 bytes per name: with one face of 128 numbers per person, a third of what the vectors take.
"""

from array import array
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

FREE = -1
LEAST_SLOTS = 8
HASH = 0xFFFF_FFFF  # 32 bits
NAMES_PER_STEP = 4_096  # placed together when the hash table grows


class NumberedNames:
    """Names, numbered from 0 in the order in which they were added. `names[number]` is a name. Names are never
    removed.
    """

    def __init__(self) -> None:
        self._count = 0
        # The arrays are longer than what they hold; pages that were never written to take no memory.
        self._text = np.empty(64, np.uint8)  # UTF-8, one after the other
        self._ends = np.empty(0, np.int64)  # of each name in the text
        self._hashes = np.empty(0, np.uint32)  # of each name
        # A hash table with linear probing: a slot holds a number. At most two thirds are taken, to keep searches short.
        self._slots = np.empty(0, np.int32)
        self._make_room(0)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> str:
        begin, end = self._ends[number - 1] if number else 0, self._ends[number]
        return self._text[begin:end].tobytes().decode()

    def __contains__(self, name: str) -> bool:
        hash_, mask = hash(name) & HASH, len(self._slots) - 1
        slot = hash_ & mask
        while (number := self._slots[slot]) != FREE:
            if self._hashes[number] == hash_ and self[number] == name:
                return True
            slot = slot + 1 & mask
        return False

    @property
    def nbytes(self) -> int:
        return self._text.nbytes + self._ends.nbytes + self._hashes.nbytes + self._slots.nbytes

    def numbers(self, names: Sequence[str]) -> NDArray[np.int32]:
        """The number of each name; new names are added. Equal names in a row cost almost nothing."""
        self._make_room(len(names))
        # memoryviews: numpy takes several times as long for a single element
        slots, hashes, mask, count = self._slots.data, self._hashes.data, len(self._slots) - 1, self._count
        numbers, new = array("i"), list[str]()
        previous, number = None, FREE
        for name in names:
            if name != previous:
                previous, hash_ = name, hash(name) & HASH
                slot = hash_ & mask
                while (number := slots[slot]) != FREE:
                    if hashes[number] == hash_ and (self[number] if number < count else new[number - count]) == name:
                        break
                    slot = slot + 1 & mask
                else:
                    number = count + len(new)
                    slots[slot], hashes[number] = number, hash_
                    new.append(name)
            numbers.append(number)
        self._append(new)
        return np.frombuffer(numbers, np.int32)

    def _append(self, names: list[str]) -> None:
        text = "".join(names).encode()
        lengths = map(len, names if len(text) == sum(map(len, names)) else [name.encode() for name in names])
        begin = int(self._ends[self._count - 1]) if self._count else 0
        end = begin + len(text)
        if end > len(self._text):
            self._text = _grow(self._text, begin, 2 * end)
        self._text[begin:end] = np.frombuffer(text, np.uint8)
        self._ends[self._count : self._count + len(names)] = begin + np.cumsum(list(lengths), dtype=np.int64)
        self._count += len(names)

    def _make_room(self, more: int) -> None:
        size = max(LEAST_SLOTS, len(self._slots))
        while self._count + more > 2 * size // 3:
            size *= 2
        if size > len(self._slots):
            self._ends = _grow(self._ends, self._count, 2 * size // 3)
            self._hashes = _grow(self._hashes, self._count, 2 * size // 3)
            self._slots = np.full(size, FREE, np.int32)
            for begin in range(0, self._count, NAMES_PER_STEP):
                left = np.arange(begin, min(begin + NAMES_PER_STEP, self._count), dtype=np.int32)
                slot = self._hashes[left] & np.uint32(size - 1)
                while len(left):  # names whose slot was taken try the next slot
                    free = self._slots[slot] == FREE
                    self._slots[slot[free]] = left[free]
                    on = self._slots[slot] != left
                    left, slot = left[on], slot[on] + 1 & np.uint32(size - 1)


def _grow(values: NDArray[T], count: int, length: int) -> NDArray[T]:
    """The first `count` values, in an array of that length."""
    longer = np.empty(length, values.dtype)
    longer[:count] = values[:count]
    return longer
