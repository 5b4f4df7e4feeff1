"""The detector's network: shapes, dtypes, batch equals single, a block against its plain formula, a real photo."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from processors.models.centerface import CenterFace, InvertedResidual
from processors.networks import Detector
from processors.passes import plan_passes, render_pass
from weights.load import load_detector

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 64, 96), (1, 160, 32)])
def test_heads_are_a_quarter_of_the_input(shape: tuple[int, int, int]) -> None:
    batch, height, width = shape
    heads = CenterFace().eval()(torch.rand(batch, 3, height, width) * 255)
    assert [tuple(head.shape) for head in heads] == [(batch, n, height // 4, width // 4) for n in (1, 2, 2, 10)]


def test_heads_have_the_dtype_of_the_weights(weights_folder: Path) -> None:
    net = load_detector(weights_folder, "centerface", CPU, torch.bfloat16)
    heads = net(torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16))
    assert {head.dtype for head in heads} == {torch.bfloat16}


def test_a_batch_equals_single_pictures(centerface: nn.Module) -> None:
    pictures = torch.rand(3, 3, 96, 64, generator=torch.Generator().manual_seed(0)) * 255
    together = centerface(pictures)
    for index in range(3):
        for batched, alone in zip(together, centerface(pictures[index : index + 1]), strict=True):
            torch.testing.assert_close(batched[index : index + 1], alone, rtol=1e-4, atol=1e-4)


def test_an_inverted_residual_is_its_three_convolutions_as_loops() -> None:
    torch.manual_seed(0)
    block, x = InvertedResidual(4, 4, expand=2).eval(), torch.rand(1, 4, 5, 6)
    assert isinstance(block.expand, nn.Conv2d)

    def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
        assert conv.bias is not None
        return torch.einsum("oi,ihw->ohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]

    wide = pointwise(x[0], block.expand).clamp(min=0)
    padded, depthwise = F.pad(wide, (1, 1, 1, 1)), torch.zeros_like(wide)
    assert block.depthwise.bias is not None
    for channel in range(8):
        for row in range(5):
            for column in range(6):
                window = padded[channel, row : row + 3, column : column + 3]
                value = (window * block.depthwise.weight[channel, 0]).sum() + block.depthwise.bias[channel]
                depthwise[channel, row, column] = value.clamp(min=0)
    expected = x[0] + pointwise(depthwise, block.project)
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-5, atol=1e-5)


def test_the_face_of_a_real_photo_is_found_where_it_is(detector: Detector, photos: Path) -> None:
    image = Image.open(photos / "obama.jpg").convert("RGB")
    found = detector.detect([render_pass(image, plan_passes(*image.size)[0])])[0]
    assert len(found) == 1
    left, top, right, bottom = found.boxes[0]
    assert found.scores[0] > 0.8
    eye, other_eye, nose, mouth, other_mouth = found.landmarks[0]
    assert left < eye[0] < nose[0] < other_eye[0] < right
    assert top < eye[1] < nose[1] < mouth[1] < bottom
    assert mouth[0] < other_mouth[0]


def test_bfloat16_finds_the_same_face(weights_folder: Path, detector: Detector, photos: Path) -> None:
    image = Image.open(photos / "biden.jpg").convert("RGB")
    picture = render_pass(image, plan_passes(*image.size)[0])
    narrow = Detector(
        load_detector(weights_folder, "centerface", CPU, torch.bfloat16),
        CPU,
        torch.bfloat16,
        score_threshold=detector.score_threshold,
    )
    wide_found, narrow_found = detector.detect([picture])[0], narrow.detect([picture])[0]
    np.testing.assert_allclose(narrow_found.scores[0], wide_found.scores[0], atol=0.02)
    side = np.sqrt(np.prod(wide_found.boxes[0, 2:] - wide_found.boxes[0, :2]))
    np.testing.assert_allclose(narrow_found.boxes[0], wide_found.boxes[0], atol=0.05 * side)


def test_a_mirrored_picture_has_the_mirrored_face(centerface: nn.Module, detector: Detector, photos: Path) -> None:
    """A detector with `mirror` gives the same for both pictures; one without is a pixel or two off."""
    both = Detector(centerface, CPU, torch.float32, score_threshold=detector.score_threshold, mirror=True)
    with Image.open(photos / "obama.jpg") as file:
        image = file.convert("RGB")
        picture = render_pass(image, plan_passes(*image.size)[0])
    one, other = both.detect([picture])[0], both.detect([np.ascontiguousarray(picture[:, ::-1])])[0]
    assert len(one) == len(other) == 1
    width, across = picture.shape[1], [1, 0, 2, 4, 3]
    turned = other.landmarks[0][across] * (-1, 1) + (width, 0)
    np.testing.assert_allclose(turned, one.landmarks[0], atol=1e-2)
    np.testing.assert_allclose(width - other.boxes[0][[2, 0]], one.boxes[0][[0, 2]], atol=1e-2)
    np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
    plain = detector.detect([picture])[0]
    apart = np.abs(plain.landmarks[0] - one.landmarks[0]).max()
    assert 0.01 < apart < 0.05 * (one.boxes[0][2] - one.boxes[0][0])


def test_a_picture_without_a_face_has_none(detector: Detector) -> None:
    flat = np.full((96, 128, 3), 127, np.uint8)
    found = detector.detect([flat])[0]
    assert (len(found), found.boxes.shape, found.landmarks.shape) == (0, (0, 4), (0, 5, 2))
    assert detector.detect([]) == []


def test_pictures_of_a_batch_keep_their_faces(detector: Detector, photos: Path) -> None:
    images = [Image.open(photos / name).convert("RGB").resize((320, 256)) for name in ("obama.jpg", "biden.jpg")]
    pictures = [np.asarray(image) for image in images]
    together = detector.detect(pictures)
    for picture, found in zip(pictures, together, strict=True):
        alone = detector.detect([picture])[0]
        assert len(alone) > 0
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.01)
        np.testing.assert_allclose(found.landmarks, alone.landmarks, atol=0.01)
