"""Every process knows the generations in the topic `models`, and switches to another one when a record activates it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from facestream.config import Settings
from facestream.runtime.stores import create_stores, open_stores
from facestream.runtime.system_state import follow_state
from schemas.errors import NotFound
from schemas.generation_records import Generation, State
from stream.generations import Generations, active_record, generation_record
from stream.topics import MODELS
from tests.records import appended
from tests.unit.stream.stages import until
from weights.manifest import manifest

DEFAULT, OTHER = manifest().default_generation, "dlib-resnet29"


def generation(name: str, state: State = "candidate") -> Generation:
    return manifest().generation(OTHER).model_copy(update={"name": name, "state": state})


@pytest.fixture
async def generations(log: SqliteLog) -> AsyncIterator[Generations]:
    generations = Generations(log, manifest().generation(DEFAULT))
    await generations.start()
    yield generations
    await generations.close()


def names(generations: list[Generation]) -> list[str]:
    return [it.name for it in generations]


def test_the_shipped_generations_come_with_threshold_and_calibration() -> None:
    default, other = (manifest().generation(name) for name in (DEFAULT, OTHER))
    assert (default.state, default.mirror, other.state, other.mirror) == ("complete", True, "added", False)
    assert (default.dimension, default.template, default.detector) == (128, "dlib-150", "centerface")
    for shipped in (default, other):
        assert shipped.threshold is not None
        assert shipped.calibration is not None
    with pytest.raises(NotFound, match=DEFAULT):
        manifest().generation("gone")


async def test_the_default_is_active_as_long_as_the_topic_is_empty(generations: Generations) -> None:
    assert generations.active == manifest().generation(DEFAULT)
    assert names(generations.live) == names(generations.all) == [DEFAULT]


@pytest.mark.parametrize(
    ("state", "live"), [("added", False), ("candidate", True), ("complete", True), ("retired", False)]
)
async def test_candidate_and_complete_generations_are_live(
    log: SqliteLog, generations: Generations, state: State, live: bool
) -> None:
    await log.append([generation_record(generation("new", state))])
    await generations.refresh()
    assert names(generations.live) == [DEFAULT] + (["new"] if live else [])
    assert names(generations.all) == [DEFAULT, "new"]
    assert generations.get("new").state == state
    assert generations.active.name == DEFAULT


async def test_one_record_switches_the_active_generation_and_another_switches_back(
    log: SqliteLog, generations: Generations
) -> None:
    await log.append([generation_record(generation("new")), active_record("new")])
    await generations.refresh()
    assert generations.active == generation("new")
    assert names(generations.live) == [DEFAULT, "new"]
    await log.append([active_record(DEFAULT)])
    await generations.refresh()
    assert generations.active.name == DEFAULT


async def test_a_changed_generation_replaces_its_earlier_state(log: SqliteLog, generations: Generations) -> None:
    for state in ("added", "candidate", "complete"):
        await log.append([generation_record(generation("new", state).model_copy(update={"faces": len(state)}))])
    await generations.refresh()
    assert names(generations.all) == [DEFAULT, "new"]
    assert (generations.get("new").state, generations.get("new").faces) == ("complete", 8)


async def test_the_error_about_an_unknown_generation_names_the_known_ones(generations: Generations) -> None:
    with pytest.raises(NotFound, match=f"no generation 'gone': there are {DEFAULT}"):
        generations.get("gone")
    with pytest.raises(NotFound, match=f"no generation 'gone': there are {DEFAULT}"):
        await generations.get_or_refresh("gone")


async def test_an_unknown_generation_is_looked_up_in_the_log(log: SqliteLog, generations: Generations) -> None:
    await log.append([generation_record(generation("new"))])
    with pytest.raises(NotFound):
        generations.get("new")
    assert await generations.get_or_refresh("new") == generation("new")
    assert await generations.get_or_refresh(DEFAULT) == manifest().generation(DEFAULT)


async def test_a_record_that_cannot_be_read_changes_nothing(log: SqliteLog, generations: Generations) -> None:
    bad = [b"", b"{}", b"\xff", b'{"version": 2, "active": "new"}', b'{"active": "No Name"}']
    records = [
        NewRecord(MODELS, key, value) for key in ("active", "generation:new", f"generation:{DEFAULT}") for value in bad
    ]
    await log.append([*records, generation_record(generation("good"))])
    await generations.refresh()
    assert generations.active == manifest().generation(DEFAULT)
    assert names(generations.all) == [DEFAULT, "good"]


async def test_a_follower_gets_the_switch_of_the_active_generation(log: SqliteLog) -> None:
    async with follow_state(log) as state:
        following = asyncio.create_task(state.run())
        await log.append([generation_record(generation("new")), active_record("new")])
        await until(lambda: state.generations.active.name == "new")
        following.cancel()
        await asyncio.wait([following])


async def test_a_start_logs_the_present_state_once_and_then_each_change(log: SqliteLog) -> None:
    await log.append([generation_record(generation("new", state)) for state in ("candidate", "complete")])
    await log.append([active_record(name) for name in ("new", DEFAULT) * 3])
    for _ in range(2):
        with structlog.testing.capture_logs() as logs:
            async with follow_state(log):
                pass
        assert logs == [{"event": "generations", "log_level": "info", "active": DEFAULT, "live": [DEFAULT, "new"]}]
    with structlog.testing.capture_logs() as logs:
        async with follow_state(log) as state:
            await log.append([generation_record(generation("newer")), active_record("new")])
            await state.generations.refresh()
    assert [(it["event"], it.get("generation")) for it in logs[1:]] == [
        ("generation", "newer"),
        ("active generation", "new"),
    ]


async def test_creating_an_installation_twice_writes_the_default_once(tmp_path: Path) -> None:
    async with open_stores(Settings(data=tmp_path)) as stores:
        await create_stores(stores)
        await stores.log.append([generation_record(generation("new")), active_record("new")])
        await create_stores(stores)
        assert await stores.log.end_offsets(MODELS) == {0: 4}
        reader = await stores.log.reader(MODELS, at="start")
        records = await reader.poll(10, 1.0)
        await reader.close()
        assert [it.key for it in records] == [f"generation:{DEFAULT}", "active", "generation:new", "active"]
        async with follow_state(stores.log) as state:
            assert state.generations.active.name == "new"
            assert names(state.generations.live) == [DEFAULT, "new"]


NAMES = ["a", "b", DEFAULT]
changes = st.one_of(
    st.builds(generation, st.sampled_from(NAMES), st.sampled_from(["added", "candidate", "complete", "retired"])),
    st.sampled_from(NAMES),
)


@given(st.lists(changes, max_size=12))
@settings(max_examples=50, deadline=None)
def test_a_reader_of_the_compacted_topic_has_the_same_state_as_a_follower(said: list[Generation | str]) -> None:
    """Compaction leaves the last record of each key, in the order of the offsets that are left."""
    known, records = {DEFAULT}, []
    for it in said:
        if isinstance(it, Generation):
            known.add(it.name)
            records.append(generation_record(it))
        elif it in known:
            records.append(active_record(it))
    last = {record.key: offset for offset, record in enumerate(records)}
    followed_it, reads_it = (Generations(SqliteLog(Path("unused")), manifest().generation(DEFAULT)) for _ in range(2))
    for offset, record in enumerate(records):
        taken = appended(record, offset=offset)
        followed_it.apply(taken)
        if last[record.key] == offset:
            reads_it.apply(taken)
    assert reads_it.active == followed_it.active
    assert {it.name: it for it in reads_it.all} == {it.name: it for it in followed_it.all}
    assert set(names(reads_it.live)) == set(names(followed_it.live))
