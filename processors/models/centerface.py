"""CenterFace (arXiv 1911.03599): an anchor-free face detector at stride 4.

A MobileNetV2 trunk, three upsampling steps that add the trunk's finer maps, four 1×1 heads. Batch norm is folded into
the convolutions (weights/convert.py). processors/boxes.py turns the numbers of the heads into pixels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4  # pixels of the input per cell of the heads
MULTIPLE = 32  # height and width of the input are multiples of the trunk's coarsest stride


class InvertedResidual(nn.Module):
    """MobileNetV2's block (arXiv 1801.04381): 1×1 up, 3×3 depthwise, 1×1 down without activation."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, expand: int = 6) -> None:
        super().__init__()
        width = inputs * expand
        self.expand = nn.Conv2d(inputs, width, 1) if expand > 1 else None
        self.depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width)
        self.project = nn.Conv2d(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, h, w). Returns (B, outputs, h / stride, w / stride)."""
        y: Tensor = x if self.expand is None else F.relu(self.expand(x))
        y = self.project(F.relu(self.depthwise(y)))
        return x + y if self.residual else y


def inverted_residuals(inputs: int, outputs: int, blocks: int, *, stride: int, expand: int = 6) -> list[nn.Module]:
    """`blocks` blocks of one width; the first has the stride."""
    first = InvertedResidual(inputs, outputs, stride=stride, expand=expand)
    return [first, *(InvertedResidual(outputs, outputs, expand=expand) for _ in range(blocks - 1))]


class CenterFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.trunk4 = nn.Sequential(
            *inverted_residuals(32, 16, 1, stride=1, expand=1), *inverted_residuals(16, 24, 2, stride=2)
        )
        self.trunk8 = nn.Sequential(*inverted_residuals(24, 32, 3, stride=2))
        self.trunk16 = nn.Sequential(*inverted_residuals(32, 64, 4, stride=2), *inverted_residuals(64, 96, 3, stride=1))
        self.trunk32 = nn.Sequential(
            *inverted_residuals(96, 160, 3, stride=2), *inverted_residuals(160, 320, 1, stride=1)
        )

        self.lateral4 = nn.Conv2d(24, 24, 1)
        self.lateral8 = nn.Conv2d(32, 24, 1)
        self.lateral16 = nn.Conv2d(96, 24, 1)
        self.lateral32 = nn.Conv2d(320, 24, 1)
        self.up4 = nn.ConvTranspose2d(24, 24, 2, 2)
        self.up8 = nn.ConvTranspose2d(24, 24, 2, 2)
        self.up16 = nn.ConvTranspose2d(24, 24, 2, 2)
        self.smooth = nn.Conv2d(24, 24, 3, 1, 1)

        self.heat = nn.Conv2d(24, 1, 1)
        self.size = nn.Conv2d(24, 2, 1)
        self.offset = nn.Conv2d(24, 2, 1)
        self.points = nn.Conv2d(24, 10, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x: (B, 3, H, W), RGB 0..255, H and W multiples of 32.

        Returns heat (B, 1, H/4, W/4) in 0..1, size and offset (B, 2, H/4, W/4), points (B, 10, H/4, W/4).
        """
        c4 = self.trunk4(F.relu(self.stem(x)))  # (B, 24, H/4, W/4)
        c8 = self.trunk8(c4)  # (B, 32, H/8, W/8)
        c16 = self.trunk16(c8)  # (B, 96, H/16, W/16)
        c32 = self.trunk32(c16)  # (B, 320, H/32, W/32)

        p = F.relu(self.lateral32(c32))  # (B, 24, H/32, W/32)
        p = F.relu(self.up16(p)) + F.relu(self.lateral16(c16))  # (B, 24, H/16, W/16)
        p = F.relu(self.up8(p)) + F.relu(self.lateral8(c8))  # (B, 24, H/8, W/8)
        p = F.relu(self.up4(p)) + F.relu(self.lateral4(c4))  # (B, 24, H/4, W/4)
        p = F.relu(self.smooth(p))  # (B, 24, H/4, W/4)
        return self.heat(p).sigmoid(), self.size(p), self.offset(p), self.points(p)
