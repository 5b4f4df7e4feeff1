"""dlib's face recognition network: 29 convolutions, 150×150 chip → 128 numbers (dlib.net, dnn_face_recognition_ex).

Its affine layers are folded into the convolutions (weights/convert.py). The embeddings are not of unit length.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 150  # pixels of the chip
DIMENSION = 128
MEAN = (122.782, 117.001, 104.298)  # RGB, subtracted before the division by 256: dlib's input_rgb_image

# (convolution pairs, width, the first pair halves the map), from the input on
STAGES = ((3, 32, False), (4, 64, True), (3, 128, True), (3, 256, True), (1, 256, True))


class Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights: pooling and zero channels where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, down: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 2 if down else 1, 0 if down else 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.down = down
        self.grow = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, h, w). Returns (B, outputs, h, w), or with `down` (B, outputs, h // 2, w // 2)."""
        y = self.second(F.relu(self.first(x)))
        if self.down:
            x = F.avg_pool2d(x, 2, 2)
            # as dlib: zeros at the bottom and right, and as new last channels
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, self.grow))
        return F.relu(x + y)


class ResNet29(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 2)
        blocks, width = [], 32
        for count, outputs, down in STAGES:
            for index in range(count):
                blocks.append(Residual(width, outputs, down=down and index == 0))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(256, DIMENSION, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, 150, 150), RGB 0..255, best in float32 whatever the weights' dtype is. Returns (B, 128)."""
        x = (x - torch.tensor(MEAN, device=x.device).view(3, 1, 1)) / 256  # centred before a narrow dtype rounds it
        x = F.relu(self.stem(x.to(self.stem.weight.dtype)))  # (B, 32, 72, 72)
        x = F.max_pool2d(x, 3, 2)  # (B, 32, 35, 35)
        x = self.blocks(x)  # (B, 256, 2, 2)
        embeddings: Tensor = self.fc(x.mean((2, 3)))  # (B, 128)
        return embeddings
