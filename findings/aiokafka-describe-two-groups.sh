#!/usr/bin/env bash
# aiokafka 0.14.0: the request DescribeGroups of version 3 parses its answer as one of version 2, which has a member
# less for each group. With one group the rest is left unread; with two on one coordinator it fails.
#
# One would guess: AIOKafkaAdminClient.describe_consumer_groups(["one", "two"]) describes both, as its list of groups
# suggests. Every broker since 2.3 speaks version 3, the newest that this client knows.
#
# Seen:
#
#   one group:  ['one']
#   two groups: ValueError: Buffer underrun decoding string
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/venv/bin/python" - <<'PYTHON'
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3

NOT_ASKED_FOR = -(2**31)  # authorized_operations


def parsed(*names):
    """The names of the groups, as the client reads them from a broker's answer of version 3."""
    groups = [(0, name, "Empty", "consumer", "", [], NOT_ASKED_FOR) for name in names]
    answer = DescribeGroupsResponse_v3(0, groups).encode()
    return [group[1] for group in DescribeGroupsRequest_v3.RESPONSE_TYPE.decode(answer).groups]


one = parsed("one")
print("one group: ", one)
assert one == ["one"]
try:
    two = parsed("one", "two")
except ValueError as error:
    print("two groups: ValueError:", error)
else:
    raise SystemExit(f"two groups: {two}")
PYTHON
