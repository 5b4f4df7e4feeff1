"""Reads what came of the events that other systems sent, and compares it with their plans."""

import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping

from backends.open import open_log, open_vectors
from bench.soak.foreign_plan import LEARNING, PlannedRecord, Plans
from bench.soak.foreign_programs import kafka_tools, lag_program
from schemas.records import Answer
from scripts.services_process import ServiceFailed
from stream.topics import GROUPS as TOPICS_OF
from stream.topics import PARTITIONS, RESULTS
from weights.manifest import manifest

GROUPS = ("processors", "sink", "answers")  # those that get records here
READ_S = 10.0  # without a record: all are read

Answers = Mapping[str, Collection[str]]  # by image_id: the answers that differ


async def read_answers(url: str) -> Answers:
    found: dict[str, set[str]] = defaultdict(set)
    log = open_log(url)
    try:
        reader = await log.reader(RESULTS, at="start")
        ends = await log.end_offsets(RESULTS)
        while any(offset < ends[partition] for partition, offset in reader.next_offsets().items()):
            for record in await reader.poll(1_000, READ_S):
                answer = Answer.decode(record.value)
                found[answer.image_id].add(f"{answer.status} {json.dumps(answer.body.members(), sort_keys=True)}")
    finally:
        await log.close()
    return found


def wrong_answers(plans: Plans, answers: Answers) -> list[str]:
    """What differs from: one answer to each committed event, a 201 or 200, and none to any other."""
    sent = [record for plan in plans.values() for record in plan]
    committed = {record.image_id: record for record in sent if record.commit}
    aborted = {record.image_id for record in sent if not record.commit}

    def is_error(image_id: str) -> bool:
        wanted = "200 " if committed[image_id].person is None else "201 "
        return not all(answer.startswith(wanted) for answer in answers[image_id])

    answered = committed.keys() & answers.keys()
    kinds = {
        "committed events have no answer": committed.keys() - answers.keys(),
        "aborted events have an answer": aborted & answers.keys(),
        "answers are to no event": answers.keys() - committed.keys() - aborted,
        "events have several different answers": {it for it in answered if len(answers[it]) > 1},
        "events have an error for an answer": {it for it in answered if is_error(it)},
    }
    return [_line(kind, found, answers) for kind, found in kinds.items() if found]


async def wrong_faces(plans: Plans, url: str) -> list[str]:
    """What differs from: one face of each committed learn, and no other."""
    wanted = {
        (record.directory, record.person, record.image_id)
        for plan in plans.values()
        for record in plan
        if record.commit and record.person is not None
    }
    faces: Counter[tuple[str, str, str]] = Counter()
    vectors = open_vectors(url)
    try:
        for directory in LEARNING:
            async for page in vectors.read_faces(directory, manifest().default_generation):
                faces.update((directory, face.person, face.image_id) for face in page)
    finally:
        await vectors.close()
    kinds = {
        "learned faces are missing": wanted - faces.keys(),
        "faces were not to be learned": faces.keys() - wanted,
        "faces are there more than once": {face for face, count in faces.items() if count > 1},
    }
    return [_line(kind, {face[2] for face in found}, {}) for kind, found in kinds.items() if found]


def lag_by_kafka(servers: str, prefix: str) -> dict[str, int]:
    """The lag of each group, as Kafka's own tool sees it."""
    tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    groups = [prefix + group for group in GROUPS]
    named = [argument for group in groups for argument in ("--group", group)]
    command = ["java", "-cp", f"{kafka_tools()}/*", tool, "--bootstrap-server", servers, "--describe", *named]
    table = _output_of(command)
    return {group: lag_in(table, group) for group in groups}


def lag_by_others(servers: str, prefix: str) -> dict[str, int]:
    """The lag of each group as Kafka's own tool sees it, and as exporters of metrics compute it."""
    command = [*lag_program().command, servers, *(prefix + group for group in GROUPS)]
    return lag_by_kafka(servers, prefix) | lag_by_exporters(_output_of(command), prefix)


def lag_by_exporters(table: str, prefix: str) -> dict[str, int]:
    """The lag of each group by library, from the table of foreign_clients/lag.go. Raises ServiceFailed if a library
    knows no committed offset of a partition.
    """
    found: dict[str, dict[tuple[str, str, int], int]] = defaultdict(dict)
    for library, group, topic, partition, lag in map(str.split, table.splitlines()):
        found[library][group.removeprefix(prefix), topic.removeprefix(prefix), int(partition)] = int(lag)
    wanted = {(group, it, number) for group in GROUPS for it in TOPICS_OF[group] for number in range(PARTITIONS)}
    for library, lags in found.items():
        if missing := sorted(wanted - {at for at, lag in lags.items() if lag >= 0}):
            raise ServiceFailed(f"{library} knows no committed offset of {len(missing)} partitions: {missing[0]}")
    return {
        f"{group} by {library}": sum(lag for (of, _, _), lag in lags.items() if of == group)
        for library, lags in found.items()
        for group in GROUPS
    }


def _output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ServiceFailed(f"the lag cannot be read:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def lag_in(table: str, group: str) -> int:
    """The lag in all partitions of a group, from the tool's table. Where a group has committed nothing there is no
    number, and everything up to the end of the partition counts.
    """
    lines = [line.split() for line in table.splitlines()]
    header = next(line for line in lines if line[:1] == ["GROUP"])
    lag, end = header.index("LAG"), header.index("LOG-END-OFFSET")
    rows = [line for line in lines if line[:1] == [group] and len(line) == len(header)]
    if not rows:
        raise ServiceFailed(f"Kafka's tool knows nothing of the group {group}:\n{table[-1000:]}")
    return sum(int(row[lag if row[lag] != "-" else end].replace("-", "0")) for row in rows)


def table_of(plans: Plans, answers: Answers) -> str:
    """A line for each client and codec, and one for all."""
    columns: dict[str, Callable[[PlannedRecord], bool]] = {
        "sent": lambda record: True,
        "in transactions": lambda record: record.transaction is not None,
        "committed": lambda record: record.commit,
        "aborted": lambda record: not record.commit,
        "answered": lambda record: record.image_id in answers,
    }
    everything = {("all", ""): [record for plan in plans.values() for record in plan]}
    lines = [f"{'client':14}{'codec':8}" + "".join(f"{name:>{len(name) + 3}}" for name in columns)]
    for (client, codec), records in (plans | everything).items():
        counts = {name: sum(map(counts_in, records)) for name, counts_in in columns.items()}
        lines.append(f"{client:14}{codec:8}" + "".join(f"{count:{len(name) + 3}}" for name, count in counts.items()))
    return "\n".join(lines)


def _line(kind: str, image_ids: Collection[str], answers: Answers) -> str:
    example = min(image_ids)
    said = f": {sorted(answers[example])}" if example in answers else ""
    return f"{len(image_ids)} {kind}, for example {example}{said}"
