"""Agreement with the reference implementation in float32, on photos that are not part of the project."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from processors import align
from processors.networks import Detector, Embedder, TorchEmbedder


def test_boxes_landmarks_and_embeddings_are_the_references(
    shared: Path, detector: Detector, embedder: Embedder, resnet29: nn.Module
) -> None:
    single = TorchEmbedder(resnet29, torch.device("cpu"), mirror=False)
    for name, faces in json.loads((shared / "prototypes" / "expected.json").read_text()).items():
        path = next(iter((shared / "photos").glob(f"*/{name}")), shared / "photos" / name)
        pixels = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((0, -height % 32), (0, -width % 32), (0, 0)))
        found = detector.detect([padded])[0]
        assert len(found) == len(faces), name
        for index, face in enumerate(faces):
            np.testing.assert_allclose(found.boxes[index], face["box"], atol=0.1, err_msg=name)
            np.testing.assert_allclose(found.landmarks[index], face["landmarks"], atol=0.1, err_msg=name)
            np.testing.assert_allclose(found.scores[index], face["detection_score"], atol=1e-3, err_msg=name)
            chip = align.cut(pixels, found.landmarks[index])
            np.testing.assert_allclose(single.embed([chip])[0], face["embedding"], atol=1e-3, err_msg=name)
            np.testing.assert_allclose(embedder.embed([chip])[0], face["embedding_flip_mean"], atol=1e-3, err_msg=name)
