"""The records of `models`: the generations, with everything that a role has to know about them, and which one is
active.
"""

from typing import Annotated, Literal

from pydantic import Field

from schemas.calibration import Calibration, Entry, Threshold
from schemas.event import EventRecord

GenerationName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
State = Literal["added", "candidate", "complete", "retired"]


class OnnxEmbedder(Entry):
    """A user's own network: an ONNX file in the object store. Its input is (B, 3, side, side), computed from pixels p
    of 0..255 as p * scale + offset.
    """

    object_key: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    side: int = Field(ge=16, le=1_024)
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float
    offset: float


class Generation(EventRecord):
    """`models`: one pair of detector and embedder, replayed once. Its name is never reused.

    Its states are `added`; `candidate`, when new faces are embedded with it too; `complete`, when its replay has
    finished; and `retired`. `onnx` is set for a user's embedder; a shipped one is in the manifest. `faces`: the number
    of faces at the end of its replay.
    """

    name: GenerationName
    state: State
    detector: str
    embedder: str
    mirror: bool = False
    template: str
    dimension: int = Field(ge=1, le=8_192)
    metric: Literal["cosine"] = "cosine"
    onnx: OnnxEmbedder | None = None
    threshold: Threshold | None = None
    calibration: Calibration | None = None
    faces: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether learned faces are embedded with it."""
        return self.state in ("candidate", "complete")


class ActiveGeneration(EventRecord):
    """`models`: the generation with which probes are embedded and matched."""

    active: GenerationName
