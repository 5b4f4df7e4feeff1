"""The manifest of models: the source of each, its measured accuracy, and its thresholds and calibrations.

Ingest and sink read it too, so nothing here may import torch.
"""

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.calibration import Calibration, Entry, Threshold, check_points, interpolate
from schemas.errors import ConfigurationError, NotFound
from schemas.generation_records import Generation

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class ScoreCalibration(Entry):
    """The calibration of a detector: raw scores, and for each the share of boxes with that score that are faces."""

    scores: list[float]
    precision: list[Share]

    @model_validator(mode="after")
    def check(self) -> Self:
        check_points(self.scores, self.precision)
        return self

    def probability(self, score: float) -> float:
        """The probability that a box of this raw score is a face. Linear between the points, constant beyond them."""
        return interpolate(score, self.scores, self.precision)


class LfwAccuracy(Entry):
    """Accuracy on LFW: verification of 6,000 pairs, with the chip alone and together with the mirrored chip; and the
    true positive identification rate (TPIR) by gallery size.
    """

    lfw: Share
    lfw_threshold: float
    lfw_mirror: Share
    lfw_mirror_threshold: float
    people: list[int]
    tpir_at_one_in_100: list[Share]


class Model(Entry):
    """The common fields of detectors and embedders: where the weights come from."""

    network: str  # module:class, loaded by weights/load.py
    package: str  # in the Python package index
    version: str
    package_sha256: Sha256
    package_bytes: int
    file: str  # the member of the package with the weights
    file_sha256: Sha256
    file_bytes: int
    sha256: Sha256  # of the converted safetensors
    licence: str
    source: str


class DetectorModel(Model):
    kind: Literal["detector"]


class ShippedDetector(Entry):
    """A network and how it is run. mirror: whether to average the results for the picture and the mirrored picture."""

    model: str
    mirror: bool
    score_threshold: Share
    enrolment_score: Share
    calibration: ScoreCalibration


class EmbedderModel(Model):
    kind: Literal["embedder"]
    metric: Literal["cosine"]
    dimension: int
    template: str  # for processors.align.parse_template
    accuracy: LfwAccuracy


class ShippedGeneration(Entry):
    """A detector and an embedder. Without threshold or calibration, its replay measures them."""

    detector: str
    embedder: str
    mirror: bool
    threshold: Threshold | None = None
    calibration: Calibration | None = None


class Manifest(Entry):
    default_generation: str
    generations: dict[str, ShippedGeneration]
    detectors: dict[str, ShippedDetector]
    models: dict[str, Annotated[DetectorModel | EmbedderModel, Field(discriminator="kind")]]

    @model_validator(mode="after")
    def check(self) -> Self:
        self.generation(self.default_generation)
        for name, generation in self.generations.items():
            self.generation(name)
            self.detector(generation.detector)
        for detector in self.detectors.values():
            self.detector_model(detector.model)
        return self

    def generation(self, name: str) -> Generation:
        """A shipped generation in the state `added`; the default one is `complete`. Raises NotFound."""
        if name not in self.generations:
            raise NotFound(f"no generation {name!r}; the manifest has {', '.join(self.generations)}")
        shipped = self.generations[name]
        embedder = self.embedder(shipped.embedder)
        return Generation(
            name=name,
            state="complete" if name == self.default_generation else "added",
            **shipped.model_dump(),
            template=embedder.template,
            dimension=embedder.dimension,
            metric=embedder.metric,
        )

    def model(self, name: str) -> DetectorModel | EmbedderModel:
        """Raises NotFound."""
        if name not in self.models:
            raise NotFound(f"no model {name!r}; the manifest has {', '.join(self.models)}")
        return self.models[name]

    def detector(self, name: str) -> ShippedDetector:
        """Raises NotFound."""
        if name not in self.detectors:
            raise NotFound(f"no detector {name!r}; there are {', '.join(self.detectors)}")
        return self.detectors[name]

    def detector_model(self, name: str) -> DetectorModel:
        """Raises NotFound, ConfigurationError if the model is an embedder."""
        model = self.model(name)
        if not isinstance(model, DetectorModel):
            raise ConfigurationError(f"model {name!r} is an {model.kind}, not a detector")
        return model

    def embedder(self, name: str) -> EmbedderModel:
        """Raises NotFound, ConfigurationError if the model is a detector."""
        model = self.model(name)
        if not isinstance(model, EmbedderModel):
            raise ConfigurationError(f"model {name!r} is a {model.kind}, not an embedder")
        return model


@lru_cache
def manifest() -> Manifest:
    """The manifest that is shipped beside this file."""
    return Manifest.model_validate(tomllib.loads(Path(__file__).with_name("manifest.toml").read_text(encoding="utf-8")))
