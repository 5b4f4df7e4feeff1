"""Checks names of people and directories: any Unicode text up to 200 characters, in NFC, without control characters."""

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

LONGEST_NAME = 200

# What `normalise_name` refuses, apart from a name that is too long only in NFC. The patterns have no anchors, and no
# escapes beyond those of ASCII, so that all engines understand them alike.
CONTROL = r"\x00-\x1f\x7f-\x9f"
BLANK = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NAME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "maxLength": LONGEST_NAME,
    "pattern": f"[^{BLANK}{CONTROL}]",
    "not": {"pattern": f"[{CONTROL}]"},
}


def normalise_name(name: str) -> str:
    """The name in NFC. Raises ValueError when it is blank, too long as it is or in NFC, or holds control characters or
    lone surrogates.
    """
    normal = unicodedata.normalize("NFC", name)
    if not normal.strip():
        raise ValueError("a name must not be empty")
    if (length := max(len(name), len(normal))) > LONGEST_NAME:
        raise ValueError(f"a name has at most {LONGEST_NAME} characters, this one has {length}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in normal):
        raise ValueError("a name must not hold control characters")
    return normal


Name = Annotated[str, AfterValidator(normalise_name), WithJsonSchema(NAME_SCHEMA)]
