"""Converts the published files to safetensors with the names of processors/models, with the normalization folded in.

Folding uses only float64 and elementwise IEEE operations, and rounds once, so that every machine gets the same bytes.
Their sha256 is in the manifest. Nothing here imports torch or unpickles.
"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import save

from schemas.errors import WeightsInvalid
from weights import dlib

Tensors = dict[str, NDArray[np.float32]]


def centerface_names() -> Iterator[str]:
    """The convolutions of processors/models/centerface.py, in the order of the ONNX graph."""
    yield "stem"
    for trunk, blocks in (("trunk4", 3), ("trunk8", 3), ("trunk16", 7), ("trunk32", 4)):
        for block in range(blocks):
            if (trunk, block) != ("trunk4", 0):
                yield f"{trunk}.{block}.expand"
            yield f"{trunk}.{block}.depthwise"
            yield f"{trunk}.{block}.project"
    yield "lateral32"
    for finer in ("16", "8", "4"):
        yield f"up{finer}"
        yield f"lateral{finer}"
    yield from ("smooth", "heat", "size", "offset", "points")


def pack(tensors: Tensors) -> bytes:
    if not all(np.isfinite(each).all() for each in tensors.values()):
        raise WeightsInvalid("the weights are damaged: some are not finite numbers")
    return save(tensors)


@np.errstate(all="ignore")  # pack() finds damaged numbers
def convert_centerface(content: bytes) -> bytes:
    """CenterFace from ONNX. content: the file. Returns the safetensors file. Raises WeightsInvalid."""
    try:
        graph = onnx.load_model_from_string(content).graph
        constants = {each.name: np.array(onnx.numpy_helper.to_array(each), np.float64) for each in graph.initializer}
    except Exception as error:  # onnx and protobuf raise many kinds of errors: KeyError, DecodeError, ValueError
        raise WeightsInvalid(f"not CenterFace's ONNX file: {error}") from error

    convolutions: list[list[NDArray[np.float64]]] = []
    for node in graph.node:
        values = [constants[name] for name in node.input if name in constants]
        if node.op_type in ("Conv", "ConvTranspose") and len(values) in (1, 2) and values[0].ndim == 4:
            bias = values[1] if len(values) == 2 else np.zeros(values[0].shape[1])
            convolutions.append([values[0], bias])
        elif node.op_type == "BatchNormalization" and len(values) == 4 and convolutions:
            gamma, beta, mean, variance = values
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            weight, bias = convolutions[-1]
            if not gamma.shape == beta.shape == mean.shape == variance.shape == (weight.shape[1],):
                raise WeightsInvalid("not CenterFace's ONNX file: a normalization does not fit its convolution")
            factor = gamma / np.sqrt(variance + epsilon)
            # (in, out, rows, columns): only transposed convolutions still have a separate normalization
            convolutions[-1] = [weight * factor[None, :, None, None], (bias - mean) * factor + beta]

    names = list(centerface_names())
    if len(names) != len(convolutions):
        raise WeightsInvalid(f"not CenterFace's ONNX file: {len(convolutions)} convolutions, {len(names)} expected")
    tensors: Tensors = {}
    for name, (weight, bias) in zip(names, convolutions, strict=True):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight.astype(np.float32), bias.astype(np.float32)
    return pack(tensors)


@np.errstate(all="ignore")
def convert_resnet29(content: bytes) -> bytes:
    """dlib's ResNet-29 from its `.dat`. content: the file. Returns the safetensors file. Raises WeightsInvalid."""
    folded: list[list[NDArray[np.float64]]] = []
    tensors: Tensors = {}
    for layer in dlib.read_layers(content):
        match layer:
            case dlib.Convolution(weight, bias):
                folded.append([weight.astype(np.float64), bias.astype(np.float64)])
            case dlib.Affine(gamma, beta):
                weight64, bias64 = folded[-1]
                if gamma.shape != bias64.shape:
                    raise WeightsInvalid("not dlib's network: an affine layer does not fit its convolution")
                factor = gamma.astype(np.float64)
                folded[-1] = [weight64 * factor[:, None, None, None], bias64 * factor + beta.astype(np.float64)]
            case dlib.FullyConnected(weight):
                tensors["fc.weight"] = np.ascontiguousarray(weight.T)  # (128, 256)
    for index, (weight64, bias64) in enumerate(folded):
        block, second = divmod(index - 1, 2)
        name = "stem" if index == 0 else f"blocks.{block}.{'second' if second else 'first'}"
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight64.astype(np.float32), bias64.astype(np.float32)
    return pack(tensors)


CONVERTERS: dict[str, Callable[[bytes], bytes]] = {"centerface": convert_centerface, "dlib-resnet29": convert_resnet29}
