"""Flags of several commands: the settings, names, paths and numbers. Each kind is checked in one place."""

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from facestream.config import Settings
from schemas.errors import ConfigurationError
from schemas.names import normalise_name

STORES = ("log", "objects", "vectors", "data")

Value = TypeVar("Value")


def argument_type(flag: str, parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """The `type` of an argument: parses its text. Raises ConfigurationError where `parse` raises ValueError."""

    def convert(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise ConfigurationError(f"{flag}: {error}") from None

    return convert


def parse_text(text: str) -> str:
    """Raises ValueError."""
    if not text.strip():
        raise ValueError("it must not be empty")
    return text


def parse_path(text: str) -> Path:
    """Raises ValueError for a blank path, which would be the current folder."""
    return Path(parse_text(text))


def parse_number(text: str) -> float:
    """Raises ValueError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"'{text}' is not a number from 0 up")
    return number


def add_directory(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Adds the required --directory."""
    directory = argument_type("--directory", normalise_name)
    parser.add_argument("--directory", required=True, metavar="D", type=directory, help=help_text)


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] = tuple(Settings.model_fields)) -> None:
    """Adds a flag for each setting. A flag overrides the environment variable."""
    group = parser.add_argument_group("settings", "each also as an environment variable FACESTREAM_<NAME>; a flag wins")
    for name in names:
        field = Settings.model_fields[name]
        default = "" if field.default in ("", None) else f" (default: {field.default})"
        flag = f"--{name.replace('_', '-')}"
        text = f"{field.description}{default}"
        if field.annotation is bool:
            group.add_argument(flag, action="store_const", const=True, dest=f"setting_{name}", help=text)
        else:
            group.add_argument(flag, metavar="VALUE", dest=f"setting_{name}", help=text)


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The settings from the flags and the environment. Raises ConfigurationError, which names the wrong setting."""
    given = {
        name.removeprefix("setting_"): value for name, value in vars(arguments).items() if name.startswith("setting_")
    }
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_input=False)[0]
        name, reason = str(error["loc"][0]), error["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"FACESTREAM_{name.upper()} (--{name.replace('_', '-')}): {reason}") from None
