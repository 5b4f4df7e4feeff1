"""The soak of other systems' clients finds what is wrong."""

import random
from pathlib import Path

import numpy as np
import pytest

from backends.sqlite.vectors import SqliteVectors
from backends.vectors import Face, FaceVector
from bench.programs import Program
from bench.soak.foreign_checks import GROUPS, lag_by_exporters, lag_in, wrong_answers, wrong_faces
from bench.soak.foreign_plan import CODECS, PlannedRecord, Plans, make_plans
from scripts.services_process import ServiceFailed
from stream.topics import GROUPS as TOPICS_OF
from stream.topics import PARTITIONS
from weights.manifest import manifest

RECORDS = 2_000


@pytest.fixture
def plans() -> Plans:
    programs = {"one": Program([]), "other": Program([], has_transactions=False)}
    return make_plans(programs, RECORDS, random.Random(0))


def sent(plans: Plans) -> list[PlannedRecord]:
    return [record for plan in plans.values() for record in plan]


def right_answers(plans: Plans) -> dict[str, set[str]]:
    return {it.image_id: {"200 {}" if it.person is None else "201 {}"} for it in sent(plans) if it.commit}


def test_a_plan_has_everything_in_it(plans: Plans) -> None:
    assert set(plans) == {(client, codec) for client in ("one", "other") for codec in CODECS}
    records = sent(plans)
    assert len(records) == len({it.image_id for it in records}) == RECORDS
    assert len({it.topic for it in records}) == 2
    assert {it.person is None for it in records} == {True, False}
    assert {(it.transaction is None, it.commit) for it in records} == {(True, True), (False, True), (False, False)}
    assert {it.transaction for codec in CODECS for it in plans["other", codec]} == {None}


def test_lost_repeated_and_unwanted_answers_are_found(plans: Plans) -> None:
    answers = right_answers(plans)
    assert wrong_answers(plans, answers) == []
    committed = [it for it in sent(plans) if it.commit]
    learned = next(it.image_id for it in committed if it.person is not None)
    recognized, lost, *_ = (it.image_id for it in committed if it.person is None)
    aborted = next(it.image_id for it in sent(plans) if not it.commit)
    answers |= {learned: {"409 {}"}, recognized: {"200 {}", '200 {"a": 1}'}, aborted: {"200 {}"}, "x": {"200 {}"}}
    del answers[lost]
    wrong = wrong_answers(plans, answers)
    assert len(wrong) == 5
    for image_id in (learned, recognized, lost, aborted, "x"):
        assert [line for line in wrong if f"example {image_id}" in line]


async def test_lost_repeated_and_unwanted_faces_are_found(plans: Plans, tmp_path: Path) -> None:
    learns = [it for it in sent(plans) if it.person is not None]
    committed, aborted = ([it for it in learns if it.commit is wanted] for wanted in (True, False))
    generation = manifest().generation(manifest().default_generation)

    async def put(records: list[PlannedRecord], copy: str = "") -> None:
        zeros = np.zeros(generation.dimension, np.float32)
        faces = [Face(it.person or "", it.image_id + copy, it.image_id, "", 1) for it in records]
        await vectors.put_faces(
            [FaceVector(it.directory, generation.name, face, zeros) for it, face in zip(records, faces, strict=True)]
        )

    url = f"sqlite:///{tmp_path}/vectors.db"
    vectors = SqliteVectors(tmp_path / "vectors.db")
    await vectors.create()
    await put(committed[1:])
    assert [line.split()[0] for line in await wrong_faces(plans, url)] == ["1"]
    await put(committed[:1])
    assert await wrong_faces(plans, url) == []
    await put(committed[:2], "copy")
    await put(aborted[:3])
    assert [line.split()[0] for line in await wrong_faces(plans, url)] == ["3", "2"]
    await vectors.close()


def test_the_lag_is_read_from_the_table_of_kafka() -> None:
    table = """
        Consumer group 'x.sink' has no active members.

        GROUP   TOPIC     PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG  CONSUMER-ID  HOST  CLIENT-ID
        x.sink  x.faces   0          12              15              3    -            -     -
        x.sink  x.faces   1          -               4               -    -            -     -
        x.sink  x.faces   2          7               7               0    -            -     -
        x.sink  x.faces   3          -               -               -    -            -     -

        GROUP   TOPIC     PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG  CONSUMER-ID  HOST  CLIENT-ID
        x.other x.faces   0          1               9               8    -            -     -
    """
    assert (lag_in(table, "x.sink"), lag_in(table, "x.other")) == (7, 8)


def test_the_lag_by_exporters_is_of_every_partition() -> None:
    lines = [
        f"{library} test.{group} test.{topic} {number} 0"
        for library in ("sarama", "franz-go")
        for group in GROUPS
        for topic in TOPICS_OF[group]
        for number in range(PARTITIONS)
    ]
    of_all = {f"{group} by {library}": 0 for library in ("sarama", "franz-go") for group in GROUPS}
    assert lag_by_exporters("\n".join(lines), "test.") == of_all
    behind = [line[:-1] + "2" if line.startswith("sarama test.sink ") else line for line in lines]
    assert lag_by_exporters("\n".join(behind), "test.") == of_all | {"sink by sarama": 2 * PARTITIONS}
    for without in (lines[1:], [lines[0][:-1] + "-1", *lines[1:]]):
        with pytest.raises(ServiceFailed, match=r"sarama knows no committed offset of 1 partitions"):
            lag_by_exporters("\n".join(without), "test.")
