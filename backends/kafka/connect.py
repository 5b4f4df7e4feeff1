"""What a `kafka://` URL says, the aiokafka clients made from it, and how their errors become the port's.

No message of an error or a log line has the password: what the servers and aiokafka say goes through here.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError

from backends.driver_logs import hear
from backends.log import LARGEST_RECORD, TopicPartition
from backends.urls import server_of
from schemas.errors import ConfigurationError, Unavailable

SETTING = "FACESTREAM_LOG"
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
# What a request or a way through a few of them may take; a broker that restarts is away for some seconds.
REACH_S, ASK_S, RETRY_S = 5.0, 10.0, 0.05
# One record of the largest size and what a batch adds to it.
LARGEST_BATCH = LARGEST_RECORD + 65_536
# What aiokafka raises when servers are away or refuse. KeyError: its client looks for a connection that another of its
# tasks has just dropped.
AWAY = (KafkaError, OSError, TimeoutError, KeyError)

Client = TypeVar("Client")
Answer = TypeVar("Answer")


class KafkaServers:
    """A cluster as a URL names it: makes clients of it. `prefix` stands before every topic and group, in the cluster
    only.
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

    def theirs(self, at: TopicPartition) -> KafkaPartition:
        """A partition as the cluster names it."""
        return KafkaPartition(self.prefix + at.topic, at.partition)

    def ours(self, partition: KafkaPartition) -> TopicPartition:
        return TopicPartition(partition.topic.removeprefix(self.prefix), partition.partition)

    async def _settings(self) -> dict[str, Any]:
        """What every client is made with."""
        hear("aiokafka")
        settings: dict[str, Any] = {
            "bootstrap_servers": self._hosts(),
            "client_id": "facestream",
            "request_timeout_ms": int(ASK_S * 1000),
            "retry_backoff_ms": int(RETRY_S * 1000),
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
        return await self._started(client, client.bootstrap, client.close)

    async def admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(**await self._settings())
        return await self._started(admin, admin.start, admin.close)

    async def producer(self, **more: Any) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(**await self._settings() | more)
        return await self._started(producer, producer.start, producer.stop)

    async def consumer(self, **more: Any) -> AIOKafkaConsumer:
        """A consumer of no group and, to begin with, no partition."""
        consumer = AIOKafkaConsumer(**await self._settings() | {"enable_auto_commit": False} | more)
        return await self._started(consumer, consumer.start, consumer.stop)

    async def _started(
        self, client: Client, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
    ) -> Client:
        try:
            async with asyncio.timeout(REACH_S):
                await start()
        except BaseException as error:
            await stop()
            if isinstance(error, AWAY):  # aiokafka says why in its log lines only
                raise Unavailable(
                    f"Kafka ({', '.join(self._hosts())}) cannot be reached, or refuses this login or tls: the log says more"
                ) from error
            raise
        return client

    async def asked(self, what: str, question: Callable[[], Awaitable[Answer]], within_s: float = ASK_S) -> Answer:
        """The answer to a question, which is asked again while the servers say that they may know later. Raises
        Unavailable.
        """
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        return await question()
                    except KafkaError as error:
                        if not error.retriable:
                            raise
                    await asyncio.sleep(RETRY_S)
        except AWAY as error:
            raise self.unavailable(what, error) from error

    def unavailable(self, what: str, error: BaseException) -> Unavailable:
        return Unavailable(f"Kafka ({', '.join(self._hosts())}), {what}: {reason(error)}")


def reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, KafkaConnectionError | NodeNotReadyError | OSError | KeyError):
        return "cannot be reached"
    return str(error)


class Lazily(Generic[Client]):
    """A client that is made when it is first needed, once for all who ask; after a failure the next who asks tries
    again.
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
