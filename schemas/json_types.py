"""Types that take a JSON value exactly if JSON Schema does: no text and no truth value is a number, and 3.0 is an
integer.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Strict


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_true(value: Any) -> Any:
    if value is True:  # for Python it equals 1
        raise ValueError("it must be a number")
    return value


WHOLE = BeforeValidator(_whole)
Integer = Annotated[int, Strict(), WHOLE]
NotTrue = BeforeValidator(_not_true)

# In some validators, Python's among them, the end of a pattern also matches before a last line feed.
ONE_LINE: dict[str, Any] = {"not": {"pattern": "\\n"}}
