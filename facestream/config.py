"""Settings, from the environment (FACESTREAM_*) or the flags of a command."""

from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBI = 1 << 20


class Settings(BaseSettings):
    """Every field is read from FACESTREAM_<NAME>; `facestream up --help` lists them."""

    model_config = SettingsConfigDict(env_prefix="FACESTREAM_", frozen=True)

    listen: str = Field("127.0.0.1:8080", description="address and port of the HTTP service")
    data: Path = Field(Path("data"), description="folder of the embedded stores and of the weights")
    watch: str = Field(
        "",
        description="address and port of health and metrics alone (default: a free port of loopback for a role without service)",
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
    stage: Literal["both", "detect", "embed"] = Field("both", description="what a processor does")
    weights: Path | None = Field(None, description="folder of the model weights (default: DATA/weights)")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: str = Field("auto", description="auto, float32, bfloat16 or float16")
    open: bool = Field(False, description="serve beyond loopback without any API key")
    keep_probes: float = Field(
        7.0, ge=0, description="days that pictures of recognize and detect are kept; 0 deletes them once answered"
    )
    max_upload: int = Field(32 * MEBI, ge=1, description="largest upload in bytes")
    sources: str = Field(
        "",
        description="buckets of other systems, by commas, that their events may refer to beside incoming/ in our own",
    )
    max_pixels: int = Field(120_000_000, ge=1, description="most pixels an image may have")
    max_in_flight: int = Field(
        256, ge=1, description="most requests that wait for an answer at once; one more gets 429"
    )
    max_age: float = Field(
        30.0,
        gt=0,
        description="seconds that the oldest image may wait for its turn; beyond it, requests that wait get 429",
    )
    upload_memory: int = Field(
        256 * MEBI, ge=1, description="memory for uploads under way in bytes; when it is used up, 429"
    )
    gallery_memory: int = Field(
        2048 * MEBI, ge=1, description="memory for galleries in bytes; the least recently used are dropped"
    )
    threads: int = Field(
        0,
        ge=0,
        description="threads of the networks on a CPU (0: one a core); several processors on one machine want a share each",
    )
    decoders: int = Field(0, ge=0, description="decoding processes (0: one a core, at most 4)")

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
