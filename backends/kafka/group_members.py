"""Who is in a consumer group of Kafka, and which partitions each member has."""

from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import for_code

from backends.kafka.connect import CLIENT_ID, KafkaServers, LazyClient
from backends.log import Member


class _Described(NamedTuple):
    """A member in the answer to DescribeGroups."""

    member_id: str
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


async def read_group_members(servers: KafkaServers, admin: LazyClient[AIOKafkaAdminClient], group: str) -> list[Member]:
    """See EventLog.group_members. A member is foreign if its client id is not ours."""

    async def read() -> list[Member]:
        # One group at a time: aiokafka 0.14 misreads an answer with two.
        [answer] = await (await admin()).describe_consumer_groups([servers.prefix + group])
        [(code, _, _, _, _, members, *_)] = answer.groups
        if code:
            raise for_code(code)(f"code {code}")
        return [_member(servers, _Described(*member)) for member in members]

    right = f"Describe on group '{servers.prefix + group}'"
    return await servers.call("reading the members of a group", read, right=right)


def _member(servers: KafkaServers, it: _Described) -> Member:
    assigned = ConsumerProtocol.ASSIGNMENT.decode(it.assignment).partitions() if it.assignment else ()
    return Member(
        name=it.member_id,
        partitions=frozenset(map(servers.from_cluster, assigned)),
        client=f"{it.client_id} at {it.client_host.removeprefix('/')}",
        foreign=it.client_id != CLIENT_ID,
    )
