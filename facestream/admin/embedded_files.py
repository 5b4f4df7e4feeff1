"""Where the files of an embedded installation are."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from backends.urls import path_of
from facestream.config import Settings
from schemas.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class EmbeddedFiles:
    """The files of the log and the vector store, and the folder of the objects."""

    log: Path
    vectors: Path
    objects: Path

    def exist(self) -> bool:
        """Whether there is an installation, or a part of one."""
        if self.log.exists() or self.vectors.exists():
            return True
        return self.objects.exists() and any(not child.name.startswith(".") for child in self.objects.iterdir())

    def settings(self, settings: Settings) -> Settings:
        """The settings with these files in place of their own."""
        urls = {
            "log": f"sqlite:///{quote(str(self.log))}",
            "vectors": f"sqlite:///{quote(str(self.vectors))}",
            "objects": f"file:///{quote(str(self.objects))}",
        }
        return settings.model_copy(update=urls)


def embedded_files(settings: Settings) -> EmbeddedFiles:
    """Raises ConfigurationError if a store is not embedded."""
    return EmbeddedFiles(
        log=_path("log", settings.log_url, "sqlite"),
        vectors=_path("vectors", settings.vectors_url, "sqlite"),
        objects=_path("objects", settings.objects_url, "file"),
    )


def _path(name: str, url: str, scheme: str) -> Path:
    setting = f"FACESTREAM_{name.upper()}"
    if urlsplit(url).scheme != scheme:
        raise ConfigurationError(
            f"{setting} is not {scheme}://…: servers have tools of their own for backups; docs/operations.md says in"
            " which order to use them, and what to do after a restore"
        )
    return path_of(url, setting=setting).absolute()
