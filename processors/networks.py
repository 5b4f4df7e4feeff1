"""The networks as the inference thread calls them: pixels in, numbers out. Not for asyncio, and one caller at a time."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from processors.boxes import Detections, decode_heads

Chips = Tensor | Sequence[NDArray[np.uint8]] | Sequence[NDArray[np.float32]]


Heads = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # (B, 1, h, w), (B, 2, h, w), (B, 2, h, w), (B, 10, h, w), see decode_heads


class Detector:
    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        score_threshold: float,
        mirror: bool = False,
    ) -> None:
        """module: CenterFace, on `device` and in `dtype` already. score_threshold: raw scores at or below it are no
        face. mirror: the mean of what it says of a picture and of the mirrored picture.
        """
        self.module, self.device, self.dtype = module, device, dtype
        self.score_threshold, self.mirror = score_threshold, mirror

    @torch.inference_mode()
    def detect(self, batch: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """batch: pictures of one shape (h, w, 3), RGB, h and w multiples of 32. Returns the faces of each, in its
        pixels.
        """
        if not batch:
            return []
        # (B, h, w, 3) in memory is (B, 3, h, w) channels_last; bytes travel to the device, floats are made there
        pixels = torch.from_numpy(np.stack(batch)).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        x = pixels.to(self.dtype)  # 0..255 is exact in bfloat16 too
        heads: Heads = self.module(x)
        if self.mirror:
            heads = _mean(heads, _mirrored(self.module(x.flip(-1))))
        return decode_heads(*heads, self.score_threshold)


def _mirrored(heads: Heads) -> Heads:
    """The heads of a mirrored picture as of the picture itself: what was left is right, landmarks too."""
    heat, size, offset, points = (head.flip(-1) for head in heads)
    y, x = points[:, 0::2], points[:, 1::2]  # (B, 5, h, w) each
    across = [1, 0, 2, 4, 3]
    points = torch.stack([y[:, across], 1 - x[:, across]], 2).flatten(1, 2)
    return heat, size, torch.stack([offset[:, 0], -offset[:, 1]], 1), points


def _mean(one: Heads, other: Heads) -> Heads:
    heat, size, offset, points = ((a + b) / 2 for a, b in zip(one, other, strict=True))
    return heat, size, offset, points


class Embedder(Protocol):
    def embed(self, chips: Chips) -> NDArray[np.float32]:
        """chips: (B, 3, side, side) or pictures (side, side, 3), RGB 0..255, uint8 or float32. Returns (B, dimension)."""


class TorchEmbedder:
    """A shipped embedder."""

    def __init__(self, module: nn.Module, device: torch.device, *, mirror: bool, at_once: int = 128) -> None:
        """module: an embedding network, on `device` already. mirror: the mean with the mirrored chip's vector.

        at_once: chips in one forward, so that a photo of a crowd does not decide the memory.
        """
        self.module, self.device = module, device
        self.mirror, self.at_once = mirror, at_once

    @torch.inference_mode()
    def embed(self, chips: Chips) -> NDArray[np.float32]:
        """chips: (B, 3, side, side) or pictures (side, side, 3), RGB 0..255, uint8 or float32. Returns (B, dimension)."""
        if not isinstance(chips, Tensor):
            if not len(chips):
                raise ValueError("no chips to embed")
            chips = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2)
        parts = [self._forward(chips[start : start + self.at_once]) for start in range(0, len(chips), self.at_once)]
        return torch.cat(parts).numpy()

    def _forward(self, chips: Tensor) -> Tensor:
        x = chips.to(self.device, non_blocking=True).float()  # (B, 3, side, side)
        if self.mirror:
            x = torch.cat([x, x.flip(-1)])  # (2 B, 3, side, side)
        vectors: Tensor = self.module(x).float()  # (B or 2 B, dimension)
        if self.mirror:
            vectors = (vectors[: len(chips)] + vectors[len(chips) :]) / 2  # (B, dimension)
        return vectors.cpu()
