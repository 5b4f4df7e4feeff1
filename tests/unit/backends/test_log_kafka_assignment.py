"""Shares of the members of a consumer group: even in each topic and in sum, with as few moves as possible."""

import random
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations, product

import pytest
from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.kafka.assignment import MemberState, assign_partitions

LANES = {"images.received": range(64), "images.received.bulk": range(64)}
NAMES = [f"processor-{number}" for number in range(1, 9)]

Assigned = Mapping[str, Mapping[str, list[int]]]


class Group:
    """A consumer group whose members all read the same topics. Each member tells what it had last."""

    def __init__(self, topics: Mapping[str, Collection[int]]) -> None:
        self.members: dict[str, MemberState] = {}
        self.generation = 0
        self._topics = topics

    def rebalance(self, members: Mapping[str, MemberState]) -> Assigned:
        self.generation += 1
        assigned = assign_partitions(members, self._topics)
        self.members = {
            name: MemberState(tuple(self._topics), partitions_of(shares), self.generation)
            for name, shares in assigned.items()
        }
        return assigned

    def join(self, name: str) -> Assigned:
        return self.rebalance(self.members | {name: MemberState(tuple(self._topics))})

    def remove(self, name: str) -> Assigned:
        return self.rebalance({other: state for other, state in self.members.items() if other != name})


def partitions_of(shares: Mapping[str, list[int]]) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic, numbers in shares.items() for number in numbers]


def counts(assigned: Assigned) -> list[tuple[int, ...]]:
    return [tuple(map(len, shares.values())) for shares in assigned.values()]


def check_everything_is_assigned_once(
    assigned: Assigned, members: Mapping[str, MemberState], topics: Mapping[str, Collection[int]]
) -> None:
    read = {topic for state in members.values() for topic in state.topics}
    everything = sorted((topic, number) for topic in topics if topic in read for number in topics[topic])
    assert sorted(partition for shares in assigned.values() for partition in partitions_of(shares)) == everything
    for name, shares in assigned.items():
        assert shares.keys() <= set(members[name].topics)


def check_shares_of_each_topic_are_even(
    assigned: Assigned, members: Mapping[str, MemberState], topics: Collection[str]
) -> None:
    for topic in topics:
        sizes = [len(assigned[name].get(topic, [])) for name, state in members.items() if topic in state.topics]
        assert max(sizes, default=0) - min(sizes, default=0) <= 1, (topic, sizes)


@pytest.mark.parametrize(
    ("members", "shares"),
    [
        (1, [(64, 64)]),
        (2, [(32, 32)] * 2),
        (3, [(22, 21), (21, 22), (21, 21)]),
        (4, [(16, 16)] * 4),
        (5, [(13, 13)] * 3 + [(13, 12), (12, 13)]),
        (6, [(11, 11)] * 2 + [(11, 10)] * 2 + [(10, 11)] * 2),
        (7, [(10, 9), (9, 10)] + [(9, 9)] * 5),
        (8, [(8, 8)] * 8),
    ],
)
def test_members_that_join_one_after_the_other_share_both_lanes(members: int, shares: list[tuple[int, int]]) -> None:
    group = Group(LANES)
    for name in NAMES[:members]:
        assigned = group.join(name)
    assert sorted(counts(assigned)) == sorted(shares)


def test_a_second_member_takes_half_of_each_lane_and_nothing_else_moves() -> None:
    group = Group(LANES)
    group.join("one")
    assigned = group.join("two")
    assert assigned == {
        "one": {lane: list(range(32)) for lane in LANES},
        "two": {lane: list(range(32, 64)) for lane in LANES},
    }


def test_after_a_kill_the_others_keep_what_they_have() -> None:
    group = Group(LANES)
    for name in NAMES[:4]:
        before = group.join(name)
    after = group.remove("processor-2")
    assert sorted(counts(after)) == [(21, 21), (21, 22), (22, 21)]
    for name, shares in after.items():
        assert set(partitions_of(before[name])) < set(partitions_of(shares))


@settings(deadline=None)
@given(st.data())
def test_shares_stay_even_whoever_joins_leaves_and_comes_back(data: st.DataObject) -> None:
    """A member that was away comes back with what it had when it was last in the group."""
    group = Group(LANES)
    away: dict[str, MemberState] = {}
    for _ in range(data.draw(st.integers(1, 16), "rebalances")):
        name = data.draw(st.sampled_from(NAMES), "who")
        if name not in group.members:
            state = away.get(name) if data.draw(st.booleans(), "it comes back") else None
            members = group.members | {name: state or MemberState(tuple(LANES))}
        elif len(group.members) > 1:
            away[name] = group.members[name]
            members = {other: state for other, state in group.members.items() if other != name}
        else:
            continue
        assigned = group.rebalance(members)
        check_everything_is_assigned_once(assigned, members, LANES)
        check_shares_of_each_topic_are_even(assigned, members, LANES)
        totals = [sum(shares) for shares in counts(assigned)]
        assert max(totals) - min(totals) <= 1
        assert group.rebalance(group.members) == assigned  # nobody came or went, and nothing moves


@st.composite
def groups(draw: st.DrawFn) -> tuple[dict[str, MemberState], dict[str, range]]:
    """Members that read different topics, and say anything about what they had."""
    topics = {topic: range(draw(st.integers(1, 9))) for topic in ("a", "b", "c")[: draw(st.integers(1, 3))]}
    partitions = st.builds(TopicPartition, st.sampled_from([*topics, "gone"]), st.integers(0, 9))
    state = st.builds(
        MemberState,
        st.sets(st.sampled_from(sorted(topics)), min_size=1) if draw(st.booleans()) else st.just(set(topics)),
        st.lists(partitions, unique=True, max_size=27),
        st.integers(-1, 2),
    )
    return {name: draw(state) for name in NAMES[: draw(st.integers(1, 5))]}, topics


@settings(deadline=None, max_examples=200)
@given(groups(), st.randoms(use_true_random=False))
def test_no_assignment_is_more_even_or_has_fewer_moves(
    group: tuple[dict[str, MemberState], dict[str, range]], chance: random.Random
) -> None:
    members, topics = group
    assigned = assign_partitions(members, topics)
    check_everything_is_assigned_once(assigned, members, topics)
    check_shares_of_each_topic_are_even(assigned, members, topics)
    owners = previous_owners(members)
    sizes = {(name, topic): len(numbers) for name, shares in assigned.items() for topic, numbers in shares.items()}
    moved = sum(
        1
        for (topic, number), name in owners.items()
        if topic in members[name].topics and number in topics.get(topic, ()) and number not in assigned[name][topic]
    )
    assert (unevenness(sizes), moved) == min(all_outcomes(members, topics))
    shuffled = sorted(members.items(), key=lambda _: chance.random())
    assert assign_partitions(dict(shuffled), dict(sorted(topics.items(), reverse=True))) == assigned


def previous_owners(members: Mapping[str, MemberState]) -> dict[TopicPartition, str]:
    claims: dict[TopicPartition, list[tuple[int, str]]] = {}
    for name, state in members.items():
        for partition in state.partitions:
            claims.setdefault(partition, []).append((state.generation, name))
    return {partition: max(claim)[1] for partition, claim in claims.items()}


def unevenness(sizes: Mapping[tuple[str, str], int]) -> int:
    totals: dict[str, int] = {}
    for (name, _), size in sizes.items():
        totals[name] = totals.get(name, 0) + size
    return sum(total**2 for total in totals.values())


def all_outcomes(
    members: Mapping[str, MemberState], topics: Mapping[str, Collection[int]]
) -> Iterator[tuple[int, int]]:
    """The unevenness and the number of moves of every assignment with even shares in each topic."""
    had: dict[tuple[str, str], int] = {}
    for (topic, number), name in previous_owners(members).items():
        if topic in members[name].topics and number in topics.get(topic, ()):
            had[name, topic] = had.get((name, topic), 0) + 1
    readers = {topic: [name for name, state in members.items() if topic in state.topics] for topic in topics}
    readers = {topic: names for topic, names in readers.items() if names}
    choices = [combinations(names, len(topics[topic]) % len(names)) for topic, names in readers.items()]
    for chosen in product(*choices):
        sizes = {
            (name, topic): len(topics[topic]) // len(names) + (name in larger)
            for (topic, names), larger in zip(readers.items(), chosen, strict=True)
            for name in names
        }
        yield unevenness(sizes), sum(max(0, had.get(at, 0) - size) for at, size in sizes.items())


def test_of_two_that_say_they_had_a_partition_the_higher_generation_is_right() -> None:
    topics = {"events": range(4)}
    late = MemberState(["events"], [TopicPartition("events", number) for number in range(4)], 3)
    current = MemberState(["events"], [TopicPartition("events", number) for number in (2, 3)], 7)
    for members in ({"a": late, "b": current}, {"a": current, "b": late}):
        assigned = assign_partitions(members, topics)
        assert assigned == {name: {"events": [2, 3] if state is current else [0, 1]} for name, state in members.items()}


def test_members_that_read_less_get_less_and_the_others_make_up_for_it() -> None:
    """The leftover of `a` goes to the member that has no partition of `b`."""
    members = {"both": MemberState(["a", "b"]), "only-a": MemberState(["a"])}
    assert assign_partitions(members, {"a": range(3), "b": range(2), "unread": range(9)}) == {
        "both": {"a": [0], "b": [0, 1]},
        "only-a": {"a": [1, 2]},
    }
