"""A user's own networks as ONNX files, exported from torch in the test.

A small network with known weights is quick, but gives nearly the same vector for all faces. The exported shipped
embedder recognizes people.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from weights.load import load_embedder

SIDE = 112
DIMENSION = 16
CPU = torch.device("cpu")


class SmallEmbedder(nn.Module):
    """Two convolutions, a mean over each quarter of the picture, a matrix; no two seeds give the same weights."""

    def __init__(self, seed: int = 0, dimension: int = DIMENSION) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 8, 4, stride=4)
            self.second = nn.Conv2d(8, 8, 2, stride=2)
            self.fc = nn.Linear(8 * 4, dimension)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, 112, 112), -1..1. Returns (B, dimension)."""
        x = torch.relu(self.first(x))  # (B, 8, 28, 28)
        x = torch.relu(self.second(x))  # (B, 8, 14, 14)
        x = torch.nn.functional.avg_pool2d(x, 7)  # (B, 8, 2, 2)
        vectors: Tensor = self.fc(x.flatten(1))
        return vectors


def exported(module: nn.Module, side: int, *, batch: int | None = None) -> bytes:
    """The ONNX file of a network of pictures. batch: fixed at so many; None: any."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder, "model.onnx")
        # the exporter without torch.export, which needs no further package, says that it will go
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(batch or 2, 3, side, side),),
            file,
            dynamo=False,
            input_names=["picture"],
            output_names=["vector"],
            dynamic_axes=None if batch else {"picture": {0: "batch"}, "vector": {0: "batch"}},
        )
        return file.read_bytes()


def of_graph(nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], *constants: Any) -> bytes:
    """The ONNX file of any nodes. inputs, outputs: shapes of float32 by name."""
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in each.items()]
        for each in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "embedder", ends[0], ends[1], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def write_small(path: Path, *, seed: int = 0, dimension: int = DIMENSION, batch: int | None = None) -> Path:
    """A network for `facestream models add NAME PATH --input 112 --template arcface --range -1..1`."""
    path.write_bytes(exported(SmallEmbedder(seed, dimension), SIDE, batch=batch))
    return path


def write_resnet29(path: Path, weights_folder: Path) -> Path:
    """A network for `facestream models add NAME PATH --input 150 --template dlib --range 0..255`. Its vectors are those
    of the shipped generation dlib-resnet29.
    """
    path.write_bytes(exported(load_embedder(weights_folder, "dlib-resnet29", CPU, torch.float32), 150))
    return path
