"""The manifest of models as data: where each comes from, what it promises, and the thresholds and calibrations that belong to it.

Ingest and sink read it too, so nothing here loads torch.
"""

import math
import tomllib
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.errors import ConfigurationError, NotFound

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Threshold(Entry):
    """Best similarities that one stranger in 10, 100 and 1,000 reaches, by number of enrolled people."""

    people: list[int]
    one_in_10: list[float]
    one_in_100: list[float]
    one_in_1000: list[float]

    @model_validator(mode="after")
    def check(self) -> Self:
        check_points(self.people, self.one_in_10, self.one_in_100, self.one_in_1000)
        return self

    def at(self, people: int, strangers: float) -> float:
        """The threshold above which the share `strangers` (0..1) of strangers gets a name in a gallery of `people`.

        Between the measured points, and beyond them, linear in the logarithm of both. Never above 1.
        """
        size = math.log10(max(1, people))
        sizes = [math.log10(each) for each in self.people]
        rows = [self.one_in_1000, self.one_in_100, self.one_in_10]
        measured = [line(size, sizes, row, extend=True) for row in rows]
        return min(1.0, line(math.log10(max(strangers, 1e-9)), [-3.0, -2.0, -1.0], measured, extend=True))


class Calibration(Entry):
    """A logistic curve of the best similarity, for each number of enrolled people."""

    people: list[int]
    midpoint: list[float]
    slope: list[float]

    @model_validator(mode="after")
    def check(self) -> Self:
        check_points(self.people, self.midpoint, self.slope)
        return self

    def probability(self, similarity: float, people: int) -> float:
        """That the best match, of this similarity, in a gallery of `people` is that person. 0..1."""
        size = math.log10(max(1, people))
        sizes = [math.log10(each) for each in self.people]
        z = line(size, sizes, self.slope) * (similarity - line(size, sizes, self.midpoint, extend=True))
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, z))))


class ScoreCalibration(Entry):
    """Points of raw detection score → share of the boxes of that score that are faces."""

    scores: list[float]
    precision: list[Share]

    @model_validator(mode="after")
    def check(self) -> Self:
        check_points(self.scores, self.precision)
        return self

    def probability(self, score: float) -> float:
        """That a box of this raw score is a face. Linear between the points, level beyond them."""
        return line(score, self.scores, self.precision)


class Accuracy(Entry):
    """LFW: verification of 6,000 pairs with one pass and with the mirrored chip, and identification (TPIR) by gallery size."""

    lfw: Share
    lfw_threshold: float
    lfw_mirror: Share
    lfw_mirror_threshold: float
    people: list[int]
    tpir_at_one_in_100: list[Share]


class Model(Entry):
    """What detectors and embedders have in common: where the weights come from."""

    network: str  # module:class, loaded by weights/load.py
    package: str  # in the Python package index
    version: str
    package_sha256: Sha256
    package_bytes: int
    file: str  # the one member that is wanted
    file_sha256: Sha256
    file_bytes: int
    sha256: Sha256  # of the converted safetensors
    licence: str
    source: str


class DetectorModel(Model):
    kind: Literal["detector"]
    score_threshold: Share
    enrolment_score: Share
    calibration: ScoreCalibration


class EmbedderModel(Model):
    kind: Literal["embedder"]
    metric: Literal["cosine"]
    dimension: int
    template: str  # a key of processors.align.TEMPLATES
    threshold: Threshold
    calibration: Calibration
    accuracy: Accuracy


class Generation(Entry):
    """One detector + embedder pair as once replayed."""

    detector: str
    embedder: str
    mirror: bool


class Manifest(Entry):
    default_generation: str
    generations: dict[str, Generation]
    models: dict[str, Annotated[DetectorModel | EmbedderModel, Field(discriminator="kind")]]

    @model_validator(mode="after")
    def check(self) -> Self:
        self.generation(self.default_generation)
        for generation in self.generations.values():
            self.detector(generation.detector)
            self.embedder(generation.embedder)
        return self

    def generation(self, name: str) -> Generation:
        """Raises NotFound."""
        if name not in self.generations:
            raise NotFound(f"no generation {name!r}; the manifest has {', '.join(self.generations)}")
        return self.generations[name]

    def model(self, name: str) -> DetectorModel | EmbedderModel:
        """Raises NotFound."""
        if name not in self.models:
            raise NotFound(f"no model {name!r}; the manifest has {', '.join(self.models)}")
        return self.models[name]

    def detector(self, name: str) -> DetectorModel:
        """Raises NotFound, ConfigurationError where the model is an embedder."""
        model = self.model(name)
        if not isinstance(model, DetectorModel):
            raise ConfigurationError(f"model {name!r} is an {model.kind}, not a detector")
        return model

    def embedder(self, name: str) -> EmbedderModel:
        """Raises NotFound, ConfigurationError where the model is a detector."""
        model = self.model(name)
        if not isinstance(model, EmbedderModel):
            raise ConfigurationError(f"model {name!r} is a {model.kind}, not an embedder")
        return model


@lru_cache
def manifest() -> Manifest:
    """The manifest that is shipped beside this file."""
    return Manifest.model_validate(tomllib.loads(Path(__file__).with_name("manifest.toml").read_text(encoding="utf-8")))


def check_points(at: list[int] | list[float], *columns: list[float]) -> None:
    if len(at) < 2 or any(low >= high for low, high in pairwise(at)) or any(len(column) != len(at) for column in columns):
        raise ValueError("points have to ascend, at least two, with a value each")


def line(x: float, xs: list[float], ys: list[float], *, extend: bool = False) -> float:
    """Linear interpolation. Beyond the points level, or with `extend` along the nearest segment."""
    segment = next((index for index in range(1, len(xs) - 1) if x <= xs[index]), len(xs) - 1)
    low, high = segment - 1, segment
    share = (x - xs[low]) / (xs[high] - xs[low])
    if not extend:
        share = max(0.0, min(1.0, share))
    return ys[low] + share * (ys[high] - ys[low])
