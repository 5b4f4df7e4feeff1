#!/usr/bin/env bash
# aiokafka 0.14.0: the sticky assignor balances the number of partitions a member has, not its share of each topic.
#
# One would guess: a group reads two topics of eight partitions. A second member joins. Each member then has four
# partitions of each topic, as the round-robin assignor does it.
#
# Seen: the first member has all eight partitions of one topic and the second has all eight of the other. Where the
# topics differ in load, one member does all the work.
#
#   alone:    first = a:8 b:8
#   together: first = a:8 b:0, second = a:0 b:8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/venv/bin/python" - <<'PYTHON'
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

TOPICS = {"a": 8, "b": 8}


class Cluster:
    """What the assignor asks of the cluster's metadata."""

    def topics(self):
        return set(TOPICS)

    def partitions_for_topic(self, topic):
        return set(range(TOPICS[topic]))


# Each member is a process of its own. The assignor keeps its state in the class, so each member gets a class here.
ASSIGNORS = {name: type(name, (StickyPartitionAssignor,), {}) for name in ("first", "second")}


def rebalance(generation, *members):
    metadata = {name: ASSIGNORS[name].metadata(sorted(TOPICS)) for name in members}
    shares = {}
    for name, assignment in ASSIGNORS["first"].assign(Cluster(), metadata).items():
        ASSIGNORS[name].on_assignment(assignment)
        ASSIGNORS[name].on_generation_assignment(generation)
        counts = {topic: len(partitions) for topic, partitions in assignment.assignment}
        shares[name] = " ".join(f"{topic}:{counts.get(topic, 0)}" for topic in TOPICS)
    return ", ".join(f"{name} = {shares[name]}" for name in members)


alone, together = rebalance(1, "first"), rebalance(2, "first", "second")
print("alone:   ", alone)
print("together:", together)
assert alone == "first = a:8 b:8"
assert together == "first = a:8 b:0, second = a:0 b:8"
PYTHON
