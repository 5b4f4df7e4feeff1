"""Reading the URLs that choose the backends."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from schemas.errors import ConfigurationError


def scheme_of(url: str, *, known: Sequence[str], setting: str) -> str:
    """The URL's scheme. Raises ConfigurationError, without the URL's password, when it is none of the known ones."""
    scheme = urlsplit(url).scheme
    if scheme not in known:
        raise ConfigurationError(f"{setting}: unknown scheme '{scheme}': use one of {', '.join(f'{k}://' for k in known)}")
    return scheme


def path_of(url: str) -> Path:
    """`sqlite:///data/log.db` is relative to the working directory, `sqlite:////data/log.db` absolute; the same for file://."""
    return Path(unquote(urlsplit(url).path).removeprefix("/"))
