"""Agreement with an independent implementation in float32, on photos that `make photos` gets.

expected.json has its numbers for each face of some photos: box, raw score, landmarks, and the vector without and with
the mirrored chip. That implementation shares no code with this project, and reads the published weight files itself.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from processors import align
from processors.networks import Detector, Embedder, TorchEmbedder

EXPECTED: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_boxes_landmarks_and_embeddings_are_the_expected_ones(
    photos: Path, detector: Detector, embedder: Embedder, resnet29: nn.Module, name: str
) -> None:
    single = TorchEmbedder(resnet29, torch.device("cpu"), mirror=False)
    pixels = np.array(ImageOps.exif_transpose(Image.open(photos / name)).convert("RGB"))
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 32), (0, -width % 32), (0, 0)))
    found = detector.detect([padded])[0]
    assert len(found) == len(EXPECTED[name])
    for index, face in enumerate(EXPECTED[name]):
        np.testing.assert_allclose(found.boxes[index], face["box"], atol=0.1)
        np.testing.assert_allclose(found.landmarks[index], face["landmarks"], atol=0.1)
        np.testing.assert_allclose(found.scores[index], face["detection_score"], atol=1e-3)
        chip = align.cut_upright(pixels, found.landmarks[index])
        np.testing.assert_allclose(single.embed([chip])[0], face["embedding"], atol=1e-3)
        np.testing.assert_allclose(embedder.embed([chip])[0], face["embedding_flip_mean"], atol=1e-3)
