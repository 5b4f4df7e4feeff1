"""Settings as flags: each field of `Settings` is a flag that wins over its environment variable."""

import argparse
from collections.abc import Iterable

from pydantic import ValidationError

from facestream.config import Settings
from schemas.errors import ConfigurationError


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] = tuple(Settings.model_fields)) -> None:
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
    """Raises ConfigurationError, naming the setting that is wrong."""
    given = {
        name.removeprefix("setting_"): value for name, value in vars(arguments).items() if name.startswith("setting_")
    }
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_input=False)[0]
        name = str(error["loc"][0])
        raise ConfigurationError(f"FACESTREAM_{name.upper()} (--{name.replace('_', '-')}): {error['msg']}") from None
