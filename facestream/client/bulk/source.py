"""The pictures of a bulk command: those of a folder, or the rows of a table."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigurationError
from schemas.media import SUFFIXES
from schemas.names import normalise_name

COLUMNS = ("person", "file")


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture. photo: the path to read and to print. name: the path relative to the source, which identifies the
    picture in later runs.
    """

    photo: str
    name: str
    person: str | None = None


def pictures_of(folder: Path) -> list[PictureFile]:
    """All files below a folder that have the suffix of a picture. Raises ConfigurationError if there are none."""
    return _require_any([PictureFile(str(path), str(path.relative_to(folder))) for path in _pictures(folder)], folder)


def portraits_of(source: Path) -> list[PictureFile]:
    """The pictures of a folder that has a folder for each person, at any depth; or of a table (.csv) with the columns
    person and file, relative to the table. Raises ConfigurationError for a picture without a person.
    """
    return _require_any(
        list(_read_table(source)) if source.suffix.lower() == ".csv" else list(_read_folders(source)), source
    )


def _read_folders(source: Path) -> Iterator[PictureFile]:
    try:
        entries = sorted(source.iterdir())
    except OSError as error:
        raise _unreadable(error) from None
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            person = _parse_person(entry.name, f"the folder {entry}")
            for path in _pictures(entry):
                yield PictureFile(str(path), str(path.relative_to(source)), person)
        elif _is_picture(entry.name):
            raise ConfigurationError(
                f"{entry} is in no person's folder: {source} must have a folder for each person, with the person's name"
            )


def _read_table(table: Path) -> Iterator[PictureFile]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not set(COLUMNS) <= set(rows.fieldnames or ()):
                raise ConfigurationError(f"{table}: the first line must name the columns, person and file among them")
            seen = set()
            for row in rows:
                place = f"{table}, line {rows.line_num}"
                name, person = row["file"], _parse_person(row["person"] or "", place)
                if not name:
                    raise ConfigurationError(f"{place}: no file")
                if (name, person) not in seen:
                    seen.add((name, person))
                    yield PictureFile(str(table.parent / name), name, person)
    except OSError as error:
        raise _unreadable(error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{table} is not a table of comma-separated values in UTF-8: {error}") from None


def _parse_person(text: str, place: str) -> str:
    try:
        return normalise_name(text)
    except ValueError as error:
        raise ConfigurationError(f"{place}: {error}") from None


def _pictures(folder: Path) -> Iterator[Path]:
    """The pictures below a folder, always in the same order, without hidden files and folders."""

    def failed(error: OSError) -> None:
        raise _unreadable(error)

    for place, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if _is_picture(name))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _unreadable(error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{error.filename} cannot be read: {error.strerror}")


def _require_any(items: list[PictureFile], source: Path) -> list[PictureFile]:
    if not items:
        raise ConfigurationError(f"there are no pictures in {source}")
    return items
