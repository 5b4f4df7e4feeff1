"""The manifest is consistent, loads no torch, and interpolates its thresholds and calibrations."""

import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError
from torch import nn

from schemas.errors import ConfigurationError, NotFound
from weights import convert
from weights import load as loading
from weights.manifest import Manifest, manifest


def test_the_manifest_needs_no_torch() -> None:
    code = "import sys; from weights.manifest import manifest; manifest(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_model_can_be_converted_and_built() -> None:
    for name, model in manifest().models.items():
        assert name in convert.CONVERTERS
        assert isinstance(loading.build_network(model.network), nn.Module)


def test_thresholds_are_the_measured_ones_and_interpolated_logarithmically() -> None:
    threshold = manifest().generation("dlib-resnet29-mirror").threshold
    assert threshold is not None
    assert threshold.similarity_for(100, 0.01) == pytest.approx(0.942)
    assert threshold.similarity_for(1, 0.1) == pytest.approx(0.881)
    assert threshold.similarity_for(1000, 0.001) == pytest.approx(0.959)
    assert threshold.similarity_for(math.isqrt(100 * 1000), 0.01) == pytest.approx((0.948), abs=0.002)
    assert 0.953 < threshold.similarity_for(100_000, 0.01) < 1
    assert threshold.similarity_for(10**9, 1e-9) <= 1
    assert threshold.similarity_for(0, 0.01) == threshold.similarity_for(1, 0.01)
    for people in (1, 3, 70, 5000):
        assert (
            threshold.similarity_for(people, 0.1)
            < threshold.similarity_for(people, 0.03)
            < threshold.similarity_for(people, 0.001)
        )


def test_probabilities_rise_with_similarity_and_fall_with_the_gallery() -> None:
    calibration = manifest().generation("dlib-resnet29-mirror").calibration
    assert calibration is not None
    values = [calibration.probability(similarity, 100) for similarity in (-1, 0.8, 0.93, 0.96, 1)]
    assert values == sorted(values)
    assert 0 <= values[0] < 0.01
    assert 0.99 < values[-1] <= 1
    assert calibration.probability(0.94, 10) > calibration.probability(0.94, 1000)


def test_detection_scores_become_precision() -> None:
    calibration = manifest().detector("centerface").calibration
    assert calibration.probability(0.0) == calibration.precision[0]
    assert calibration.probability(1.0) == calibration.precision[-1]
    assert calibration.precision[0] < calibration.probability((calibration.scores[0] + calibration.scores[1]) / 2)


def test_a_manifest_that_contradicts_itself_is_refused() -> None:
    text = Path(loading.__file__).with_name("manifest.toml").read_text()
    for before, after in (
        ('default_generation = "dlib-resnet29-mirror"', 'default_generation = "gone"'),
        ('detector = "centerface"', 'detector = "dlib-resnet29"'),
    ):
        with pytest.raises((NotFound, ConfigurationError)):
            Manifest.model_validate(tomllib.loads(text.replace(before, after)))
    for before, after in (("people = [1, 10,", "people = [10, 1,"), ('licence = "MIT"', 'license = "MIT"')):
        with pytest.raises(ValidationError):
            Manifest.model_validate(tomllib.loads(text.replace(before, after)))
