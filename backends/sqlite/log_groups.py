"""Consumer groups in the tables of the embedded log: their members, the partitions of each, and what was committed.

These are plain functions on a connection, called inside a transaction. A group's epoch grows with each change of its
members or their subscriptions. The assignment depends only on the list of members, so every process computes the same
one without a coordinator.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backends.log import CommittedOffset, Member, TopicPartition
from schemas.errors import Fenced

# No lease is longer. A lease that ends later was written before the clock was set back, and its member is removed.
LONGEST_LEASE_MS = 60_000


class Membership(NamedTuple):
    """A member of a group, from joining to leaving. `session` is unique to it. `topics` is a sorted JSON list."""

    session: str
    group: str
    member: str
    topics: str


class AssignedPartition(NamedTuple):
    """A partition that is assigned to the member, and what the group had committed in it."""

    partition_id: int
    topic_partition: TopicPartition
    committed: CommittedOffset


class Assignment(NamedTuple):
    epoch: int
    partitions: Sequence[AssignedPartition]


def join(connection: sqlite3.Connection, me: Membership, now: int, lease: int) -> None:
    """Joins the group. A member that comes back under its name takes over its partitions, without a rebalance."""
    known = connection.execute(
        "SELECT topics FROM members WHERE group_name = ? AND name = ?", (me.group, me.member)
    ).fetchone()
    connection.execute(
        "INSERT INTO members (group_name, name, session, topics, lease_until) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET"
        " session = excluded.session, topics = excluded.topics, lease_until = excluded.lease_until",
        (me.group, me.member, me.session, me.topics, now + lease),
    )
    if known is None or known[0] != me.topics:
        _rebalance(connection, me.group)
    _expire(connection, now)


def leave(connection: sqlite3.Connection, session: str) -> None:
    """Leaves the group. Does nothing for a session that is no longer in it."""
    gone = connection.execute("DELETE FROM members WHERE session = ? RETURNING group_name", (session,)).fetchall()
    for (group,) in gone:
        _rebalance(connection, group)


def renew(connection: sqlite3.Connection, members: Sequence[Membership], now: int, lease: int) -> list[str]:
    """Renews the leases of `members`, and removes the members of any process whose lease is over. Returns the sessions
    whose name another process has taken.
    """
    replaced = []
    for me in members:
        renewed = connection.execute(
            "UPDATE members SET lease_until = ? WHERE session = ?", (now + lease, me.session)
        ).rowcount
        if renewed:
            continue
        other = connection.execute(
            "SELECT 1 FROM members WHERE group_name = ? AND name = ?", (me.group, me.member)
        ).fetchone()
        if other is not None:
            replaced.append(me.session)
        else:
            # This process was stopped for so long that the others have removed its member.
            join(connection, me, now, lease)
    _expire(connection, now)
    return replaced


def commit(
    connection: sqlite3.Connection, session: str, group: str, epoch: int, offsets: Sequence[tuple[int, CommittedOffset]]
) -> None:
    """Commits offsets, by partition id. Raises Fenced, with nothing written."""
    current = connection.execute(
        "SELECT epoch FROM groups, members WHERE groups.name = ? AND group_name = groups.name AND session = ?",
        (group, session),
    ).fetchone()
    if current is None or current[0] != epoch:
        raise Fenced(
            f"group '{group}' has rebalanced: poll for the new assignment and start again at what was committed"
        )
    connection.executemany(
        "INSERT INTO commits (group_name, partition_id, next_offset, metadata) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset, metadata = excluded.metadata",
        [(group, partition_id, committed.offset, committed.metadata) for partition_id, committed in offsets],
    )


def read_assignment(connection: sqlite3.Connection, me: Membership) -> Assignment | None:
    """The member's partitions now, with what the group has committed; None while it is not in the group."""
    rows = connection.execute("SELECT name, session, topics FROM members WHERE group_name = ?", (me.group,)).fetchall()
    if all(session != me.session for _, session, _ in rows):
        return None
    subscriptions = {name: set(json.loads(topics)) for name, _, topics in rows}
    committed = read_commits(connection, me.group)
    partitions = []
    for topic in json.loads(me.topics):
        first, count = connection.execute("SELECT first_id, partitions FROM topics WHERE name = ?", (topic,)).fetchone()
        starts = read_start_offsets(connection, first, count)
        # By number, so that members with the same subscriptions get the same partitions of all topics.
        members = sorted(name for name, topics in subscriptions.items() if topic in topics)
        for partition in range(members.index(me.member), count, len(members)):
            partition_id = first + partition
            start = committed.get(partition_id, CommittedOffset(starts[partition_id]))
            partitions.append(AssignedPartition(partition_id, TopicPartition(topic, partition), start))
    (epoch,) = connection.execute("SELECT epoch FROM groups WHERE name = ?", (me.group,)).fetchone()
    return Assignment(epoch, partitions)


def read_members(connection: sqlite3.Connection, group: str, now: int) -> list[Member]:
    """The members whose lease lasts. Their shares are those that each of them computes, see `read_assignment`."""
    rows = connection.execute(
        "SELECT name, session, topics FROM members WHERE group_name = ? AND lease_until BETWEEN ? AND ?",
        (group, now, now + LONGEST_LEASE_MS),
    )
    members = []
    for name, session, topics in rows.fetchall():
        assignment = read_assignment(connection, Membership(session, group, name, topics))
        if assignment is not None:
            members.append(Member(name, frozenset(each.topic_partition for each in assignment.partitions)))
    return members


def read_commits(connection: sqlite3.Connection, group: str) -> dict[int, CommittedOffset]:
    """The group's commits, by partition id."""
    rows = connection.execute("SELECT partition_id, next_offset, metadata FROM commits WHERE group_name = ?", (group,))
    return {partition_id: CommittedOffset(offset, metadata) for partition_id, offset, metadata in rows}


def read_start_offsets(connection: sqlite3.Connection, first_id: int, count: int) -> dict[int, int]:
    """The first offset that retention has kept, by partition id."""
    return dict(
        connection.execute(
            "SELECT id, start_offset FROM partitions WHERE id >= ? AND id < ?", (first_id, first_id + count)
        )
    )


def read_epochs(connection: sqlite3.Connection) -> Mapping[str, int]:
    return dict(connection.execute("SELECT name, epoch FROM groups"))


def _expire(connection: sqlite3.Connection, now: int) -> None:
    gone = connection.execute(
        "DELETE FROM members WHERE lease_until < ? OR lease_until > ? RETURNING group_name",
        (now, now + LONGEST_LEASE_MS),
    ).fetchall()
    for group in {group for (group,) in gone}:
        _rebalance(connection, group)


def _rebalance(connection: sqlite3.Connection, group: str) -> None:
    connection.execute(
        "INSERT INTO groups (name, epoch) VALUES (?, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1", (group,)
    )
