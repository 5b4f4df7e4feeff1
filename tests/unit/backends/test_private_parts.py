"""The undocumented parts of client libraries that the backends rely on are still there.

When one of these tests fails after an update of a library, its message says what breaks and where to look. Adapt the
code that it names, then raise the bound of the library in pyproject.toml.
"""

import asyncio
import inspect
from collections.abc import Callable
from io import BytesIO
from typing import Any

from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaConnectionError, UnknownError, for_code
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.sender import Sender
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v11, FetchResponse_v4, FetchResponse_v11
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c
from cassandra.cluster import Cluster, ResponseFuture, ResultSet
from cassandra.connection import ConnectionException
from cassandra.protocol import ErrorMessage
from minio import Minio
from minio.error import S3Error
from minio.helpers import check_bucket_name, check_object_name

from backends.kafka.private_parts import drop_unsent, fetch_arguments
from backends.s3.private_parts import if_none_match
from tests.unit.backends.s3_stand_in import answer, stand_in

KAFKA, CASSANDRA, S3 = (f"backends/{folder}/private_parts.py" for folder in ("kafka", "cassandra", "s3"))


def require(holds: bool, what: str, breaks: str, where: str) -> None:
    assert holds, f"the library has changed {what}: {breaks}. See {where} and the files that it names"


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


async def test_the_private_parts_of_aiokafka_are_there() -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    client = getattr(consumer, "_client", None)
    require(
        isinstance(client, AIOKafkaClient) and callable(client.send),
        "AIOKafkaConsumer._client",
        "fetching does not use sessions, and the connections of a failed consumer are not closed",
        KAFKA,
    )
    require(
        hasattr(consumer, "_fetcher") and isinstance(getattr(Fetcher, "error_future", None), property),
        "AIOKafkaConsumer._fetcher.error_future",
        "a fetcher that has ended is not noticed, and polls wait for ever",
        KAFKA,
    )
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    accumulator = getattr(producer, "_message_accumulator", None)
    require(
        hasattr(producer, "_sender") and isinstance(getattr(Sender, "sender_task", None), property),
        "AIOKafkaProducer._sender.sender_task",
        "a producer that has failed cannot be stopped, and sends after its callers have given up",
        KAFKA,
    )
    require(
        isinstance(accumulator, MessageAccumulator) and {"_batches", "_pending_batches"} <= vars(accumulator).keys(),
        "AIOKafkaProducer._message_accumulator",
        "stopping a producer that has failed waits for ever for what it has not sent",
        KAFKA,
    )
    await asyncio.gather(consumer.stop(), producer.stop())


async def test_what_a_producer_of_aiokafka_has_not_sent_can_be_dropped() -> None:
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    accumulator = producer._message_accumulator
    accumulator._batches["partition"].append("batch")
    accumulator._pending_batches.add("batch")
    producer._sender._sender_task = asyncio.create_task(asyncio.sleep(3600))
    await drop_unsent(producer)
    require(
        producer._sender.sender_task.done() and not accumulator._batches and not accumulator._pending_batches,
        "how AIOKafkaProducer keeps what it has not sent",
        "stopping a producer that has failed waits for ever for it",
        KAFKA,
    )
    await producer.stop()


def test_the_requests_of_aiokafka_accept_our_arguments() -> None:
    group_requests = {
        JoinGroupRequest: [
            "group", "session_timeout", "rebalance_timeout", "member_id", "group_instance_id", "protocol_type",
            "group_protocols",
        ],
        SyncGroupRequest: ["group", "generation_id", "member_id", "group_instance_id", "group_assignment"],
        HeartbeatRequest: ["group", "generation_id", "member_id"],
        LeaveGroupRequest: ["group", "member_id"],
        OffsetCommitRequest: [
            "consumer_group", "consumer_group_generation_id", "consumer_id", "retention_time", "topics",
        ],
    }  # fmt: skip
    for request, expected in group_requests.items():
        require(
            parameters(request.__init__) == expected,
            f"the arguments of {request.__name__}",
            "members of groups cannot join, stay, commit or leave",
            "backends/kafka/group.py",
        )
    require(
        "allow_auto_topic_creation" in parameters(MetadataRequest.__init__),
        "the arguments of MetadataRequest",
        "a question about a topic creates it",
        "backends/kafka/topics.py",
    )
    arguments = {
        "max_wait_time": 250,
        "min_bytes": 1,
        "max_bytes": 1 << 20,
        "isolation_level": 0,
        "topics": [("events", [(0, 7, 1 << 16)])],
        "rack_id": "rack",
    }
    require(
        fetch_arguments(FetchRequest(**arguments)) == arguments,
        "the members of FetchRequest",
        "requests in a fetch session differ from those that aiokafka has made",
        KAFKA,
    )
    built = FetchRequest(**arguments).build(FetchRequest_v11)
    require(
        (built.session_id, built.session_epoch, built.forgotten_topics_data) == (0, -1, [])
        and not hasattr(FetchRequest(**arguments).build(FetchRequest_v4), "session_id"),
        "FetchRequest.build",
        "fetch sessions are not used, or sent to servers without them",
        "backends/kafka/fetch_sessions.py",
    )


def test_the_answers_to_fetches_are_as_we_change_them() -> None:
    for response in FetchResponse_v4, FetchResponse_v11:
        (*_, (name, topics)) = zip(response.SCHEMA.names, response.SCHEMA.fields, strict=True)
        (_, partitions) = topics.array_of.fields
        require(
            name == "topics" and partitions.array_of.names[-1] == "message_set",
            f"the members of {response.__name__}",
            "batches are not checked, and one that cannot be read stops all partitions",
            "backends/kafka/batches.py",
        )
    require(
        calc_crc32c(memoryview(b"123456789")) == 0xE3069283 and callable(getattr(DefaultRecordBatch, "__next__", None)),
        "calc_crc32c or DefaultRecordBatch",
        "no batch can be read",
        "backends/kafka/batches.py",
    )


def test_the_client_and_the_assignor_of_aiokafka_accept_our_arguments() -> None:
    client_methods = {
        "send": ["node_id", "request", "group"],
        "coordinator_lookup": ["coordinator_type", "coordinator_key"],
        "get_random_node": [],
        "force_metadata_update": [],
        "set_topics": ["topics"],
        "bootstrap": [],
        "close": [],
    }
    for name, expected in client_methods.items():
        require(
            parameters(getattr(AIOKafkaClient, name)) == expected,
            f"AIOKafkaClient.{name}",
            "members of groups cannot speak to their coordinator",
            "backends/kafka/group.py, topics.py and fetch_sessions.py",
        )
    require(
        parameters(ClusterMetadata.partitions_for_topic) == ["topic"],
        "ClusterMetadata.partitions_for_topic",
        "a group's leader does not notice a topic that it does not know yet",
        "backends/kafka/group.py",
    )
    assignor_methods = {
        "metadata": ["topics"],
        "parse_member_metadata": ["metadata"],
        "on_assignment": ["assignment"],
        "on_generation_assignment": ["generation"],
    }
    for name, expected in assignor_methods.items():
        require(
            parameters(getattr(StickyPartitionAssignor, name)) == expected,
            f"StickyPartitionAssignor.{name}",
            "a group's leader cannot assign partitions",
            "backends/kafka/group.py",
        )
    require(
        for_code(-1) is UnknownError and UnknownError.retriable is False and KafkaConnectionError.retriable is True,
        "for_code or retriable of aiokafka.errors",
        "requests are not repeated, or repeated for nothing",
        "backends/kafka/connect.py",
    )


def test_the_private_parts_of_cassandra_driver_are_there() -> None:
    require(
        "_timer" in dir(ResponseFuture) and parameters(ResponseFuture.clear_callbacks) == [],
        "ResponseFuture._timer or clear_callbacks",
        "answered requests are left to the garbage collector, which makes writing many faces a third slower",
        CASSANDRA,
    )
    require(
        parameters(Cluster.connection_class.create_timer) == ["timeout", "callback"],
        "Connection.create_timer",
        "a series of requests does not start",
        CASSANDRA,
    )
    require(
        parameters(ResultSet.__init__) == ["response_future", "initial_response"]
        and isinstance(ResultSet.paging_state, property),
        "ResultSet",
        "only the first page of an answer is read",
        CASSANDRA,
    )
    require(
        all(issubclass(error, Exception) for error in (ErrorMessage, ConnectionException)),
        "ErrorMessage or ConnectionException",
        "errors of the servers are not turned into Unavailable",
        "backends/cassandra/client.py",
    )


def test_minio_sends_the_condition_of_a_put() -> None:
    """See docs/decisions/if-none-match-through-minio.md."""
    sent: list[str | None] = []
    stored = answer(200, b"", 'ETag: "x"')
    with stand_in(lambda method, path: stored, conditions=sent) as port:
        client = Minio(f"127.0.0.1:{port}", "ann", "a-secret", secure=False, region="us-east-1")
        client.put_object("faces", "a", BytesIO(b"data"), 4, sse=if_none_match())
        client.put_object("faces", "a", BytesIO(b"data"), 4)
    require(
        sent == ["*", None],
        "which headers put_object sends",
        "a put with if_absent overwrites what is there, and each of several callers takes itself for the first",
        f"{S3} and docs/decisions/if-none-match-through-minio.md",
    )


def test_the_private_parts_of_minio_are_there() -> None:
    require(
        parameters(check_bucket_name)[:2] == ["bucket_name", "strict"]
        and parameters(check_object_name) == ["object_name"],
        "check_bucket_name or check_object_name",
        "a URL with a wrong bucket is not refused",
        "backends/s3/objects.py",
    )
    require(issubclass(S3Error, Exception), "S3Error", "errors are not recognized", "backends/s3/errors.py")
