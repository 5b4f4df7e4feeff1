"""Maps an object's key to its name in a bucket and back.

Any text is a key. docs/decisions/object-names-on-s3.md says why its name is not always the key itself.

A name is one of three:

- the key itself, if it ends in an id (`originals/0b6f…`) or is below `incoming/`, where other systems put objects;
- `~/` and the path that the embedded store would give the key (backends/files/paths.py);
- `~long/` and the characters of the key packed into one number, if that path is too long.

Below `incoming/` names are not changed: where 'incoming/a' and 'incoming/a/b' are both put, only the first is listed.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from backends.files.paths import LONGEST_NAME, folder_of, key_of, path_of

INCOMING = "incoming/"
_ODD = "~/"
_LONG = "~long/"
# S3 allows 1,024 bytes; the rest is for the prefix in the URL. Packed names have up to 1,018.
_LONGEST_ODD = 900
_LONGEST_LEVEL = 255
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ORDINARY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
# A delete request is XML, which cannot contain control characters or these two.
_UNWRITABLE = re.compile("[\0-\x1f\x7f\ufffe\uffff]")
_CODE_POINTS = 0x110000


def name_of_key(key: str) -> str:
    """The name of the key's object."""
    if _is_name(key):
        return key
    name = _ODD + path_of(key).as_posix()
    return name if len(name) <= _LONGEST_ODD else _LONG + _pack(key)


def key_of_name(name: str) -> str | None:
    """The key of a name; None for a name that name_of_key does not give."""
    try:
        if name.startswith(_ODD):
            key = key_of(Path(name.removeprefix(_ODD)))
        elif name.startswith(_LONG):
            key = _unpack(name.removeprefix(_LONG))
        else:
            key = name
        return key if name_of_key(key) == name else None
    except ValueError:
        return None


def names_begin_with(prefix: str) -> Iterator[str]:
    """Prefixes that cover the names of all keys with a prefix. Names of other keys may have these prefixes too."""
    if not prefix:
        yield ""
        return
    *folders, rest = prefix.split("/")
    if prefix.startswith(INCOMING):
        if all(map(is_level, folders)) and not _UNWRITABLE.search(rest):
            # MinIO refuses a prefix that ends in '/.' or '/..'.
            yield prefix.removesuffix(rest) if rest.startswith(".") else prefix
    elif all(map(_ORDINARY.fullmatch, [*folders, rest or "x"])):
        yield prefix
    folder, beginning = folder_of(prefix)
    yield _ODD + (f"{folder.as_posix()}/" if folder.parts else "") + beginning[:LONGEST_NAME]
    yield _LONG


def is_level(level: str) -> bool:
    """Whether every S3 store accepts the text between two slashes."""
    return (
        level not in ("", ".", "..", "xl.meta")  # xl.meta and __XLDIR__ are MinIO's own names
        and not level.endswith("__XLDIR__")
        and not _UNWRITABLE.search(level)
        and len(level.encode()) <= _LONGEST_LEVEL
    )


def _is_name(key: str) -> bool:
    *folders, last = key.split("/")
    if key.startswith(INCOMING):
        return all(map(is_level, (*folders, last))) and len(key.encode()) <= _LONGEST_ODD
    # No level above an id is an id, so none of these names is the folder of another one.
    return _ID.fullmatch(last) is not None and all(
        _ORDINARY.fullmatch(each) and is_level(each) and not _ID.fullmatch(each) for each in folders
    )


def _pack(key: str) -> str:
    """The characters of a key as the digits of one number, in base64: at most 1,011 characters for 300."""
    number = 1  # so that a NUL at the beginning counts
    for character in key:
        number = number * _CODE_POINTS + ord(character)
    text = urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).decode().rstrip("=")
    return "/".join(text[start : start + LONGEST_NAME] for start in range(0, len(text), LONGEST_NAME)) + "@"


def _unpack(packed: str) -> str:
    text = packed.removesuffix("@").replace("/", "")
    number = int.from_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    characters = []
    while number > 1:
        number, character = divmod(number, _CODE_POINTS)
        characters.append(chr(character))
    return "".join(reversed(characters))
