"""The embedder's network: shape, dtype, a batch against single chips, a residual block as plain loops, real people."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from processors import align
from processors.models.resnet29 import Residual, ResNet29
from processors.networks import Detector, Embedder, TorchEmbedder
from processors.passes import plan_passes, render_pass
from weights.load import load_embedder
from weights.manifest import manifest

CPU = torch.device("cpu")


def chips(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 255, (count, 150, 150, 3)).astype(np.float32)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_chip_becomes_128_numbers_by_29_convolutions() -> None:
    net = ResNet29().eval()
    assert net(torch.zeros(2, 3, 150, 150)).shape == (2, manifest().embedder("dlib-resnet29").dimension)
    assert sum(isinstance(module, nn.Conv2d) for module in net.modules()) == 29


def test_embeddings_are_float32_whatever_the_network_is(weights_folder: Path, embedder: Embedder) -> None:
    narrow = TorchEmbedder(load_embedder(weights_folder, "dlib-resnet29", CPU, torch.bfloat16), CPU, mirror=True)
    wide, vectors = embedder.embed(list(chips(1))), narrow.embed(list(chips(1)))
    assert vectors.dtype == np.float32
    assert vectors.shape == (1, 128)
    assert cosine(wide[0], vectors[0]) > 0.999


def test_a_batch_equals_single_chips(resnet29: nn.Module) -> None:
    pictures = list(chips(5))
    together = TorchEmbedder(resnet29, CPU, mirror=True, batch_size=2).embed(pictures)
    alone = np.concatenate([TorchEmbedder(resnet29, CPU, mirror=True).embed([picture]) for picture in pictures])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_bytes_a_tensor_and_floats_are_the_same_chip(embedder: Embedder) -> None:
    picture = np.rint(chips(1)[0]).astype(np.uint8)
    expected = embedder.embed([picture.astype(np.float32)])
    np.testing.assert_array_equal(embedder.embed([picture]), expected)
    np.testing.assert_allclose(
        embedder.embed(torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()), expected, atol=1e-5
    )


def test_the_mirror_mean_is_the_mean_of_both(resnet29: nn.Module, embedder: Embedder) -> None:
    picture, single = chips(1)[0], TorchEmbedder(resnet29, CPU, mirror=False)
    both = np.concatenate([single.embed([picture]), single.embed([picture[:, ::-1]])])
    np.testing.assert_allclose(embedder.embed([picture])[0], both.mean(0), atol=1e-5)
    np.testing.assert_allclose(embedder.embed([picture]), embedder.embed([picture[:, ::-1]]), atol=1e-5)


def test_no_chips_are_a_mistake_of_the_caller(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match="no chips"):
        embedder.embed([])


def test_a_halving_block_pads_as_dlib_does() -> None:
    torch.manual_seed(0)
    block, x = Residual(2, 3, down=True).eval(), torch.rand(1, 2, 7, 9)
    y = block.second(F.relu(block.first(x)))[0]  # (3, 3, 4)
    expected = torch.zeros(3, 3, 4)
    for channel in range(3):
        for row in range(3):
            for column in range(4):
                shortcut = (
                    x[0, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean() if channel < 2 else 0
                )
                expected[channel, row, column] = F.relu(y[channel, row, column] + shortcut)
    torch.testing.assert_close(block(x)[0], expected)

    # 6 rows: the convolutions give 2, the pooling 3; the missing row is zeros at the bottom
    x = torch.rand(1, 2, 6, 9)
    torch.testing.assert_close(block(x)[0, :2, 2], F.avg_pool2d(x, 2, 2)[0, :, 2])
    assert block(x)[0, 2, 2].abs().max() == 0


def test_one_person_is_nearer_than_another(detector: Detector, embedder: Embedder, photos: Path) -> None:
    vectors = {}
    for name in ("obama.jpg", "obama2.jpg", "biden.jpg"):
        image = Image.open(photos / name).convert("RGB")
        found = detector.detect([render_pass(image, plan_passes(*image.size)[0])])[0]
        vectors[name] = embedder.embed([align.cut_upright(np.asarray(image), found.landmarks[0])])[0]
    same = cosine(vectors["obama.jpg"], vectors["obama2.jpg"])
    others = cosine(vectors["obama.jpg"], vectors["biden.jpg"])
    threshold = manifest().embedder("dlib-resnet29").accuracy.lfw_mirror_threshold
    assert max(others, threshold) < same
