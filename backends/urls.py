"""Parses the URLs that choose the backends."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from schemas.errors import ConfigurationError


def scheme_of(url: str, *, known: Collection[str], setting: str) -> str:
    """The URL's scheme. Raises ConfigurationError, without the URL's password, for one that is not known."""
    scheme = urlsplit(url).scheme
    if scheme not in known:
        raise ConfigurationError(
            f"{setting}: unknown scheme '{scheme}': use one of {', '.join(f'{k}://' for k in known)}"
        )
    return scheme


def path_of(url: str, *, setting: str) -> Path:
    """The path in a `sqlite://` or `file://` URL: `sqlite:///data/log.db` is relative to the working directory,
    `sqlite:////data/log.db` is absolute. Raises ConfigurationError if there is none.
    """
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or not path:
        raise ConfigurationError(
            f"{setting}: no path in '{parts.scheme}://…': write {parts.scheme}:///relative/path or"
            f" {parts.scheme}:////absolute/path, with three or four slashes"
        )
    return Path(path)


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A server's URL in parts: `scheme://user:password@host:port,host:port/path?option=value`.

    `path` has no leading slash. The password, which no repr shows, comes from the URL, else from the file that the
    option `password_file` names, else from the environment variable <setting>_PASSWORD.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    user: str | None
    password: str | None = field(repr=False)
    options: dict[str, str]
    setting: str

    def flag(self, name: str) -> bool:
        """The value of an option that is true or false; False if it is missing."""
        value = self.options.get(name, "false").lower()
        if value not in ("true", "false"):
            raise ConfigurationError(f"{self.setting}: the option {name} is true or false, not '{value}'")
        return value == "true"

    def number(self, name: str, default: int) -> int:
        """The value of an option that is a whole number from 1 to 9999."""
        value = self.options.get(name, str(default))
        if not value.isdecimal() or len(value) > 4 or int(value) < 1:
            raise ConfigurationError(f"{self.setting}: the option {name} is a number from 1 to 9999, not '{value}'")
        return int(value)


def server_of(url: str, *, setting: str, default_port: int, options: Collection[str]) -> ServerUrl:
    """Parses a server's URL. `options` are those that the adapter knows besides password_file.

    Raises ConfigurationError, without the password, for anything that is not understood.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    file = given.pop("password_file", None)
    unknown = sorted(set(given) - set(options))
    if unknown:
        known = ", ".join(sorted({*options, "password_file"}))
        raise ConfigurationError(
            f"{setting}: unknown option '{unknown[0]}': the options of {parts.scheme}:// are {known}"
        )
    if not hosts:
        raise ConfigurationError(f"{setting}: no server: write {parts.scheme}://host:{default_port}/…")
    return ServerUrl(
        scheme=parts.scheme,
        hosts=tuple(_host_and_port(host, default_port, setting) for host in hosts.split(",")),
        path=unquote(parts.path).removeprefix("/"),
        user=unquote(user) or None,
        password=unquote(password) or _read_password(file, setting) or os.environ.get(f"{setting}_PASSWORD") or None,
        options=given,
        setting=setting,
    )


def _host_and_port(text: str, default_port: int, setting: str) -> tuple[str, int]:
    if text.startswith("["):  # IPv6
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536)):
        raise ConfigurationError(f"{setting}: '{text}' is not host:port")
    return host, int(port) if port else default_port


def _read_password(file: str | None, setting: str) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{setting}: the password file {file} cannot be read: {error}") from None
