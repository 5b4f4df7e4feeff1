"""Temporary topics, bucket and keyspace on the real servers. They are deleted at the end, because otherwise each run
would slow down the servers for the next one.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from minio import Minio
from minio.deleteobjects import DeleteObject

from backends.cassandra.connect import OPTIONS, PORT, cluster_of
from backends.kafka.connect import KafkaServers
from backends.urls import server_of

DROP_S = 30.0


@asynccontextmanager
async def temporary_stores(word: str, servers: Mapping[str, str] = os.environ) -> AsyncIterator[dict[str, str]]:
    """The settings log, objects, vectors and objects_password of new stores on the servers of FACESTREAM_LOG etc."""
    name = f"{word}{secrets.token_hex(4)}"
    log, objects, vectors = (servers[f"FACESTREAM_{key}"] for key in ("LOG", "OBJECTS", "VECTORS"))
    password = servers.get("FACESTREAM_OBJECTS_PASSWORD", "")
    stores = {
        "log": f"{log}?prefix={name}.",
        "objects": f"{objects.rpartition('/')[0]}/{name}",
        "vectors": f"{vectors.rpartition('/')[0]}/{name}",
        "objects_password": password,
    }
    try:
        yield stores
    finally:
        await delete_topics(log, f"{name}.")
        await asyncio.to_thread(remove_bucket, objects, password, name)
        await asyncio.to_thread(drop_keyspace, vectors, name)


@asynccontextmanager
async def admin_of(url: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """aiokafka's own admin client for the cluster in a URL."""
    hosts = server_of(url, setting="FACESTREAM_LOG", default_port=9092, options=("prefix",)).hosts
    admin = AIOKafkaAdminClient(bootstrap_servers=[f"{host}:{port}" for host, port in hosts])
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete_topics(url: str, prefix: str) -> None:
    """Deletes the topics whose names start with a prefix. It waits for a server that was paused: the cluster takes it
    back only after some seconds.
    """

    async def delete() -> None:
        if made := [topic for topic in await admin.list_topics() if topic.startswith(prefix)]:
            await admin.delete_topics(made)

    servers = KafkaServers(url)
    admin = await servers.admin()
    try:
        await servers.call("deleting topics", delete, DROP_S)
    finally:
        await admin.close()


def remove_bucket(url: str, password: str, name: str) -> None:
    """Removes a bucket with its objects and their versions, if there is one."""
    client = s3_client(url, password)
    if client.bucket_exists(name):
        found = client.list_objects(name, recursive=True, include_version=True)
        objects = [DeleteObject(each.object_name or "", each.version_id) for each in found]
        for error in client.remove_objects(name, objects):
            raise RuntimeError(f"the bucket {name} cannot be emptied: {error}")
        client.remove_bucket(name)


def s3_client(url: str, password: str) -> Minio:
    """The client of another system for the server in a URL."""
    server = server_of(url, setting="FACESTREAM_OBJECTS", default_port=9000, options=())
    return Minio("{}:{}".format(*server.hosts[0]), server.user, password, secure=False)


def drop_keyspace(url: str, name: str) -> None:
    with cluster_of(server_of(url, setting="FACESTREAM_VECTORS", default_port=PORT, options=OPTIONS)) as cluster:
        cluster.connect().execute(f'DROP KEYSPACE IF EXISTS "{name}"', timeout=DROP_S)
