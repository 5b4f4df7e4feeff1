"""Creates the topics of a Kafka cluster by their specs, counts their partitions, and refuses those that differ."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaClient
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidPartitionsError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from backends.kafka.connect import LARGEST_BATCH, REFUSALS, RETRY_PAUSE_S, SETTING, KafkaServers, LazyClient
from backends.kafka.offsets import KafkaOffsets
from backends.log import TopicPartition, TopicSpec
from backends.log_checks import partition_count_mismatch
from schemas.errors import ConfigurationError, InvalidRequest, TopicMismatch

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# Kafka's code for the source of a setting: it was given to the topic itself (DYNAMIC_TOPIC_CONFIG).
TOPIC_CONFIG = 1


@dataclass(frozen=True, slots=True)
class _ExistingTopic:
    """A topic that exists. `own`: the settings that were made for it; `settings`: these and the servers' defaults.

    `led`: every partition has a leader.
    """

    partitions: int
    led: bool
    settings: Mapping[str, str]
    own: Mapping[str, str]


class KafkaTopics:
    """Creates, checks and counts topics, with clients that are made at their first use."""

    def __init__(
        self,
        servers: KafkaServers,
        admin: LazyClient[AIOKafkaAdminClient],
        offsets: KafkaOffsets,
        used_partitions: Mapping[str, int],
    ) -> None:
        self._servers, self._offsets, self._used_partitions = servers, offsets, used_partitions
        self._admin = admin
        self._client: LazyClient[AIOKafkaClient] = LazyClient(servers.client)
        self._counts: dict[str, int] = {}
        self._counting = asyncio.Lock()

    async def count(self, name: str) -> int:
        """How many partitions are used, which never changes. Raises InvalidRequest for an unknown topic."""
        if name not in self._counts:
            async with self._counting:  # one request for all waiting callers
                if name not in self._counts:
                    leaders = await self._servers.call("reading topics", lambda: self._leaders([name]))
                    if name not in leaders:
                        raise InvalidRequest(f"there is no topic '{name}': create the topics first (facestream init)")
                    self._counts[name] = min(len(leaders[name]), self._used_partitions.get(name, len(leaders[name])))
        return self._counts[name]

    async def unused(self) -> list[TopicPartition]:
        """The partitions beyond those that are used."""
        leaders = await self._servers.call("reading topics", lambda: self._leaders(self._used_partitions))
        return [
            TopicPartition(name, partition)
            for name, used in self._used_partitions.items()
            for partition in range(used, len(leaders.get(name, ())))
        ]

    async def _leaders(self, names: Collection[str]) -> dict[str, list[bool]]:
        """The topics that exist, with whether each of their partitions has a leader."""
        client = await self._client()
        # Not through aiokafka's admin client: its request would have the servers create missing topics.
        request = MetadataRequest([self._servers.prefix + name for name in names], allow_auto_topic_creation=False)
        found = (await client.send(client.get_random_node(), request)).to_object()["topics"]
        hidden = [each["topic"] for each in found if for_code(each["error_code"]) is TopicAuthorizationFailedError]
        if hidden:
            raise self._refusal("Describe", *sorted(hidden))
        return {
            each["topic"].removeprefix(self._servers.prefix): [
                not partition["error_code"] for partition in each["partitions"]
            ]
            for each in found
            if not each["error_code"]
        }

    async def create(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog.create_topics. Compares and changes topics until all match their specs."""

        async def create() -> None:
            while True:
                if not await self._reconcile(specs):
                    return
                await asyncio.sleep(RETRY_PAUSE_S)

        await self._servers.call("creating topics", create)

    async def _reconcile(self, specs: Sequence[TopicSpec]) -> bool:
        """Creates and changes what differs. Returns whether something did."""
        found = await self._describe([spec.name for spec in specs])
        short = [spec for spec in specs if spec.name in found and found[spec.name].partitions < spec.partitions]
        for spec in short:
            partitions = [TopicPartition(spec.name, number) for number in range(found[spec.name].partitions)]
            if any((await self._offsets.bounds("end", partitions)).values()):
                raise partition_count_mismatch(spec, len(partitions))
        if short:
            await self._add_partitions(short)
            return True
        if missing := [spec for spec in specs if spec.name not in found]:
            await self._create(missing)
            return True
        stale = {
            spec.name: wanted
            for spec in specs
            if (wanted := self._settings_of(spec)).items() - found[spec.name].settings.items()
        }
        if stale:
            await self._alter({name: {**found[name].own, **wanted} for name, wanted in stale.items()})
        return bool(stale) or not all(each.led for each in found.values())

    async def require(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog.require_topics."""
        found = await self._servers.call("reading topics", lambda: self._describe([spec.name for spec in specs]))
        for spec in specs:
            if spec.name not in found:
                raise TopicMismatch(f"there is no topic '{spec.name}': `facestream init` creates the topics")
            if found[spec.name].partitions < spec.partitions:
                raise partition_count_mismatch(spec, found[spec.name].partitions)
            settings, expected = found[spec.name].settings, self._settings_of(spec)
            differing = [
                name for name in ("message.timestamp.type", "cleanup.policy") if settings.get(name) != expected[name]
            ]
            if int(settings.get("max.message.bytes", 0)) < LARGEST_BATCH:
                differing.append("max.message.bytes")
            if differing:
                raise TopicMismatch(
                    f"topic '{spec.name}' has {differing[0]}={settings.get(differing[0])},"
                    f" not {expected[differing[0]]}: `facestream init` sets it"
                )

    def _settings_of(self, spec: TopicSpec) -> dict[str, str]:
        """The settings of a topic. Kafka deletes only whole segments, so segments are closed often enough for the
        retention.
        """
        settings = {
            "cleanup.policy": "compact" if spec.compacted else "delete",
            "max.message.bytes": str(LARGEST_BATCH),
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": "-1" if spec.retention_s is None else str(int(spec.retention_s * 1000)),
        }
        if spec.compacted:
            settings |= {"max.compaction.lag.ms": str(HOUR_MS), "delete.retention.ms": str(DAY_MS)}
        elif spec.retention_s is not None:
            settings["segment.ms"] = str(max(1, int(spec.retention_s * 1000 / 8)))
        if self._servers.min_insync_replicas is not None:
            settings["min.insync.replicas"] = str(self._servers.min_insync_replicas)
        return settings

    async def _describe(self, names: Collection[str]) -> dict[str, _ExistingTopic]:
        leaders = await self._leaders(names)
        there = {self._servers.prefix + name: name for name in leaders}
        if not there:
            return {}
        admin = await self._admin()
        found = {}
        for response in await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
        ):
            for code, message, _, full_name, entries in response.resources:
                self._check(full_name, code, message, "DescribeConfigs")
                found[there[full_name]] = _ExistingTopic(
                    len(leaders[there[full_name]]),
                    all(leaders[there[full_name]]),
                    {name: value for name, value, *_ in entries},
                    {name: value for name, value, _, source, *_ in entries if source == TOPIC_CONFIG},
                )
        return found

    async def _create(self, specs: Sequence[TopicSpec]) -> None:
        admin = await self._admin()
        response = await admin.create_topics(
            [
                NewTopic(
                    self._servers.prefix + spec.name,
                    spec.partitions,
                    self._servers.replication or -1,
                    # aiokafka allows the servers' default replication (-1) only with a list of replicas, even an empty
                    # one.
                    replica_assignments=None if self._servers.replication else {},
                    topic_configs=self._settings_of(spec),
                )
                for spec in specs
            ]
        )
        for name, code, message in response.topic_errors:
            self._check(name, code, message, "Create")

    async def _add_partitions(self, specs: Sequence[TopicSpec]) -> None:
        """Adds the partitions that topics lack: a client may have had the servers create them with one."""
        admin = await self._admin()
        for spec in specs:
            name = self._servers.prefix + spec.name
            try:
                await admin.create_partitions({name: NewPartitions(spec.partitions)})
            except InvalidPartitionsError:  # another process was faster
                continue
            except TopicAuthorizationFailedError:
                raise self._refusal("Alter", name) from None

    async def _alter(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Sets the topics' own settings, all of them: Kafka resets those that such a request leaves out."""
        admin = await self._admin()
        for response in await admin.alter_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, self._servers.prefix + name, own)
                for name, own in settings.items()
            ]
        ):
            for code, message, _, name in response.resources:
                self._check(name, code, message, "AlterConfigs")

    async def close(self) -> None:
        if self._client.made is not None:
            await self._client.made.close()

    def _refusal(self, operation: str, *topics: str) -> ConfigurationError:
        return self._servers.refusal(f"{operation} on {', '.join(topics)}", "TopicAuthorizationFailedError")

    def _check(self, name: str, code: int, message: str | None, operation: str) -> None:
        error = for_code(code)
        if not code or error is TopicAlreadyExistsError:
            return
        if issubclass(error, REFUSALS):
            raise self._refusal(operation, name)
        if error.retriable:
            raise error(message)
        raise ConfigurationError(f"{SETTING}: Kafka refuses topic '{name}': {message or error.message}")
