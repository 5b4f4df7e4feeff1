"""Wraps the networks for the inference thread: pixels in, numbers out. They block, and may have one caller at a
time.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from processors.boxes import Detections, decode_heads

Chips = Tensor | Sequence[NDArray[np.uint8]] | Sequence[NDArray[np.float32]]


# (B, 1, h, w), (B, 2, h, w), (B, 2, h, w), (B, 10, h, w), see decode_heads
Heads = tuple[Tensor, Tensor, Tensor, Tensor]


class Detector:
    """A shipped detector: pictures to boxes, scores and landmarks."""

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        score_threshold: float,
        mirror: bool = False,
    ) -> None:
        """module: CenterFace, on `device` and in `dtype` already. score_threshold: boxes with a raw score of at most
        this are dropped. mirror: whether to average the heads of the picture and of the mirrored picture.
        """
        self.module, self.device, self.dtype = module, device, dtype
        self.score_threshold, self.mirror = score_threshold, mirror

    @torch.inference_mode()
    def detect(self, batch: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """The faces of each picture, in its pixels. batch: (h, w, 3) each, one shape, RGB, sides multiples of 32."""
        if not batch:
            return []
        # (B, h, w, 3) in memory is (B, 3, h, w) channels_last; bytes go to the device and are converted there
        pixels = torch.from_numpy(np.stack(batch)).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        x = pixels.to(self.dtype)  # 0..255 is exact in bfloat16 too
        heads: Heads = self.module(x)
        if self.mirror:
            heads = _mean_heads(heads, _mirror_heads(self.module(x.flip(-1))))
        return decode_heads(*heads, self.score_threshold)


def _mirror_heads(heads: Heads) -> Heads:
    """Converts the heads of a mirrored picture to those of the picture: left and right are swapped, also in the
    landmarks.
    """
    heat, size, offset, points = (head.flip(-1) for head in heads)
    y, x = points[:, 0::2], points[:, 1::2]  # (B, 5, h, w) each
    across = [1, 0, 2, 4, 3]
    points = torch.stack([y[:, across], 1 - x[:, across]], 2).flatten(1, 2)
    return heat, size, torch.stack([offset[:, 0], -offset[:, 1]], 1), points


def _mean_heads(one: Heads, other: Heads) -> Heads:
    heat, size, offset, points = ((a + b) / 2 for a, b in zip(one, other, strict=True))
    return heat, size, offset, points


class Embedder(Protocol):
    def embed(self, chips: Chips) -> NDArray[np.float32]:
        """The vectors, (B, dimension). chips: (B, 3, side, side), or (side, side, 3) each; RGB, 0..255, any dtype."""


class TorchEmbedder:
    """A shipped embedder."""

    def __init__(self, module: nn.Module, device: torch.device, *, mirror: bool, batch_size: int = 128) -> None:
        """module: an embedding network, on `device` already. mirror: whether to average the vectors of the chip and of
        the mirrored chip. batch_size: chips in one forward, which limits its memory.
        """
        self.module, self.device = module, device
        self.mirror, self.batch_size = mirror, batch_size

    @torch.inference_mode()
    def embed(self, chips: Chips) -> NDArray[np.float32]:
        """The vectors, (B, dimension). chips: (B, 3, side, side), or (side, side, 3) each; RGB, 0..255, any dtype."""
        if not isinstance(chips, Tensor):
            if not len(chips):
                raise ValueError("no chips to embed")
            chips = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2)
        starts = range(0, len(chips), self.batch_size)
        parts = [self._forward(chips[start : start + self.batch_size]) for start in starts]
        return torch.cat(parts).numpy()

    def _forward(self, chips: Tensor) -> Tensor:
        x = chips.to(self.device, non_blocking=True).float()  # (B, 3, side, side)
        if self.mirror:
            x = torch.cat([x, x.flip(-1)])  # (2 B, 3, side, side)
        vectors: Tensor = self.module(x).float()  # (B or 2 B, dimension)
        if self.mirror:
            vectors = (vectors[: len(chips)] + vectors[len(chips) :]) / 2  # (B, dimension)
        return vectors.cpu()
