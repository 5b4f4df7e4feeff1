"""Names of people and directories."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.names import LONGEST_NAME, normalise_name


@pytest.mark.parametrize(
    "name", ["obama", "Ångström", "名前", "a b", " x ", "../..", "a/b", "😀" * 200, "%00", "'; DROP TABLE faces", "؀"]
)
def test_any_unicode_is_a_name(name: str) -> None:
    assert normalise_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "\u3000", "a\x00", "a\nb", "\x7f", "\x85", "\ud800", "a\udcffb", "x" * 201], ids=ascii
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name"):
        normalise_name(name)


def test_composed_and_decomposed_letters_give_the_same_name() -> None:
    assert normalise_name("A\u030a") == normalise_name("\u212b") == "\u00c5"


def test_the_length_is_counted_as_it_is_and_in_the_normal_form() -> None:
    assert len(normalise_name("e\u0301" * (LONGEST_NAME // 2))) == LONGEST_NAME // 2
    with pytest.raises(ValueError, match="202"):
        normalise_name("e\u0301" * (LONGEST_NAME // 2 + 1))
    grows = "\u0344" * 150  # one character that is two in the normal form
    assert len(unicodedata.normalize("NFC", grows)) == 300
    with pytest.raises(ValueError, match="300"):
        normalise_name(grows)


@given(st.text(max_size=210))
def test_normalizing_a_name_again_changes_nothing(text: str) -> None:
    try:
        name = normalise_name(text)
    except ValueError:
        return
    assert normalise_name(name) == name
    assert unicodedata.is_normalized("NFC", name)
    assert 1 <= len(name) <= LONGEST_NAME
    name.encode()
