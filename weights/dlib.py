"""Reads dlib's serialized face recognition network (`.dat`): convolutions, affine layers and the last matrix, as numpy
arrays.

The format is a flat stream without an index: a value is found only by reading everything before it. Anything unexpected
raises WeightsInvalid. weights/convert.py folds and names the layers.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import WeightsInvalid

Array = NDArray[np.float32]

# From the loss to the input. The file has the version numbers of all layers in this order, then the layers in reverse.
_BLOCK = ["affine", "con", "relu", "affine", "con"]
_KEEP = ["relu", "add_prev", *_BLOCK, "tag"]
_DOWN = ["relu", "add_prev", "avg_pool", "skip", "tag", *_BLOCK, "tag"]
LAYERS = [
    "fc", "avg_pool", *_DOWN, *_KEEP * 2, *_DOWN, *_KEEP * 2, *_DOWN, *_KEEP * 3, *_DOWN, *_KEEP * 3,
    "max_pool", "relu", "affine", "con",
]  # fmt: skip


@dataclass(frozen=True)
class Convolution:
    weight: Array  # (out, in, rows, columns)
    bias: Array  # (out,)


@dataclass(frozen=True)
class Affine:
    gamma: Array  # (channels,)
    beta: Array  # (channels,)


@dataclass(frozen=True)
class FullyConnected:
    weight: Array  # (in, out), no bias


Layer = Convolution | Affine | FullyConnected


class DlibReader:
    """Reads the primitive values of dlib's serialization, and checks each against the end of the file."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.content) - self.at:
            raise WeightsInvalid(
                f"not dlib's network: {count} bytes announced at byte {self.at} of {len(self.content)}"
            )
        self.at += count
        return self.content[self.at - count : self.at]

    def expect(self, condition: bool, what: str) -> None:
        if not condition:
            raise WeightsInvalid(f"not dlib's network: {what} expected before byte {self.at}")

    def integer(self) -> int:
        """One byte (bit 7 the sign, the low four the number of bytes), then the bytes, little endian."""
        head = self.take(1)[0]
        value = int.from_bytes(self.take(head & 0x0F), "little")
        return -value if head & 0x80 else value

    def real(self) -> None:
        """Skips a real number (mantissa and exponent): none of the file's is needed."""
        self.integer()
        self.integer()

    def boolean(self) -> None:
        self.expect(self.take(1) in (b"0", b"1"), "'0' or '1'")

    def string(self) -> str:
        return self.take(self.integer()).decode("ascii", "replace")

    def tensor(self) -> Array:
        """Version 2, the four dimensions, then raw little-endian float32. Returns (n, k, rows, columns)."""
        self.expect(self.integer() == 2, "a tensor of version 2")
        shape = [self.integer() for _ in range(4)]
        self.expect(min(shape) >= 0 and max(shape) <= len(self.content), "a shape")
        return np.frombuffer(self.take(4 * math.prod(shape)), "<f4").reshape(shape)

    def alias(self) -> list[int]:
        """The shape of a part of the layer's parameters."""
        self.expect(self.integer() == 1, "an alias of version 1")
        return [self.integer() for _ in range(4)]


def read_convolution(reader: DlibReader) -> Convolution:
    tag = reader.string()
    reader.expect(tag in ("con_4", "con_5", "con_6"), "a convolution")
    parameters = reader.tensor().reshape(-1)
    for _ in range(7):  # filters, rows, columns, strides and padding: they are known from the network's module
        reader.integer()
    shape, _ = reader.alias(), reader.alias()
    for _ in range(4):
        reader.real()
    for _ in range({"con_4": 0, "con_5": 1, "con_6": 2}[tag]):
        reader.boolean()
    count = math.prod(shape)
    reader.expect(min(shape) > 0 and parameters.size == count + shape[0], "filters and a bias for each")
    return Convolution(parameters[:count].reshape(shape), parameters[count:])


def read_affine(reader: DlibReader) -> Affine:
    tag = reader.string()
    reader.expect(tag in ("affine_", "affine_2"), "an affine layer")
    parameters = reader.tensor().reshape(-1)
    reader.alias(), reader.alias(), reader.integer()
    if tag == "affine_2":
        reader.boolean()
    half = parameters.size // 2
    reader.expect(parameters.size == 2 * half, "as many factors as offsets")
    return Affine(parameters[:half], parameters[half:])


def read_fully_connected(reader: DlibReader) -> FullyConnected:
    tag = reader.string()
    reader.expect(tag in ("fc_2", "fc_3"), "a matrix")
    reader.integer(), reader.integer()
    weight = reader.tensor()
    reader.alias(), reader.alias(), reader.integer()
    for _ in range(4):
        reader.real()
    if tag == "fc_3":
        reader.boolean()
    reader.expect(weight.size > 0, "a matrix with numbers")
    return FullyConnected(weight.reshape(weight.shape[0], -1))


def read_layer(reader: DlibReader, name: str) -> Layer | None:
    """One layer; None for a layer without weights."""
    match name:
        case "con":
            return read_convolution(reader)
        case "affine":
            return read_affine(reader)
        case "fc":
            return read_fully_connected(reader)
        case "max_pool" | "avg_pool":
            reader.string()
            for _ in range(6):
                reader.integer()
        case _:  # relu, add_prev
            reader.string()
    return None


def read_layers(content: bytes) -> list[Layer]:
    """The layers that have weights, from the input to the embedding.

    content: the whole `.dat`. Raises WeightsInvalid if it is not the network of LAYERS.
    """
    reader = DlibReader(content)
    reader.expect(reader.integer() == 1, "a network of version 1")
    reader.expect(reader.string() == "loss_metric_2", "a metric loss")
    for _ in range(2):
        reader.real()
    versions = [reader.integer() for _ in LAYERS]

    reader.string()  # the input layer: its name, three means, rows, columns
    for _ in range(3):
        reader.real()
    reader.integer(), reader.integer()

    layers: list[Layer] = []
    for index, (name, version) in enumerate(zip(reversed(LAYERS), reversed(versions), strict=True)):
        if name in ("tag", "skip"):
            continue
        layer = read_layer(reader, name)
        if layer is not None:
            layers.append(layer)
        for _ in range(3):
            reader.boolean()
        reader.tensor(), reader.tensor()  # gradients and cached outputs, empty in a finished network
        if index == 0 or version == 2:
            reader.tensor()
        if index == 0 and version >= 3:
            reader.integer()
    reader.expect(reader.at == len(content), "the end of the file")
    return layers
