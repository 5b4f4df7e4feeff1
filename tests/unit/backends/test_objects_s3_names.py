"""The mapping of keys to names in a bucket. The store's behaviour with them is tested in
tests/contracts/test_objects.py.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.s3.names import key_of_name, name_of_key, names_begin_with

ID = "0b6f2a1e-5d3c-5e4f-8a9b-0c1d2e3f4a5b"

# Few pieces, so that empty levels, ids below ids and equal beginnings are frequent.
PIECES = st.sampled_from(
    ["a", "b", "/", "/", "//", ".", "..", "~", "%", "@", "+", "\0", "é", "💙", "incoming/", "~/", "~long/", ID]
)
KEYS = (st.lists(PIECES, min_size=1, max_size=30).map("".join) | st.text(min_size=1)).map(lambda text: text[:300])
LONG_KEYS = st.text("💙\U0010ffff/x\0", min_size=200, max_size=300)


@pytest.mark.parametrize(
    "key",
    [
        f"originals/{ID}",
        f"crops/{ID}",
        f"probes/{ID}",
        ID,
        "incoming/acme/learn/ann/x.jpg",
        "incoming/acme.com/learn/Ann Müller/IMG (1) 100%.jpg",
        "incoming/acme/recognize/~tilde+plus@at",
    ],
)
def test_ordinary_keys_are_names_as_they_are(key: str) -> None:
    assert name_of_key(key) == key
    assert key_of_name(key) == key


@pytest.mark.parametrize(
    "name",
    [
        "holiday.jpg",
        "a/b/c",
        "~/a",
        "~/%zz@",
        "~/%FF@",
        "~/a/@",
        "~long/",
        "~long/@",
        "~long/%%%@",
        "incoming/acme/",
        f"{ID}/{ID}",
    ],
)
def test_a_name_that_another_system_has_given_is_not_a_key(name: str) -> None:
    assert key_of_name(name) is None


def test_the_names_of_keys_never_change() -> None:
    """The mapping must never change: see docs/decisions/object-names-on-s3.md."""
    assert name_of_key(f"originals/{ID}") == f"originals/{ID}"
    assert name_of_key("people/Ann Müller") == "~/people/Ann%20M%C3%BCller@"
    name = name_of_key("é" * 151)
    assert name.startswith("~long/Ak8Sf_N_5WAr0la6VUeaWNTJYh4crUCs7nIEMzmZOyNFd__VDQde1Qixvi")
    assert name.endswith("959o60JoMRUwEE4fE6d5oHCQ95AOk@")
    assert [len(level) for level in name.split("/")] == [5, 200, 200, 108]


@example("\0" + "💙" * 299)
@given(KEYS | LONG_KEYS)
def test_a_name_stands_for_its_key_and_every_store_takes_it(key: str) -> None:
    name = name_of_key(key)
    assert key_of_name(name) == key
    assert len(name.encode()) <= 1024
    levels = name.split("/")
    assert all(level not in ("", ".", "..", "xl.meta") and not level.endswith("__XLDIR__") for level in levels)
    assert all(len(level.encode()) <= 255 for level in levels)
    assert not any(ord(character) < 32 or character in "\x7f\ufffe\uffff" for character in name)


@given(KEYS | LONG_KEYS, KEYS | LONG_KEYS)
def test_no_name_is_a_folder_of_another(one: str, other: str) -> None:
    """MinIO would list only the shorter one, as it does below incoming/: see backends/s3/names.py."""
    if one != other and not (one.startswith("incoming/") and other.startswith("incoming/")):
        assert not f"{name_of_key(one)}/".startswith(f"{name_of_key(other)}/")


@given(KEYS | LONG_KEYS, st.integers(0, 300))
def test_a_prefix_finds_the_names_of_its_keys_each_once(key: str, length: int) -> None:
    beginnings = list(names_begin_with(key[:length]))
    assert sum(name_of_key(key).startswith(beginning) for beginning in beginnings) == 1
    assert all(
        level not in (".", "..", "")
        for beginning in beginnings
        for level in beginning.removesuffix("/").split("/")
        if beginning
    )
