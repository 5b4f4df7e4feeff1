"""A member of a consumer group of Kafka: it joins, sends heartbeats, assigns partitions when it leads, and leaves.

It speaks the group protocol itself, with aiokafka's client and requests, because aiokafka's own coordinator breaks the
port's promises in four ways:

- It commits under the generation that is current when the request is built. Here a commit carries the generation that
  its caller knew, and Kafka refuses it after a rebalance.
- It takes its membership back from another process that has joined under the same name. Here the member fails with
  Fenced.
- A static member never leaves. Here it does.
- Its heartbeats stop for ever when Kafka answers that it is loading the group, as it does after a restart.

On the wire a member is one of aiokafka's sticky assignor, so that members of older versions can be in the same group.
Which partitions go where is computed in assignment.py.
"""

import asyncio
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
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

from backends.kafka.assignment import MemberState, assign_partitions
from backends.kafka.connect import FAILURES, REFUSALS, RETRY_PAUSE_S, KafkaServers
from backends.log import CommittedOffset, TopicPartition
from schemas.errors import Fenced, InvalidRequest

# A member that sends nothing for SESSION_S is removed from the group, and the others wait for that when it was killed.
# It is the least that Kafka allows (group.min.session.timeout.ms). Heartbeats tell a member that others join or leave.
SESSION_S, HEARTBEAT_S = 6.0, 1.0
# How long the members have to join again when the group rebalances, and how long a request to join may take.
REBALANCE_S, JOIN_REQUEST_S = 10.0, 20.0
LEAVE_S = 3.0
# Requests to a broker that was just elected or restarted fail a few times in a row. After this many failures a warning
# is logged.
MISSES_BEFORE_WARNING = 6

# The protocol's error codes.
METADATA_TOO_LARGE = 12
LOADING, NO_COORDINATOR, NOT_COORDINATOR = 14, 15, 16
OTHER_GENERATION, UNKNOWN_MEMBER, REBALANCING, INVALID_SIZE, FENCED_INSTANCE = 22, 25, 27, 28, 82
MEMBERSHIP_LOST = (OTHER_GENERATION, UNKNOWN_MEMBER, REBALANCING, FENCED_INSTANCE)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """The partitions of a member in one generation of its group. Kafka refuses commits under an older generation."""

    generation: int
    member_id: str
    partitions: frozenset[TopicPartition]


class GroupMember:
    """Keeps the membership in a separate task until it leaves.

    used_partitions: the topics that it reads, each with the number of its partitions that are assigned. `assignment` is
    None before the first join and while the group rebalances. `failure` is why the member has given up; `right`, for
    messages, is the right that the user needs. `on_change` is called when `assignment` or `failure` has changed.
    """

    def __init__(
        self,
        servers: KafkaServers,
        client: AIOKafkaClient,
        group: str,
        name: str,
        used_partitions: Mapping[str, int],
        on_change: Callable[[], None],
    ) -> None:
        self.assignment: Assignment | None = None
        self.failure: Exception | None = None
        self._servers, self._client, self._on_change = servers, client, on_change
        self._group, self._name = servers.prefix + group, instance_id(name)
        self.right = f"Read on group '{self._group}' and on its topics"
        self._used_partitions = {servers.prefix + topic: count for topic, count in sorted(used_partitions.items())}
        # aiokafka's assignor keeps its state in its class, and one process may be a member of several groups.
        self._assignor: Any = type("Assignor", (StickyPartitionAssignor,), {})
        self._node: int | None = None
        self._member_id = ""
        self._member_id_known = asyncio.Event()
        self._last_answer_at, self._misses = time.monotonic(), 0
        self._task = asyncio.create_task(self._keep_membership())

    def session_lasts(self) -> bool:
        """Whether the session lasts: the group has answered within SESSION_S."""
        return time.monotonic() - self._last_answer_at < SESSION_S

    async def _keep_membership(self) -> None:
        while self.failure is None:
            try:
                assignment = await self._join()
                if assignment is not None:
                    self._set_assignment(assignment)
                    await self._send_heartbeats(assignment)
                    self._set_assignment(None)
            except REFUSALS as error:
                self.failure = self._servers.port_error("joining a group", error, self.right)
                self._set_assignment(None)
            except FAILURES as error:
                self._set_assignment(None)
                await self._back_off(error)
            except Exception as error:  # Fenced, or a bug: the next poll raises it
                self.failure = error
                self._set_assignment(None)

    def _set_assignment(self, assignment: Assignment | None) -> None:
        self.assignment = assignment
        self._on_change()

    async def _send(self, request: Any, connection: ConnectionGroup = ConnectionGroup.COORDINATION) -> Any:
        if self._node is None:
            if self._client.get_random_node() is None:  # a server that is just starting names no servers
                await self._client.force_metadata_update()
                raise NodeNotReadyError("no server is known yet")
            self._node = await self._client.coordinator_lookup(CoordinationType.GROUP, self._group)
        try:
            return await self._client.send(self._node, request, group=connection)
        except FAILURES:
            self._node = None
            raise

    async def _back_off(self, reason: BaseException | str) -> None:
        """Waits, longer after each failure in a row. The next request looks up the coordinator again."""
        self._node = None
        self._misses += 1
        if self._misses == MISSES_BEFORE_WARNING:
            log.warning("no group coordinator", group=self._group, member=self._name, reason=str(reason))
        await asyncio.sleep(min(RETRY_PAUSE_S * 2 ** min(self._misses, 10), HEARTBEAT_S))

    def _note_answer(self) -> None:
        self._last_answer_at, self._misses = time.monotonic(), 0

    async def _join(self) -> Assignment | None:
        """Tries once to join. Returns None if that failed and has to be tried again."""
        joined = await self._send(
            JoinGroupRequest(
                self._group,
                int(SESSION_S * 1000),
                int(REBALANCE_S * 1000),
                self._member_id,
                self._name,
                ConsumerProtocol.PROTOCOL_TYPE,
                [(self._assignor.name, self._assignor.metadata(list(self._used_partitions)).encode())],
            )
        )
        if joined.error_code:
            # To a request with a lost member id Kafka answers whether another process has taken the name (Fenced).
            if joined.error_code == UNKNOWN_MEMBER:
                self._member_id = ""
                return None
            await self._handle_join_error(joined.error_code)
            return None
        self._member_id = joined.member_id
        self._member_id_known.set()
        assignments = await self._assign_partitions(joined.members) if joined.leader_id == joined.member_id else []
        synced = await self._send(
            SyncGroupRequest(self._group, joined.generation_id, self._member_id, self._name, assignments)
        )
        if synced.error_code:
            await self._handle_join_error(synced.error_code)
            return None
        self._note_answer()
        assigned = ConsumerProtocol.ASSIGNMENT(0, [], b"")
        if synced.member_assignment:
            assigned = ConsumerProtocol.ASSIGNMENT.decode(synced.member_assignment)
        self._assignor.on_assignment(assigned)
        self._assignor.on_generation_assignment(joined.generation_id)
        return Assignment(
            joined.generation_id, self._member_id, frozenset(map(self._servers.from_cluster, assigned.partitions()))
        )

    async def _handle_join_error(self, code: int) -> None:
        """Waits before the next attempt to join. Raises Fenced if there must be none."""
        if code == FENCED_INSTANCE:
            raise Fenced(
                f"another process has joined group '{self._group}' as '{self._name}':"
                " give each member a name of its own"
            )
        if code in (LOADING, NO_COORDINATOR, NOT_COORDINATOR):
            await self._back_off(f"code {code}")
        elif code not in MEMBERSHIP_LOST:
            raise for_code(code)(f"code {code}")

    async def _assign_partitions(self, members: Sequence[tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
        """Assigns the partitions, as the group's leader."""
        states = {
            member_id: MemberState(*self._assignor.parse_member_metadata(ConsumerProtocol.METADATA.decode(metadata)))
            for member_id, _, metadata in members
        }
        topics = {topic for member in states.values() for topic in member.topics}
        await self._client.set_topics(topics)
        partitions = {topic: self._client.cluster.partitions_for_topic(topic) for topic in topics}
        if not all(partitions.values()):
            await self._client.force_metadata_update()
            raise StaleMetadata(f"not all of {', '.join(topics)} are known")
        used = {
            topic: [number for number in numbers if number < self._used_partitions.get(topic, len(numbers))]
            for topic, numbers in partitions.items()
        }
        return [
            (member_id, ConsumerProtocol.ASSIGNMENT(0, list(shares.items()), b"").encode())
            for member_id, shares in assign_partitions(states, used).items()
        ]

    async def _send_heartbeats(self, assignment: Assignment) -> None:
        """Sends heartbeats. Returns when the membership is lost, or when the group rebalances."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                answer = await self._send(HeartbeatRequest(self._group, assignment.generation, assignment.member_id))
            except FAILURES as error:
                await self._back_off(error)
                continue
            code = answer.error_code
            if code in MEMBERSHIP_LOST:
                return
            if code in (NO_COORDINATOR, NOT_COORDINATOR):
                await self._back_off(f"code {code}")
            elif not code:
                self._note_answer()
            elif code != LOADING:
                raise for_code(code)(f"code {code}")

    async def commit(self, assignment: Assignment, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commits under an assignment. Kafka refuses if it is not the current one. Raises Fenced, KafkaError."""
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for at, (offset, metadata) in offsets.items():
            topics.setdefault(self._servers.to_cluster(at).topic, []).append((at.partition, offset, metadata))
        request = OffsetCommitRequest(
            self._group,
            assignment.generation,
            assignment.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(topics.items()),
        )
        # Commits do not use the connection for joining: on that, Kafka answers a join only after all members have
        # joined.
        response = await self._send(request, ConnectionGroup.DEFAULT)
        refused = {code: topic for topic, partitions in response.topics for _, code in partitions if code}
        for code, topic in sorted(refused.items()):
            if code in MEMBERSHIP_LOST:
                raise Fenced(f"group '{self._group}' has rebalanced since '{self._name}' got these partitions")
            if code in (METADATA_TOO_LARGE, INVALID_SIZE):
                raise InvalidRequest("the metadata of a commit is larger than offset.metadata.max.bytes of Kafka")
            if code in (NO_COORDINATOR, NOT_COORDINATOR):
                self._node = None
            raise for_code(code)(topic)

    async def leave(self) -> None:
        """Leaves the group, so that other members get the partitions at once and not only after SESSION_S."""
        with suppress(TimeoutError):
            if self.failure is None:  # the first join may be under way: leaving needs the member id that it brings
                await asyncio.wait_for(self._member_id_known.wait(), LEAVE_S)
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._member_id and self.failure is None:
            with suppress(*FAILURES):
                async with asyncio.timeout(LEAVE_S):
                    await self._send(LeaveGroupRequest(self._group, self._member_id), ConnectionGroup.DEFAULT)


def instance_id(name: str) -> str:
    """The group.instance.id of a member: its name in the characters that Kafka allows, different for different
    names.
    """
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:200]
    return clean if clean == name else f"{clean}-{zlib.crc32(name.encode()):08x}"
