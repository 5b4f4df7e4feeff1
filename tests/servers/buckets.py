"""Buckets on the real S3 servers, one for each test that needs one."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit

import pytest
from minio import Minio

from backends.s3.objects import S3Objects
from bench.stores import remove_bucket

# Parameters of fixtures: the fixture with the settings of each server.
S3_SERVERS = [
    pytest.param("services", marks=pytest.mark.servers, id="minio"),
    pytest.param("seaweedfs", marks=pytest.mark.servers, id="seaweedfs"),
]


def client_of(url: str) -> Minio:
    """The bare client of the server in a URL: what other systems use."""
    parts = urlsplit(url)
    return Minio(f"{parts.hostname}:{parts.port}", parts.username, parts.password, secure=False, region="us-east-1")


@asynccontextmanager
async def temporary_bucket(services: Mapping[str, str]) -> AsyncIterator[str]:
    """The URL, password in it, of a new bucket, made as `facestream init` makes it; it is removed at the end."""
    server = urlsplit(services["FACESTREAM_OBJECTS"])
    password = quote(services["FACESTREAM_OBJECTS_PASSWORD"], safe="")
    name = f"test-{uuid.uuid4().hex}"
    url = f"s3://{server.username}:{password}@{server.hostname}:{server.port}/{name}"
    objects = S3Objects(url)
    await objects.create()
    await objects.close()
    yield url
    await asyncio.to_thread(
        remove_bucket, services["FACESTREAM_OBJECTS"], services["FACESTREAM_OBJECTS_PASSWORD"], name
    )
