#!/usr/bin/env bash
# aiokafka 0.14.0: StickyPartitionAssignor keeps its assignment in class attributes, so all consumers of a process
# share it.
#
# One would guess: a consumer that joins group "two" for topic "b" tells that group nothing about the partitions that
# another consumer of the same process has in group "one".
#
# Seen: its join metadata for group "two" claims the partitions of group "one".
#
#   claimed before: []
#   claimed after:  [('a', [0, 1, 2, 3])]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/venv/bin/python" - <<'PYTHON'
from aiokafka.coordinator.assignors.sticky.sticky_assignor import (
    StickyAssignorUserDataV1,
    StickyPartitionAssignor,
)
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment


def claimed():
    """The partitions that a consumer claims when it joins a group for topic "b"."""
    user_data = StickyPartitionAssignor.metadata(["b"]).user_data
    return StickyAssignorUserDataV1.decode(user_data).previous_assignment if user_data else []


before = claimed()
# What the coordinator of a consumer in group "one" does when it has got its partitions.
assigned = ConsumerProtocolMemberAssignment(0, [("a", [0, 1, 2, 3])], b"")
StickyPartitionAssignor.on_assignment(assigned)
StickyPartitionAssignor.on_generation_assignment(1)
after = claimed()
print("claimed before:", before)
print("claimed after: ", after)
assert before == []
assert after == [("a", [0, 1, 2, 3])]
PYTHON
