"""The networks with their real weights, on the CPU in float32, and the reference's results where the shared folder has
them.

test_expected.py is collected only where that folder lies beside the repository: elsewhere there is nothing to compare
with.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from processors.networks import Detector, TorchEmbedder
from weights.load import load_detector, load_embedder

CPU = torch.device("cpu")
SHARED = Path(__file__).parents[2].parent / "shared"

collect_ignore = [] if (SHARED / "prototypes" / "expected.json").is_file() else ["test_expected.py"]


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def centerface(weights_folder: Path) -> nn.Module:
    return load_detector(weights_folder, "centerface", CPU, torch.float32)


@pytest.fixture(scope="session")
def resnet29(weights_folder: Path) -> nn.Module:
    return load_embedder(weights_folder, "dlib-resnet29", CPU, torch.float32)


@pytest.fixture(scope="session")
def detector(centerface: nn.Module) -> Detector:
    return Detector(centerface, CPU, torch.float32, score_threshold=0.45)


@pytest.fixture(scope="session")
def embedder(resnet29: nn.Module) -> TorchEmbedder:
    return TorchEmbedder(resnet29, CPU, mirror=True)
