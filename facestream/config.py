"""Settings, from the environment (FACESTREAM_*) or the flags of a command."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import structlog
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

log = structlog.get_logger(__name__)

MEBI = 1 << 20
PREFIX = "FACESTREAM_"
OF_CLIENTS = ("URL", "KEY")  # facestream/client/flags.py
PASSWORDS = ("LOG_PASSWORD", "OBJECTS_PASSWORD", "VECTORS_PASSWORD")  # backends/urls.py
OF_DEVELOPERS = ("SERVICES", "SERVICES_CACHE", "REQUIRE_SERVICES", "NO_SKIPS", "IMAGE")  # scripts/, tests/, Compose


class Settings(BaseSettings):
    """Every field is read from FACESTREAM_<NAME>; `facestream up --help` lists them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    listen: str = Field("127.0.0.1:8080", description="address and port of the HTTP service")
    data: Path = Field(Path("data"), description="folder of the embedded stores and of the weights")
    watch: str = Field(
        "",
        description="address and port of a separate server for health and metrics (default: none with the HTTP service,"
        " else a free port on loopback)",
    )
    log: str = Field(
        "", description="URL of the event log, sqlite:// or kafka:// (default: sqlite:///DATA/log.db)", repr=False
    )
    objects: str = Field(
        "", description="URL of the object store, file:// or s3:// (default: file:///DATA/objects)", repr=False
    )
    vectors: str = Field(
        "",
        description="URL of the vector store, sqlite:// or cassandra:// (default: sqlite:///DATA/vectors.db)",
        repr=False,
    )
    member: str = Field(
        "", description="stable name of this process in its consumer groups (default: host, role and a number)"
    )
    stage: Literal["both", "detect", "embed"] = Field("both", description="stages that a processor runs")
    weights: Path | None = Field(None, description="folder of the model weights (default: DATA/weights)")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: str = Field("auto", description="auto, float32, bfloat16 or float16")
    open: bool = Field(False, description="serve other machines without any API key")
    keep_probes: float = Field(
        7.0,
        ge=0,
        allow_inf_nan=False,
        description="days that pictures of recognize and detect are kept; 0 deletes them once they are answered",
    )
    max_upload: int = Field(32 * MEBI, ge=1, description="largest upload in bytes")
    sources: str = Field(
        "",
        description="buckets of other systems, separated by commas, that their events may refer to besides"
        " incoming/ in the own bucket",
    )
    max_pixels: int = Field(120_000_000, ge=1, description="most pixels of an image")
    max_in_flight: int = Field(
        256, ge=1, description="most requests that wait for an answer at once; further ones get 429"
    )
    max_age: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that the oldest image may wait to be processed; beyond it, waiting requests get 429",
    )
    upload_memory: int = Field(
        256 * MEBI, ge=1, description="memory in bytes for uploads in progress; when it is full, further ones get 429"
    )
    gallery_memory: int = Field(
        2048 * MEBI, ge=1, description="memory in bytes for galleries; the least recently used are dropped"
    )
    threads: int = Field(
        0,
        ge=0,
        le=1_024,
        description="threads of the networks on a CPU (0: one for each core); with several processors on a machine give"
        " each a share",
    )
    decoders: int = Field(0, ge=0, le=1_024, description="decoding processes (0: one for each core, at most 4)")

    @field_validator("data", "weights", mode="before")
    @classmethod
    def _is_a_path(cls, value: object) -> object:
        """A blank path would be the current folder."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("it must not be empty")
        return value

    @field_validator("log", "objects", "vectors")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        """Raises ValueError for an IPv6 address that cannot be parsed. The message does not contain the URL, which may
        have a password.
        """
        urlsplit(value)
        return value

    @property
    def source_buckets(self) -> list[str]:
        return [name.strip() for name in self.sources.split(",") if name.strip()]

    @property
    def log_url(self) -> str:
        return self.log or f"sqlite:///{quote(str(self.data / 'log.db'))}"

    @property
    def objects_url(self) -> str:
        return self.objects or f"file:///{quote(str(self.data / 'objects'))}"

    @property
    def vectors_url(self) -> str:
        return self.vectors or f"sqlite:///{quote(str(self.data / 'vectors.db'))}"

    @property
    def weights_folder(self) -> Path:
        return self.weights or self.data / "weights"


def warn_of_unknown_variables(environment: Mapping[str, str]) -> None:
    """Logs a warning for each variable FACESTREAM_<NAME> that nothing reads, with the setting it may be meant for. Its
    value, which may be a password, is not logged.
    """
    known = [*(name.upper() for name in Settings.model_fields), *OF_CLIENTS, *PASSWORDS]
    for variable in environment:
        name = variable.upper().removeprefix(PREFIX)
        if variable.upper().startswith(PREFIX) and name not in (*known, *OF_DEVELOPERS):
            near = difflib.get_close_matches(name, known, n=1)
            meant = {"did_you_mean": PREFIX + near[0]} if near else {}
            log.warning("unknown setting", variable=variable, **meant)
