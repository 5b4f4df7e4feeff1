"""Which member of a consumer group gets which partitions: an equal share of each topic, with as few moves as possible.

The group's leader computes it (group.py). aiokafka's sticky assignor balances only the sum over all topics, so that one
member can get all of one topic and another all of the other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition


@dataclass(frozen=True, slots=True)
class MemberState:
    """What a member says when it joins: the topics that it reads, the partitions that it had before, and the generation
    in which it had them.
    """

    topics: Collection[str]
    partitions: Collection[TopicPartition] = ()
    generation: int = -1


def assign_partitions(
    members: Mapping[str, MemberState], topics: Mapping[str, Collection[int]]
) -> dict[str, dict[str, list[int]]]:
    """Assigns the partitions of each topic to the members that read it. Returns them by member and topic.

    In each topic, the numbers of partitions of two members differ by at most one. The topics' leftovers (64 partitions
    leave 4 after 5 equal shares) are placed so that the members' totals differ as little as possible. Among all such
    assignments it is one with the fewest moves. The same arguments give the same assignment.
    """
    readers = {topic: sorted(name for name, it in members.items() if topic in it.topics) for topic in sorted(topics)}
    readers = {topic: names for topic, names in readers.items() if names}
    previous = _previous_owners(members)
    owned: dict[str, dict[str, list[int]]] = {topic: {name: [] for name in names} for topic, names in readers.items()}
    for topic, owners in owned.items():
        for partition in sorted(topics[topic]):
            if (owner := previous.get(TopicPartition(topic, partition))) in owners:
                owners[owner].append(partition)
    share = {topic: len(topics[topic]) // len(names) for topic, names in readers.items()}
    keepers = {topic: {name for name, had in owned[topic].items() if len(had) > share[topic]} for topic in readers}
    leftovers = {topic: len(topics[topic]) % len(names) for topic, names in readers.items()}
    totals = {name: sum(share[topic] for topic in readers if name in readers[topic]) for name in sorted(members)}
    with_leftover = _place_leftovers(leftovers, readers, keepers, totals)

    assigned: dict[str, dict[str, list[int]]] = {name: {} for name in members}
    for topic, names in readers.items():
        sizes = {name: share[topic] + (name in with_leftover[topic]) for name in names}
        kept = {name: owned[topic][name][: sizes[name]] for name in names}
        free = sorted(set(topics[topic]).difference(*kept.values()))
        for name in names:
            missing = sizes[name] - len(kept[name])
            assigned[name][topic] = sorted(kept[name] + free[:missing])
            free = free[missing:]
    return assigned


def _previous_owners(members: Mapping[str, MemberState]) -> dict[TopicPartition, str]:
    """Who had each partition. If several members say so, it is the one with the highest generation: the others were
    away when it was taken from them.
    """
    owners: dict[TopicPartition, str] = {}
    for name in sorted(members, key=lambda name: (members[name].generation, name)):
        owners |= dict.fromkeys(members[name].partitions, name)
    return owners


def _place_leftovers(
    leftovers: Mapping[str, int],
    readers: Mapping[str, Sequence[str]],
    keepers: Mapping[str, Collection[str]],
    totals: dict[str, int],
) -> dict[str, set[str]]:
    """Chooses the members that get one more partition of a topic, at most one more of each.

    readers: the members that read a topic. keepers: those that would have to give a partition away if they got no
    leftover. totals: the partitions of each member without leftovers.

    This is a minimum-cost flow, found along shortest paths. Each leftover takes the cheapest path to one of the members
    with the lowest total: one member gets it and may pass a leftover of another topic on to the next.
    """
    placed: dict[str, set[str]] = {topic: set() for topic in leftovers}
    for topic, count in leftovers.items():
        for _ in range(count):
            paths = _cheapest_paths(topic, placed, readers, keepers)
            last = min(paths, key=lambda name: (totals[name], paths[name].cost, name))
            totals[last] += 1
            name: str | None = last
            while name is not None:
                step = paths[name]
                placed[step.topic].add(name)
                name = step.giver
                if name is not None:
                    placed[step.topic].remove(name)
    return placed


@dataclass(frozen=True, slots=True)
class _Step:
    """The last step of a path: the member gets a leftover of `topic`, from `giver` or, at the start, from nobody.
    `cost` is the number of moves that the whole path adds.
    """

    cost: int
    topic: str
    giver: str | None


def _cheapest_paths(
    topic: str,
    placed: Mapping[str, set[str]],
    readers: Mapping[str, Sequence[str]],
    keepers: Mapping[str, Collection[str]],
) -> dict[str, _Step]:
    """The cheapest path of one more leftover of `topic` to each member that it can reach (Bellman and Ford)."""
    paths = {
        name: _Step(-(name in keepers[topic]), topic, None) for name in readers[topic] if name not in placed[topic]
    }
    changed = True
    while changed:
        changed = False
        for other, names in readers.items():
            for giver in sorted(placed[other] & paths.keys()):
                for taker in names:
                    cost = paths[giver].cost + (giver in keepers[other]) - (taker in keepers[other])
                    if taker not in placed[other] and (taker not in paths or cost < paths[taker].cost):
                        paths[taker] = _Step(cost, other, giver)
                        changed = True
    return paths
