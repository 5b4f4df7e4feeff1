"""torchvision's compiled NMS, without its Python package.

Importing the package imports torch._dynamo, which takes 1.4 s of processor time and 160 MB in every process that finds
faces (torchvision 0.29.2). The compiled operators are a library of their own.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The indices, (K,), of the boxes that no box with a better score overlaps with by more than `threshold`, an IoU;
    best first.

    boxes: (N, 4), xyxy. scores: (N,).
    """
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, threshold)
    return kept


def _load_operators() -> None:
    package = find_spec("torchvision")
    for folder in (package and package.submodule_search_locations) or ():
        for library in Path(folder).glob("_C*.so"):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    if not hasattr(torch.ops.torchvision, "nms"):
        raise ImportError("torchvision has no compiled operators that this torch can load: install the two together")


_load_operators()
