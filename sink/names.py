"""Names, numbered in the order in which they came, in little more memory than their letters.

A dict of str takes 150 bytes a name, which in a gallery with one face a person is a third of its vectors.
"""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FREE = -1


class Names:
    """`names[number]` is a name, `names.numbers` gives the numbers of names. A name never goes."""

    def __init__(self) -> None:
        self._text = bytearray()  # UTF-8, one after the other
        self._ends = array("q")  # of each in the text
        self._hashes = array("I")  # 32 bits of each
        self._spread(8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        return self._bytes(number).decode()

    def __contains__(self, name: str) -> bool:
        return self._find(name)[0] != FREE

    @property
    def nbytes(self) -> int:
        return len(self._text) + 12 * len(self) + self._slots.nbytes

    def numbers(self, names: Sequence[str]) -> NDArray[np.int32]:
        """The number of each; new ones are added. Equal names in a row cost next to nothing."""
        found = array("i")
        previous, number = None, FREE
        for name in names:
            if name != previous:
                previous, number = name, self._number(name)
            found.append(number)
        return np.frombuffer(found, np.int32)

    def _find(self, name: str) -> tuple[int, int]:
        """Its number and its slot, FREE and the slot for it where it is new."""
        slots, hashes = self._slots, self._hashes
        mask, hash_ = len(slots) - 1, hash(name) & 0xFFFF_FFFF
        slot = hash_ & mask
        while (number := slots[slot]) != FREE:
            if hashes[number] == hash_ and self._bytes(number) == name.encode():
                break
            slot = slot + 1 & mask
        return number, slot

    def _number(self, name: str) -> int:
        slots = self._slots
        number, slot = self._find(name)
        if number != FREE:
            return number
        number = len(self)
        slots[slot] = number
        self._hashes.append(hash(name) & 0xFFFF_FFFF)
        self._text += name.encode()
        self._ends.append(len(self._text))
        if 3 * len(self) > 2 * len(slots):  # fuller, searches get long
            self._spread(2 * len(slots))
        return number

    def _bytes(self, number: int) -> bytes:
        begin = self._ends[number - 1] if number else 0
        return bytes(self._text[begin : self._ends[number]])

    def _spread(self, size: int) -> None:
        """Makes a hash table of so many slots, each of which holds a number, by linear probing. All names enter it at once: each
        goes on from a slot that another one took.
        """
        slots = np.full(size, FREE, np.int32)
        left = np.arange(len(self), dtype=np.int32)
        at = np.frombuffer(self._hashes, np.uint32) & np.uint32(size - 1)
        while len(left):
            free = slots[at[left]] == FREE
            slots[at[left[free]]] = left[free]
            left = left[slots[at[left]] != left]
            at[left] = at[left] + 1 & size - 1
        self._slots = memoryview(slots)
