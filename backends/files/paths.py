"""Maps an object's key to a path and back. Any text is a valid key, and no path leads out of the store's folder.

Each level of a key is percent-encoded, which replaces every character with a meaning in file systems. Names of files
end in '@' and those of folders do not, so that the keys 'a' and 'a/b' can both exist. A level that is too long for a
file name is continued in the folder below, marked by '+'.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

# File systems allow 255 bytes.
LONGEST_NAME = 200
_FILE = "@"
_CONTINUED = "+"
# A level without a name ('a//b'): no encoded text is a lone percent sign.
_EMPTY = "%"


def path_of(key: str) -> Path:
    """The relative path of a key. Raises UnicodeEncodeError for a lone surrogate."""
    *folders, file = key.split("/")
    names: list[str] = []
    for folder in folders:
        names += _names(folder)
    *continued, last = _names(file)
    return Path(*names, *continued, last + _FILE)


def key_of(path: Path) -> str:
    """The key of a relative path."""
    key = ""
    for name in path.parts:
        level = name.removesuffix(_FILE)
        if level.endswith(_CONTINUED):
            key += level.removesuffix(_CONTINUED)
        else:
            key += ("" if level == _EMPTY else level) + "/"
    return unquote(key.removesuffix("/"))


def folder_of(prefix: str) -> tuple[Path, str]:
    """The deepest folder with all keys of a prefix, and the beginning of their encoded names in it."""
    *folders, rest = prefix.split("/")
    names = [name for folder in folders for name in _names(folder)]
    return Path(*names), _encoded(rest)


def files_below(folder: Path, beginning: str = "") -> Iterator[Path]:
    """The files of a folder that is in use, in any order. beginning: see folder_of."""
    try:
        with os.scandir(folder) as entries:
            # All names first: a folder must not stay open while the caller handles its objects.
            names = [
                entry.name for entry in entries if not entry.name.startswith(".") and _may_hold(entry.name, beginning)
            ]
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(_FILE):
            yield folder / name
        else:
            yield from files_below(folder / name)


def _may_hold(name: str, beginning: str) -> bool:
    """Whether a file or folder of that name can have keys whose encoded level starts with `beginning`."""
    level = name.removesuffix(_FILE).removesuffix(_CONTINUED)
    level = "" if level == _EMPTY else level
    return level.startswith(beginning) or (name.endswith(_CONTINUED) and beginning.startswith(level))


def _names(level: str) -> Iterator[str]:
    encoded = _encoded(level) or _EMPTY
    while len(encoded) > LONGEST_NAME:
        yield encoded[:LONGEST_NAME] + _CONTINUED
        encoded = encoded[LONGEST_NAME:]
    yield encoded


def _encoded(level: str) -> str:
    encoded = quote(level, safe="")
    # '.' and '..' are not file names, and names that start with a dot are the store's own.
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded
