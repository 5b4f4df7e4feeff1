"""One member's life in a consumer group of Kafka: joining, heartbeats, sharing out, leaving.

It speaks the group protocol itself, through aiokafka's client, with its requests and its sticky assignor, because
aiokafka's own coordinator cannot keep the port's promises. It commits under whatever generation is the present one when
the request is built; here a commit carries the generation that its caller knew, and the group's coordinator refuses it
by itself. It takes its place back from another process that has joined under its name; here it is told. A static member
never leaves; here it does. It ends its heartbeats for good when the coordinator answers that it is just loading the
group, as it does after a restart.
"""

import asyncio
import re
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaClient
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import NodeNotReadyError, StaleMetadata, for_code
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

from backends.kafka.connect import AWAY, RETRY_S, KafkaServers
from backends.log import Committed, TopicPartition
from schemas.errors import Fenced, InvalidRequest

# A member that is not heard of for SESSION_S has lost its place; by its heartbeats it learns that others join or leave.
SESSION_S, HEARTBEAT_S = 10.0, 1.0
# How long the others have to join again when the group rebalances, and how long a request for that may take.
REBALANCE_S, REQUEST_S = 10.0, 20.0
LEAVE_S = 3.0
# A broker that is just elected or restarted is missed a few times; after that the log says so.
PATIENT_MISSES = 6

# The protocol's error codes.
METADATA_TOO_LARGE = 12
LOADING, NO_COORDINATOR, NOT_COORDINATOR = 14, 15, 16
OTHER_GENERATION, UNKNOWN_MEMBER, REBALANCING, INVALID_SIZE, FENCED_INSTANCE = 22, 25, 27, 28, 82
PLACE_LOST = (OTHER_GENERATION, UNKNOWN_MEMBER, REBALANCING, FENCED_INSTANCE)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What a member has in one generation of its group; commits under it are refused once the group has gone on."""

    generation: int
    member_id: str
    partitions: frozenset[TopicPartition]


class GroupMember:
    """`place` is what the member has at present, None while it has none: before its first, and while the group
    rebalances. `failure` is why it has given up. `changed` is called when one of them has changed.
    """

    def __init__(
        self,
        servers: KafkaServers,
        client: AIOKafkaClient,
        group: str,
        name: str,
        topics: Collection[str],
        changed: Callable[[], None],
    ) -> None:
        self.place: Place | None = None
        self.failure: Exception | None = None
        self._servers, self._client, self._changed = servers, client, changed
        self._group, self._name = servers.prefix + group, instance_id(name)
        self._topics = sorted(servers.prefix + topic for topic in set(topics))
        # aiokafka's assignor keeps what it knows in its class, and one process may be a member of several groups.
        self._assignor: Any = type("Assignor", (StickyPartitionAssignor,), {})
        self._node: int | None = None
        self._member_id = ""
        self._known = asyncio.Event()
        self._heard, self._misses = time.monotonic(), 0
        self._living = asyncio.create_task(self._live())

    def heard(self) -> bool:
        """Whether the group still counts on this member, as far as it knows."""
        return time.monotonic() - self._heard < SESSION_S

    async def _live(self) -> None:
        while self.failure is None:
            try:
                place = await self._join()
                if place is not None:
                    self._set(place)
                    await self._stay(place)
                    self._set(None)
            except AWAY as error:
                self._set(None)
                await self._look_again(error)
            except Exception as error:  # Fenced, or a defect: the next poll raises it
                self.failure = error
                self._set(None)

    def _set(self, place: Place | None) -> None:
        self.place = place
        self._changed()

    async def _ask(self, request: Any, connection: ConnectionGroup = ConnectionGroup.COORDINATION) -> Any:
        if self._node is None:
            if self._client.get_random_node() is None:  # as from a server that is just starting
                await self._client.force_metadata_update()
                raise NodeNotReadyError("no server is known yet")
            self._node = await self._client.coordinator_lookup(CoordinationType.GROUP, self._group)
        try:
            return await self._client.send(self._node, request, group=connection)
        except AWAY:
            self._node = None
            raise

    async def _look_again(self, reason: BaseException | str) -> None:
        """Waits, longer each time in a row; before the next request the coordinator is looked up anew."""
        self._node = None
        self._misses += 1
        if self._misses == PATIENT_MISSES:
            log.warning("no group coordinator", group=self._group, member=self._name, reason=str(reason))
        await asyncio.sleep(min(RETRY_S * 2 ** min(self._misses, 10), HEARTBEAT_S))

    def _answered(self) -> None:
        self._heard, self._misses = time.monotonic(), 0

    async def _join(self) -> Place | None:
        """One round of joining; None when it came to nothing and the next is due."""
        joined = await self._ask(
            JoinGroupRequest(
                self._group,
                int(SESSION_S * 1000),
                int(REBALANCE_S * 1000),
                self._member_id,
                self._name,
                ConsumerProtocol.PROTOCOL_TYPE,
                [(self._assignor.name, self._assignor.metadata(self._topics).encode())],
            )
        )
        if joined.error_code:
            # Who asks with the id of a lost place learns whether another process has it now, or nobody.
            if joined.error_code == UNKNOWN_MEMBER:
                self._member_id = ""
                return None
            await self._refused(joined.error_code)
            return None
        self._member_id = joined.member_id
        self._known.set()
        shares = await self._share_out(joined.members) if joined.leader_id == joined.member_id else []
        synced = await self._ask(
            SyncGroupRequest(self._group, joined.generation_id, self._member_id, self._name, shares)
        )
        if synced.error_code:
            await self._refused(synced.error_code)
            return None
        self._answered()
        share = ConsumerProtocol.ASSIGNMENT(0, [], b"")
        if synced.member_assignment:
            share = ConsumerProtocol.ASSIGNMENT.decode(synced.member_assignment)
        self._assignor.on_assignment(share)
        self._assignor.on_generation_assignment(joined.generation_id)
        return Place(joined.generation_id, self._member_id, frozenset(map(self._servers.ours, share.partitions())))

    async def _refused(self, code: int) -> None:
        """Waits before the next round. Raises Fenced when there must not be one."""
        if code == FENCED_INSTANCE:
            raise Fenced(
                f"another process has joined group '{self._group}' as '{self._name}': give each member a name of its own"
            )
        if code in (LOADING, NO_COORDINATOR, NOT_COORDINATOR):
            await self._look_again(f"code {code}")
        elif code not in PLACE_LOST:
            raise for_code(code)(f"code {code}")

    async def _share_out(self, members: Sequence[tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
        """As the leader: who gets what, so that as little as possible moves."""
        asking = {member_id: ConsumerProtocol.METADATA.decode(metadata) for member_id, _, metadata in members}
        topics = {topic for member in asking.values() for topic in member.subscription}
        await self._client.set_topics(topics)
        cluster = self._client.cluster
        if any(not cluster.partitions_for_topic(topic) for topic in topics):
            await self._client.force_metadata_update()
            raise StaleMetadata(f"not all of {', '.join(topics)} are known")
        shares = self._assignor.assign(cluster, asking)
        return [(member_id, share.encode()) for member_id, share in shares.items()]

    async def _stay(self, place: Place) -> None:
        """Keeps the place by heartbeats. Returns when it is lost, or when the group rebalances."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                code = (await self._ask(HeartbeatRequest(self._group, place.generation, place.member_id))).error_code
            except AWAY as error:
                await self._look_again(error)
                continue
            if code in PLACE_LOST:
                return
            if code in (NO_COORDINATOR, NOT_COORDINATOR):
                await self._look_again(f"code {code}")
            elif not code:
                self._answered()
            elif code != LOADING:
                raise for_code(code)(f"code {code}")

    async def commit(self, place: Place, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commits under a place; the coordinator refuses if it is not the present one. Raises Fenced, KafkaError."""
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for at, (offset, metadata) in offsets.items():
            topics.setdefault(self._servers.theirs(at).topic, []).append((at.partition, offset, metadata))
        request = OffsetCommitRequest(
            self._group,
            place.generation,
            place.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(topics.items()),
        )
        # On another connection than joining, which the coordinator answers only when all others have joined too.
        response = await self._ask(request, ConnectionGroup.DEFAULT)
        for code in sorted({code for _, partitions in response.topics for _, code in partitions} - {0}):
            if code in PLACE_LOST:
                raise Fenced(f"group '{self._group}' has rebalanced since '{self._name}' got these partitions")
            if code in (METADATA_TOO_LARGE, INVALID_SIZE):
                raise InvalidRequest("the metadata of a commit is larger than Kafka takes (offset.metadata.max.bytes)")
            if code in (NO_COORDINATOR, NOT_COORDINATOR):
                self._node = None
            raise for_code(code)(f"code {code}")

    async def leave(self) -> None:
        """Gives the place up, so that the others share it out at once; otherwise they would wait for SESSION_S."""
        with suppress(TimeoutError):
            if self.failure is None:  # the first join is on its way: leaving takes the id that it brings
                await asyncio.wait_for(self._known.wait(), LEAVE_S)
        self._living.cancel()
        await asyncio.wait([self._living])
        if self._member_id and self.failure is None:
            with suppress(*AWAY):
                async with asyncio.timeout(LEAVE_S):
                    await self._ask(LeaveGroupRequest(self._group, self._member_id), ConnectionGroup.DEFAULT)


def instance_id(name: str) -> str:
    """The group.instance.id of a member: its name in the characters that Kafka takes; different names stay different."""
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:200]
    return clean if clean == name else f"{clean}-{zlib.crc32(name.encode()):08x}"
