"""Checks names of people and directories: any Unicode text up to 200 characters, in NFC, without control characters."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator

LONGEST_NAME = 200


def normalise_name(name: str) -> str:
    """The name in NFC. Raises ValueError when it is empty, too long, or holds control characters or lone surrogates."""
    name = unicodedata.normalize("NFC", name)
    if not name.strip():
        raise ValueError("a name must not be empty")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name has at most {LONGEST_NAME} characters, this one has {len(name)}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise ValueError("a name must not hold control characters")
    return name


Name = Annotated[str, AfterValidator(normalise_name)]
