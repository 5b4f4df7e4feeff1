"""`facestream erase verify` and the housekeeping, on a bucket that keeps versions."""

import asyncio
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog
from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from backends.log import NewRecord
from facestream.cli import main
from facestream.config import Settings
from facestream.runtime import housekeeping
from facestream.runtime.housekeeping import Housekeeping
from facestream.runtime.stores import Stores, create_stores, open_stores
from facestream.runtime.system_state import follow_state
from schemas.ids import crop_key, learned_face_id
from stream.topics import ERASURES
from tests.records import erasure, erasure_keys, image_id
from tests.servers.buckets import S3_SERVERS, client_of, temporary_bucket

CROP = crop_key(learned_face_id(image_id("image")))
OTHER = crop_key(learned_face_id(image_id("other")))
PROBE = f"probes/{image_id('image')}"
KEEP_S = 2.0


@pytest.fixture(params=S3_SERVERS)
async def bucket(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with temporary_bucket(request.getfixturevalue(request.param)) as url:
        client_of(url).set_bucket_versioning(urlsplit(url).path[1:], VersioningConfig(ENABLED))
        yield url


@pytest.fixture
async def settings(bucket: str, tmp_path: Path) -> AsyncIterator[Settings]:
    yield Settings(data=tmp_path / "data", objects=bucket)
    structlog.reset_defaults()


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[Stores]:
    async with open_stores(settings) as stores:
        await create_stores(stores)
        yield stores


@pytest.fixture
def other_system(bucket: str) -> tuple[Minio, str]:
    return client_of(bucket), urlsplit(bucket).path[1:]


async def put(stores: Stores, key: str, name: str) -> None:
    """An object of an image of `obama`."""
    await stores.objects.put(key, b"picture", {"directory": "acme", "person": "obama", "image_id": image_id(name)})


def readable(client: Minio, bucket: str) -> list[str]:
    found = client.list_objects(bucket, recursive=True, include_version=True)
    return sorted(it.object_name or "" for it in found if not it.is_delete_marker)


async def verify(settings: Settings) -> int:
    return await asyncio.to_thread(
        main, ["erase", "verify", "--data", str(settings.data), "--objects", settings.objects]
    )


async def test_verify_finds_older_versions_of_what_was_erased_and_deletes_them(
    settings: Settings, stores: Stores, other_system: tuple[Minio, str], capsys: pytest.CaptureFixture[str]
) -> None:
    client, bucket = other_system
    for key, name in ((CROP, "image"), (CROP, "image"), (OTHER, "other"), (OTHER, "other")):
        await put(stores, key, name)
    client.remove_object(bucket, CROP)
    await stores.log.append([NewRecord(ERASURES, erasure_keys("image")["image"], erasure(at=0, before=1_000).encode())])
    assert await verify(settings) == 1
    said = capsys.readouterr()
    assert f"objects: 1 left: {CROP}\n" in said.out
    assert "1 objects had older versions that were erased" in said.err
    assert "defect" not in said.err
    assert readable(client, bucket) == [OTHER, OTHER]
    assert await verify(settings) == 0
    assert "objects: nothing left" in capsys.readouterr().out


async def test_verify_deletes_an_older_version_below_an_object_and_leaves_the_object(
    settings: Settings, stores: Stores, other_system: tuple[Minio, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("image", "other"):
        await put(stores, CROP, name)
    await stores.log.append([NewRecord(ERASURES, erasure_keys("image")["image"], erasure(at=0, before=1_000).encode())])
    assert await verify(settings) == 1
    said = capsys.readouterr()
    assert f"objects: 1 left: {CROP}\n" in said.out
    assert "defect" not in said.err
    assert (await stores.objects.metadata(CROP) or {})["image_id"] == image_id("other")
    assert readable(*other_system) == [CROP]
    assert await verify(settings) == 0


async def test_older_versions_of_deleted_probes_are_deleted_when_probes_are(
    stores: Stores, other_system: tuple[Minio, str]
) -> None:
    client, bucket = other_system
    live = f"probes/{image_id('other')}"
    for key, name in ((PROBE, "image"), (live, "other")):
        await put(stores, key, name)
    client.remove_object(bucket, PROBE)
    async with follow_state(stores.log) as state:
        keeping = Housekeeping(stores.log, stores.objects, stores.vectors, state, KEEP_S / housekeeping.DAY_S)
        await keeping.clean()
        assert readable(client, bucket) == [PROBE, live]
        deadline = time.monotonic() + 30
        await asyncio.sleep(KEEP_S)
        client.put_object(bucket, live, BytesIO(b""), 0)  # the older version of this one goes when this one does
        while readable(client, bucket) != [live, live]:
            assert time.monotonic() < deadline
            await keeping.clean()
