"""Conversion of published weights: folding compared with the plain layers, and damaged files, made here in the authors'
formats.
"""

import struct
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load
from torch import nn

from schemas.errors import WeightsInvalid
from weights import convert, dlib


def centerface_file() -> bytes:
    """An ONNX graph with CenterFace's convolutions, of two channels, and a normalization after each transposed one."""
    chance = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name: str, *shape: int, low: float = -1.0) -> str:
        constants.append(onnx.numpy_helper.from_array(chance.uniform(low, 1, shape).astype(np.float32), name))
        return name

    at = "input"
    for index, name in enumerate(convert.centerface_names()):
        weight = constant(f"{index}.w", 2, 2, 1, 1)
        if name.startswith("up"):
            nodes.append(onnx.helper.make_node("ConvTranspose", [at, weight], [f"{index}.c"]))
            parts = [
                constant(f"{index}.{part}", 2, low=0.1 if part == "var" else -1.0)
                for part in ("gamma", "beta", "mean", "var")
            ]
            nodes.append(
                onnx.helper.make_node("BatchNormalization", [f"{index}.c", *parts], [f"{index}.y"], epsilon=1e-3)
            )
        else:
            nodes.append(onnx.helper.make_node("Conv", [at, weight, constant(f"{index}.b", 2)], [f"{index}.y"]))
        at = f"{index}.y"
    content: bytes = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], constants)).SerializeToString()
    return content


class Writer:
    """An independent implementation of dlib's serialization."""

    def __init__(self) -> None:
        self.content = b""

    def integer(self, value: int) -> None:
        digits = abs(value).to_bytes((abs(value).bit_length() + 7) // 8 or 1, "little")
        self.content += bytes([len(digits) | (0x80 if value < 0 else 0)]) + digits

    def integers(self, *values: int) -> None:
        for value in values:
            self.integer(value)

    def string(self, text: str) -> None:
        self.integer(len(text))
        self.content += text.encode()

    def tensor(self, values: NDArray[np.float64] | None = None) -> None:
        values = np.zeros((0, 0, 0, 0)) if values is None else values
        self.integers(2, *values.shape)
        self.content += struct.pack(f"<{values.size}f", *values.reshape(-1))


def single(chance: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Numbers that float32 holds exactly."""
    return chance.normal(size=shape).astype(np.float32).astype(np.float64)


def resnet29_file() -> tuple[bytes, dict[str, NDArray[np.float64]]]:
    """A `.dat` with the layers of dlib's network, two channels each, and the expected result of its conversion."""
    chance, writer, expected = np.random.default_rng(0), Writer(), {}
    convolution, weight, bias = 0, np.zeros(0), np.zeros(0)
    writer.integer(1)
    writer.string("loss_metric_2")
    writer.integers(4, -2, 3, -1)
    writer.integers(*[2] * len(dlib.LAYERS))
    writer.string("input_rgb_image_sized")
    writer.integers(*[1, 0] * 3, 150, 150)
    for index, name in enumerate(reversed(dlib.LAYERS)):
        if name in ("tag", "skip"):
            continue
        if name == "con":
            weight, bias = (single(chance, *shape) for shape in ((2, 2, 1, 1), (2,)))
            writer.string("con_4")
            writer.tensor(np.concatenate([weight.reshape(-1), bias]).reshape(-1, 1, 1, 1))
            writer.integers(2, 1, 1, 1, 1, 0, 0, 1, 2, 2, 1, 1, 1, 1, 2, 1, 1, *[1, 0] * 4)
        elif name == "affine":
            gamma, beta = (single(chance, 2) for _ in range(2))
            writer.string("affine_")
            writer.tensor(np.concatenate([gamma, beta]).reshape(4, 1, 1, 1))
            writer.integers(1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 0)
            block, second = divmod(convolution - 1, 2)
            label = "stem" if convolution == 0 else f"blocks.{block}.{'second' if second else 'first'}"
            expected[f"{label}.weight"] = np.array(
                [[[[weight[o, i, 0, 0] * gamma[o]]] for i in range(2)] for o in range(2)]
            )
            expected[f"{label}.bias"] = np.array([bias[o] * gamma[o] + beta[o] for o in range(2)])
            convolution += 1
        elif name == "fc":
            matrix = single(chance, 2, 3)
            writer.string("fc_2")
            writer.integers(3, 2)
            writer.tensor(matrix.reshape(2, 3, 1, 1))
            writer.integers(1, 2, 3, 1, 1, 1, 0, 0, 0, 0, 1, *[1, 0] * 4)
            expected["fc.weight"] = matrix.T
        else:
            writer.string(name)
            if name.endswith("pool"):
                writer.integers(3, 3, 2, 2, 0, 0)
        writer.content += b"000"
        for _ in range(3):
            writer.tensor()
        assert index < len(dlib.LAYERS)
    return writer.content, expected


def test_centerface_is_converted_with_its_normalization_folded_in() -> None:
    content = centerface_file()
    result = load(convert.convert_centerface(content))
    assert len(result) == 2 * len(list(convert.centerface_names()))
    constants = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load_model_from_string(content).graph.initializer
    }
    for index, name in enumerate(convert.centerface_names()):
        weight = constants[f"{index}.w"]
        if not name.startswith("up"):
            np.testing.assert_array_equal(result[f"{name}.weight"], weight)
            np.testing.assert_array_equal(result[f"{name}.bias"], constants[f"{index}.b"])
            continue
        x = torch.rand(1, 2, 3, 3)
        gamma, beta, mean, var = (
            torch.tensor(constants[f"{index}.{part}"]) for part in ("gamma", "beta", "mean", "var")
        )
        plain = nn.functional.conv_transpose2d(x, torch.tensor(weight))
        expected = nn.functional.batch_norm(plain, mean, var, gamma, beta, eps=1e-3)
        folded = nn.functional.conv_transpose2d(
            x, torch.tensor(result[f"{name}.weight"]), torch.tensor(result[f"{name}.bias"])
        )
        torch.testing.assert_close(folded, expected)


def test_dlibs_network_is_converted_with_its_affine_layers_folded_in() -> None:
    content, expected = resnet29_file()
    result = load(convert.convert_resnet29(content))
    assert set(result) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(result[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("converter", "content"),
    [(convert.convert_centerface, centerface_file()), (convert.convert_resnet29, resnet29_file()[0])],
)
class TestConversion:
    def test_is_deterministic(self, converter: Callable[[bytes], bytes], content: bytes) -> None:
        assert converter(content) == converter(content)

    def test_a_truncated_file_is_refused(self, converter: Callable[[bytes], bytes], content: bytes) -> None:
        for length in {*range(0, len(content) - 1, 61), 0, 1, 2, len(content) - 1}:
            with pytest.raises(WeightsInvalid):
                converter(content[:length])

    def test_a_corrupted_file_is_refused_or_converted_never_a_crash(
        self, converter: Callable[[bytes], bytes], content: bytes
    ) -> None:
        chance, refused = np.random.default_rng(0), 0
        for _ in range(600):
            damaged = bytearray(content)
            for at in chance.integers(0, len(content), 3):
                damaged[at] = chance.integers(0, 256)
            try:
                converter(bytes(damaged))
            except WeightsInvalid:
                refused += 1
        assert refused > 30
