"""Reads a `kafka://` URL, makes aiokafka clients from it, and turns their errors into the port's.

Every message from the servers and from aiokafka passes through this file, so that no error and no log line contains the
password.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
)

from backends.driver_logs import forward_driver_logs
from backends.log import LARGEST_RECORD, TopicPartition
from backends.urls import server_of
from schemas.errors import ConfigurationError, MissingRight, Unavailable

SETTING = "FACESTREAM_LOG"
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
CLIENT_ID = "facestream"
CONNECT_TIMEOUT_S = 5.0
# For one call, with its retries: a broker that restarts is unavailable for some seconds.
CALL_TIMEOUT_S = 10.0
RETRY_PAUSE_S = 0.05
# One record of the largest size, plus the overhead of a batch.
LARGEST_BATCH = LARGEST_RECORD + 65_536
# What aiokafka raises if servers are unavailable or refuse a request. Its client raises KeyError when it looks up a
# connection that another of its tasks has just dropped.
FAILURES = (KafkaError, OSError, TimeoutError, KeyError)
# What they raise if the user may not do something. Trying again does not help.
REFUSALS = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)

Client = TypeVar("Client")
Answer = TypeVar("Answer")


class KafkaServers:
    """The cluster that a URL names, and the clients made for it.

    In the cluster, the names of all topics and groups begin with `prefix`.
    """

    def __init__(self, url: str) -> None:
        self._url = server_of(
            url,
            setting=SETTING,
            default_port=9092,
            options=("prefix", "replication", "min_insync_replicas", "tls", "ca_file", "sasl"),
        )
        options = self._url.options
        self.prefix = options.get("prefix", "")
        self.replication = self._number("replication")
        self.min_insync_replicas = self._number("min_insync_replicas")
        self._mechanism = options.get("sasl", MECHANISMS[0])
        self._tls = self._url.flag("tls")
        self._ca_file = options.get("ca_file")
        self._check()

    def __repr__(self) -> str:
        user = f"{self._url.user}@" if self._url.user else ""
        return f"kafka://{user}{','.join(self._hosts())}"

    def _number(self, option: str) -> int | None:
        return self._url.number(option, 1) if option in self._url.options else None

    def _hosts(self) -> list[str]:
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self._url.hosts]

    def _check(self) -> None:
        wrong = ""
        if self._url.path:
            wrong = f"nothing may follow the servers but options, not '/{self._url.path}'"
        elif not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", self.prefix):
            wrong = "the option prefix has letters, digits, '.', '_' and '-' only"
        elif self._mechanism not in MECHANISMS:
            wrong = f"the option sasl is one of {', '.join(MECHANISMS)}"
        elif self._url.user and not self._url.password:
            wrong = f"no password for '{self._url.user}': give it in the option password_file or in {SETTING}_PASSWORD"
        elif "sasl" in self._url.options and not self._url.user:
            wrong = "the option sasl needs a user"
        elif self._ca_file and not self._tls:
            wrong = "the option ca_file needs tls=true"
        if wrong:
            raise ConfigurationError(f"{SETTING}: {wrong}")

    def to_cluster(self, partition: TopicPartition) -> KafkaPartition:
        """The partition under its name in the cluster, with the prefix."""
        return KafkaPartition(self.prefix + partition.topic, partition.partition)

    def from_cluster(self, partition: KafkaPartition) -> TopicPartition:
        """The partition under its name in the port, without the prefix."""
        return TopicPartition(partition.topic.removeprefix(self.prefix), partition.partition)

    async def _settings(self) -> dict[str, Any]:
        """The arguments that all clients share."""
        forward_driver_logs("aiokafka")
        settings: dict[str, Any] = {
            "bootstrap_servers": self._hosts(),
            "client_id": CLIENT_ID,
            "request_timeout_ms": int(CALL_TIMEOUT_S * 1000),
            "retry_backoff_ms": int(RETRY_PAUSE_S * 1000),
            "metadata_max_age_ms": 60_000,
            "security_protocol": ("SASL_" if self._url.user else "") + ("SSL" if self._tls else "PLAINTEXT"),
        }
        if self._tls:
            try:
                settings["ssl_context"] = await asyncio.to_thread(ssl.create_default_context, cafile=self._ca_file)
            except OSError as error:
                raise ConfigurationError(
                    f"{SETTING}: the certificates in {self._ca_file} cannot be read: {error}"
                ) from None
        if self._url.user:
            settings["sasl_mechanism"] = self._mechanism
            settings["sasl_plain_username"] = self._url.user
            settings["sasl_plain_password"] = self._url.password
        return settings

    async def client(self, **more: Any) -> AIOKafkaClient:
        client = AIOKafkaClient(**await self._settings() | more)
        return await self._start(client, client.bootstrap, client.close)

    async def admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(**await self._settings())
        return await self._start(admin, admin.start, admin.close)

    async def producer(self, **more: Any) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(**await self._settings() | more)
        return await self._start(producer, producer.start, producer.stop)

    async def consumer(self, **more: Any) -> AIOKafkaConsumer:
        """A consumer without a group and, at first, without partitions."""
        consumer = AIOKafkaConsumer(**await self._settings() | {"enable_auto_commit": False} | more)
        return await self._start(consumer, consumer.start, consumer.stop)

    async def _start(
        self, client: Client, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
    ) -> Client:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await start()
        except BaseException as error:
            await stop()
            if isinstance(error, FAILURES):  # aiokafka gives the reason only in its log
                raise Unavailable(
                    f"Kafka ({', '.join(self._hosts())}) cannot be reached, or refuses this login or tls:"
                    " the log says more"
                ) from error
            raise
        return client

    async def call(
        self,
        purpose: str,
        request: Callable[[], Awaitable[Answer]],
        within_s: float = CALL_TIMEOUT_S,
        *,
        right: str = "",
    ) -> Answer:
        """Makes a request and returns its answer. Repeats it while the servers answer with a retriable error.

        `purpose` and `right`, the right that it needs, are for error messages. Raises Unavailable; ConfigurationError
        if the user lacks the right.
        """
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        return await request()
                    except KafkaError as error:
                        if not error.retriable:
                            raise
                    await asyncio.sleep(RETRY_PAUSE_S)
        except FAILURES as error:
            raise self.port_error(purpose, error, right) from error

    def port_error(self, purpose: str, error: BaseException, right: str = "") -> Unavailable | ConfigurationError:
        """The port's error for an error of aiokafka. See `call`."""
        if isinstance(error, REFUSALS):
            return self.refusal(right or f"a right for {purpose}", str(error))
        return Unavailable(f"Kafka ({', '.join(self._hosts())}), {purpose}: {_describe(error)}")

    def refusal(self, right: str, answer: str) -> MissingRight:
        """The error for a right that the user lacks."""
        return MissingRight(
            f"{SETTING}: the user '{self._url.user or 'ANONYMOUS'}' needs {right} ({answer}): docs/operations.md lists"
            " the rights of each role"
        )


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, KafkaConnectionError | NodeNotReadyError | OSError | KeyError):
        return "cannot be reached"
    return str(error)


class LazyClient(Generic[Client]):
    """A client that is made at its first use, once for all callers. After a failure the next caller tries again.

    `made` is the client, None before the first use.
    """

    def __init__(self, make: Callable[[], Awaitable[Client]]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self.made: Client | None = None

    async def __call__(self) -> Client:
        async with self._making:
            if self.made is None:
                self.made = await self._make()
            return self.made
