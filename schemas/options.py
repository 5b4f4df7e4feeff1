"""The caller's options for one image."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, field_validator

from schemas.json_types import ONE_LINE, Integer

Detail = Literal["normal", "high"]
Choice = Annotated[
    str,
    Field(pattern=r"^(largest|[0-9]{1,6}(\.[0-9]+)?,[0-9]{1,6}(\.[0-9]+)?)$", json_schema_extra=ONE_LINE),
]

MOST_FACES = 1_000
MOST_CANDIDATES = 10
LARGEST_SIDE = 1_000_000  # pixels, more than any picture has; without a bound, 1e400 would be valid JSON but infinite


class Options(BaseModel):
    """The caller's options for one image."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top: Integer = Field(3, ge=1, le=MOST_CANDIDATES, description="how many candidates a face gets")
    limit: Integer = Field(
        MOST_FACES, ge=1, le=MOST_FACES, description="how many faces an answer has at most, the best scores first"
    )
    min_score: StrictFloat = Field(0.0, ge=0, le=1, description="faces with a lower score are not answered")
    min_face: StrictFloat = Field(
        0.0, ge=0, le=LARGEST_SIDE, description="faces smaller than this, in pixels a side, are not answered"
    )
    strangers: StrictFloat = Field(
        0.01,
        gt=0,
        le=1,
        description="false positive identification rate (FPIR): the share of strangers that get a name; "
        "1 always names the nearest",
    )
    detail: Detail = Field("normal", description="high: looks at every pixel of a large photo, in tiles")
    face: Choice | None = Field(None, description="which face to learn: `largest`, or `x,y`, a point inside it")
    force: StrictBool = Field(False, description="learn a face under 40 pixels a side too")
    store: StrictBool = Field(True, description="false: the picture of a probe is deleted as soon as it is answered")

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Self:
        """The options of a form or of flags, whose numbers and truth values are texts. Raises ValidationError."""
        return cls.model_validate(texts, strict=False)

    @field_validator("top", "limit", "min_score", "min_face", "strangers", mode="before")
    @classmethod
    def _is_a_number(cls, value: object) -> object:
        """Raises ValueError for what pydantic would take as a number: true and false, underscores, blanks."""
        if isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(r"[0-9.eE+-]+", value)):
            raise ValueError("it must be a number")
        return value
