"""The metadata of objects: it can be read after writing, and metadata of older versions can be read too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.object_metadata import ObjectMetadata

NAMES = st.none() | st.text(min_size=1)
TIMES = st.integers(0, 10**15)  # ms; the year 33658


@given(
    st.builds(
        ObjectMetadata,
        directory=NAMES,
        person=NAMES,
        image_id=NAMES,
        request_digest=NAMES,
        received_at=st.none() | TIMES,
        source=NAMES,
        erasures_seen=st.none() | st.integers(0, 2**40),
    )
)
def test_what_is_encoded_is_decoded(metadata: ObjectMetadata) -> None:
    encoded = metadata.encode()
    assert ObjectMetadata.decode(encoded) == metadata
    assert all(isinstance(text, str) for text in encoded.values())


@pytest.mark.parametrize(
    ("stored", "metadata"),
    [
        pytest.param(
            {"directory": "acme", "person": "Ann", "request": "", "received": "1700000000.25"},
            ObjectMetadata("acme", "Ann", received_at=1_700_000_000_250),
            id="a portrait that was uploaded",
        ),
        pytest.param(
            {"directory": "", "person": "", "request": "5f", "received": "1700000000.25"},
            ObjectMetadata(request_digest="5f", received_at=1_700_000_000_250),
            id="a photo to detect in, with an Idempotency-Key",
        ),
        pytest.param(
            {"directory": "acme", "person": "", "request": "", "received": "1700000000.001", "source": "cms/1.png"},
            ObjectMetadata("acme", received_at=1_700_000_000_001, source="cms/1.png"),
            id="a photo that was copied from our bucket",
        ),
        pytest.param(
            {"directory": "acme", "person": "Ann", "image_id": "7", "received": "1700000000.0"},
            ObjectMetadata("acme", "Ann", image_id="7", received_at=1_700_000_000_000),
            id="a crop",
        ),
        pytest.param(
            {"directory": "acme", "received": "1700000000.123"},
            ObjectMetadata("acme", received_at=1_700_000_000_123),
            id="a sheet of crops",
        ),
        pytest.param(
            {"directory": "acme", "person": "Ann", "received": "1700000000.5", "request": ""},
            ObjectMetadata("acme", "Ann", received_at=1_700_000_000_500),
            id="an original that was imported",
        ),
        pytest.param({}, ObjectMetadata(), id="an object of somebody else's"),
    ],
)
def test_what_older_versions_wrote_is_read(stored: dict[str, str], metadata: ObjectMetadata) -> None:
    assert ObjectMetadata.decode(stored) == metadata


def test_older_versions_find_the_names_and_units_that_they_read() -> None:
    crop = ObjectMetadata("acme", "Ann", image_id="7", request_digest="5f", received_at=1_500, source="cms/1.png")
    assert crop.encode() == {
        "directory": "acme",
        "person": "Ann",
        "image_id": "7",
        "request": "5f",
        "received": "1.5",
        "source": "cms/1.png",
    }
    assert ObjectMetadata().encode() == {"directory": "", "person": "", "request": ""}


@given(TIMES, st.integers(0, 999))
def test_a_time_in_microseconds_is_rounded_up(ms: int, us: int) -> None:
    """A picture that was received after an erasure is kept, whichever version wrote it."""
    received_at = ObjectMetadata.decode({"received": f"{ms // 1000}.{ms % 1000:03}{us:03}"}).received_at
    assert received_at == ms + (us > 0)


@pytest.mark.parametrize("received", ["", "soon", "nan", "inf"])
def test_a_time_that_is_no_number_is_refused(received: str) -> None:
    with pytest.raises(ValueError, match="no number of seconds"):
        ObjectMetadata.decode({"received": received})
