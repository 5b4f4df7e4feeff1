"""The topics of a Kafka cluster: how many partitions they have, making them as their specs say, refusing those that
differ.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaClient
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code
from aiokafka.protocol.metadata import MetadataRequest

from backends.kafka.connect import LARGEST_BATCH, RETRY_S, SETTING, KafkaServers, Lazily
from backends.log import TopicSpec, mismatch
from schemas.errors import ConfigurationError, InvalidRequest, TopicMismatch

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# Kafka's mark of a setting that was given to the topic itself.
OF_THE_TOPIC = 1


@dataclass(frozen=True, slots=True)
class _Found:
    """A topic as it is. `own` are the settings that somebody gave it, `settings` those and the servers' defaults."""

    partitions: int
    led: bool
    settings: Mapping[str, str]
    own: Mapping[str, str]


class KafkaTopics:
    def __init__(self, servers: KafkaServers, admin: Lazily[AIOKafkaAdminClient]) -> None:
        self._servers = servers
        self._admin = admin
        self._client: Lazily[AIOKafkaClient] = Lazily(servers.client)
        self._counts: dict[str, int] = {}
        self._counting = asyncio.Lock()

    async def count(self, name: str) -> int:
        """The partition count, which never changes. Raises InvalidRequest for an unknown topic."""
        if name not in self._counts:
            async with self._counting:  # of many who ask at once, one does
                if name not in self._counts:
                    leaders = await self._servers.asked("reading topics", lambda: self._leaders([name]))
                    if name not in leaders:
                        raise InvalidRequest(f"there is no topic '{name}': create the topics first (facestream init)")
                    self._counts[name] = len(leaders[name])
        return self._counts[name]

    async def _leaders(self, names: Collection[str]) -> dict[str, list[bool]]:
        """Those of the topics that exist, and of each partition whether it has a leader."""
        client = await self._client()
        # aiokafka's admin client would have the servers create what is missing.
        request = MetadataRequest([self._servers.prefix + name for name in names], allow_auto_topic_creation=False)
        found = (await client.send(client.get_random_node(), request)).to_object()["topics"]
        return {
            each["topic"].removeprefix(self._servers.prefix): [
                not partition["error_code"] for partition in each["partitions"]
            ]
            for each in found
            if not each["error_code"]
        }

    async def create(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog.create_topics: looks and mends until all is as it has to be."""

        async def create() -> None:
            while True:
                if not await self._mend(specs):
                    return
                await asyncio.sleep(RETRY_S)

        await self._servers.asked("creating topics", create)

    async def _mend(self, specs: Sequence[TopicSpec]) -> bool:
        """Whether there was something to mend."""
        found = await self._look([spec.name for spec in specs])
        for spec in specs:
            if spec.name in found and found[spec.name].partitions != spec.partitions:
                raise mismatch(spec, found[spec.name].partitions)
        if missing := [spec for spec in specs if spec.name not in found]:
            await self._create(missing)
            return True
        stale = {
            spec.name: wanted
            for spec in specs
            if (wanted := self._wanted(spec)).items() - found[spec.name].settings.items()
        }
        if stale:
            await self._alter({name: {**found[name].own, **wanted} for name, wanted in stale.items()})
        return bool(stale) or not all(each.led for each in found.values())

    async def require(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog.require_topics."""
        found = await self._servers.asked("reading topics", lambda: self._look([spec.name for spec in specs]))
        for spec in specs:
            if spec.name not in found:
                raise TopicMismatch(f"there is no topic '{spec.name}': `facestream init` creates the topics")
            if found[spec.name].partitions != spec.partitions:
                raise mismatch(spec, found[spec.name].partitions)
            settings, wanted = found[spec.name].settings, self._wanted(spec)
            differing = [
                name for name in ("message.timestamp.type", "cleanup.policy") if settings.get(name) != wanted[name]
            ]
            if int(settings.get("max.message.bytes", 0)) < LARGEST_BATCH:
                differing.append("max.message.bytes")
            if differing:
                raise TopicMismatch(
                    f"topic '{spec.name}' has {differing[0]}={settings.get(differing[0])}, not {wanted[differing[0]]}:"
                    " `facestream init` sets it"
                )

    def _wanted(self, spec: TopicSpec) -> dict[str, str]:
        """The settings of a topic. Records go with a segment of the log, and segments are closed often enough for that."""
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

    async def _look(self, names: Collection[str]) -> dict[str, _Found]:
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
                self._check(full_name, code, message)
                found[there[full_name]] = _Found(
                    len(leaders[there[full_name]]),
                    all(leaders[there[full_name]]),
                    {name: value for name, value, *_ in entries},
                    {name: value for name, value, _, source, *_ in entries if source == OF_THE_TOPIC},
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
                    # aiokafka takes the servers' own replication only together with a list of replicas, which may be
                    # empty.
                    replica_assignments=None if self._servers.replication else {},
                    topic_configs=self._wanted(spec),
                )
                for spec in specs
            ]
        )
        for name, code, message in response.topic_errors:
            self._check(name, code, message)

    async def _alter(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Kafka sets back what such a request leaves out: they are all settings that the topic has of its own."""
        admin = await self._admin()
        for response in await admin.alter_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, self._servers.prefix + name, own)
                for name, own in settings.items()
            ]
        ):
            for code, message, _, name in response.resources:
                self._check(name, code, message)

    async def close(self) -> None:
        if self._client.made is not None:
            await self._client.made.close()

    @staticmethod
    def _check(name: str, code: int, message: str | None) -> None:
        error = for_code(code)
        if not code or error is TopicAlreadyExistsError:
            return
        if error.retriable:
            raise error(message)
        raise ConfigurationError(f"{SETTING}: Kafka refuses topic '{name}': {message or error.message}")
