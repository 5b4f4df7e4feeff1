"""Tests specific to the vector store on Cassandra: its URL, the creation of its tables, timestamps and TTLs, and
outages.
"""

import asyncio
import gc
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import ClassVar, cast

import numpy as np
import pytest
from cassandra import InvalidRequest as InvalidRequestOfDriver
from cassandra import WriteTimeout, WriteType
from cassandra.cluster import Cluster, ResponseFuture, ResultSet, Session
from cassandra.protocol import ErrorMessage

import backends.cassandra.client as client
import backends.cassandra.directories as directories
import backends.cassandra.schema as schema
from backends.cassandra.client import CassandraClient, Statement
from backends.cassandra.connect import cluster_of
from backends.cassandra.schema import bucket_of
from backends.cassandra.vectors import CassandraVectors
from backends.urls import ServerUrl
from backends.vectors import (
    ERASURES_KEPT_S,
    EXPIRED_KEPT_S,
    ApiKey,
    Face,
    FaceBlock,
    FaceVector,
    PersonSummary,
    StoredAnswer,
    VectorStore,
)
from bench.stores import drop_keyspace
from schemas.errors import ConfigurationError, InvalidRequest, Unavailable
from tests.servers.keyspaces import server_at
from tests.servers.relay import Relay

PATIENCE_S = 30.0


@pytest.fixture
async def vectors(keyspace: str) -> AsyncIterator[CassandraVectors]:
    store = CassandraVectors(keyspace)
    yield store
    await store.close()


@pytest.fixture(scope="module")
def session(keyspace: str) -> Iterator[Session]:
    """The bare driver."""
    with cluster_of(server_at(keyspace)) as cluster:
        yield cluster.connect(server_at(keyspace).path)


@pytest.fixture
def directory() -> str:
    return f"directory {uuid.uuid4().hex}"


def a_face(directory: str, person: str, face_id: str = "1", timestamp: int = 1_000) -> FaceVector:
    return FaceVector(directory, "g1", Face(person, face_id, f"image {face_id}", "", timestamp), np.ones(4, np.float32))


# The URL.


@pytest.mark.parametrize(
    "url",
    [
        "cassandra://host",
        "cassandra://host/",
        "cassandra://host/with-dash",
        "cassandra://host/" + 49 * "x",
        'cassandra://host/x";drop',
        "cassandra:///keyspace",
        "cassandra://host:port/keyspace",
        "cassandra://host/keyspace?replication=0",
        "cassandra://host/keyspace?tls=perhaps",
        "cassandra://host/keyspace?ca_file=ca.pem",
        "cassandra://host/keyspace?tls=true&ca_file=missing.pem",
        "cassandra://host/keyspace?shards=3",
        "cassandra://:secret@host/keyspace?ca_file=secret",
    ],
)
def test_a_url_that_is_not_understood_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="FACESTREAM_VECTORS"):
        CassandraVectors(url)


async def test_the_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CassandraVectors("cassandra://me:secret@127.0.0.1:1,[::1]:1/keyspace")
    assert "secret" not in repr(store)
    assert "127.0.0.1:1" in repr(store)
    with pytest.raises(Unavailable) as refused:
        await store.ping()
    assert "secret" not in str(refused.value)
    await store.close()


# The tables.


@pytest.fixture
def unfinished(session: Session) -> Callable[[uuid.UUID | None, int], None]:
    """Makes the tables look incomplete, with a lock that `holder` has for some seconds."""

    def unfinished(holder: uuid.UUID | None, seconds: int) -> None:
        cql = "UPDATE schema_versions USING TTL %s SET holder = %s, version = null WHERE name = 'facestream' IF EXISTS"
        session.execute(cql, (seconds, holder))

    return unfinished


async def test_a_keyspace_is_made_once_by_several_at_once(services: dict[str, str]) -> None:
    name = f"test_{uuid.uuid4().hex}"
    url = f"{services['FACESTREAM_VECTORS'].rpartition('/')[0]}/{name}"
    stores = [CassandraVectors(url) for _ in range(5)]
    with pytest.raises(ConfigurationError, match="facestream init"):
        await stores[0].ping()
    await asyncio.gather(*(store.create() for store in stores))
    await stores[0].create()
    for store in stores:
        await store.ping()
    with cluster_of(server_at(url)) as cluster:
        session = cluster.connect(name)
        assert session.execute("SELECT version, holder FROM schema_versions").all() == [(len(schema.VERSIONS), None)]
        tables = cluster.metadata.keyspaces[name].tables
        assert tables.keys() == {"faces", "directories", "emptied", "answers", "api_keys", "schema_versions"}
        session.execute(f"DROP KEYSPACE {name}", timeout=schema.CREATE_TIMEOUT_S)
    with pytest.raises(ConfigurationError, match="facestream init"):
        await poll(lambda: stores[0].put_faces([a_face("acme", "ann")]), Unavailable)
    for store in stores:
        await store.close()


async def test_tables_that_are_not_complete_are_not_used(
    keyspace: str, vectors: CassandraVectors, unfinished: Callable[[uuid.UUID | None, int], None]
) -> None:
    unfinished(None, 0)
    with pytest.raises(ConfigurationError, match="facestream init"):
        await vectors.ping()
    await vectors.create()
    await vectors.ping()


async def test_tables_of_an_older_version_are_brought_up_to_date(
    services: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{services['FACESTREAM_VECTORS'].rpartition('/')[0]}/test_{uuid.uuid4().hex}"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "VERSIONS", schema.VERSIONS[:1])
        await (old := CassandraVectors(url)).create()
        await old.close()
    vectors = CassandraVectors(url)
    with pytest.raises(ConfigurationError, match="older version"):
        await vectors.ping()
    await vectors.create()
    assert await vectors.directories("g1") == []
    await vectors.close()
    drop_keyspace(url, server_at(url).path)


async def test_a_process_that_died_while_it_created_the_tables_delays_the_others_for_a_while(
    vectors: CassandraVectors, unfinished: Callable[[uuid.UUID | None, int], None]
) -> None:
    unfinished(uuid.uuid4(), 2)
    began = time.monotonic()
    await vectors.create()
    assert time.monotonic() - began > 1
    await vectors.ping()


async def test_a_process_that_does_not_finish_creating_the_tables_is_not_waited_for_without_end(
    vectors: CassandraVectors, unfinished: Callable[[uuid.UUID | None, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "PATIENCE_S", 0.5)
    unfinished(uuid.uuid4(), 60)
    with pytest.raises(Unavailable, match="does not finish"):
        await vectors.create()
    unfinished(None, 0)
    await vectors.create()


class Unsettled:
    """A session with servers that do not agree on the schema yet: some requests fail, as observed with three
    servers.
    """

    failures: ClassVar[dict[int, Exception]] = {
        2: InvalidRequestOfDriver("Keyspace 'x' doesn't exist"),
        5: InvalidRequestOfDriver("table schema_versions does not exist"),
        9: ErrorMessage(0x1700, "CAS operation result is unknown", None),
        14: WriteTimeout("timed out", WriteType.CAS),
    }

    def __init__(self, session: Session) -> None:
        self._session = session
        self.asked = 0

    def execute(self, *args: object, **kwargs: object) -> ResultSet:
        self.asked += 1
        if self.asked in self.failures:
            raise self.failures[self.asked]
        return self._session.execute(*args, **kwargs)


async def test_servers_that_do_not_agree_yet_are_asked_again(
    keyspace: str, vectors: CassandraVectors, session: Session, unfinished: Callable[[uuid.UUID | None, int], None]
) -> None:
    unfinished(None, 0)
    unsettled = Unsettled(session)
    await asyncio.to_thread(schema.create, unsettled, server_at(keyspace).path, 1)
    assert unsettled.asked > max(unsettled.failures)
    await vectors.ping()


# The rows.


async def test_a_face_has_the_time_of_its_event(vectors: CassandraVectors, session: Session, directory: str) -> None:
    await vectors.put_faces([a_face(directory, "ann", timestamp=5_000)])
    (written,) = session.execute(
        "SELECT writetime(vector), writetime(image_id), writetime(source) FROM faces"
        " WHERE directory = %s AND generation = 'g1' AND bucket = %s",
        (directory, bucket_of("ann")),
    ).all()
    assert written == (5_000_000, 5_000_000, 5_000_000)


async def test_a_face_that_cannot_be_kept_is_refused(vectors: CassandraVectors, directory: str) -> None:
    for wrong in (
        FaceVector(directory, "g1", Face("ann", "1", "", "", 1), np.ones(4)),  # type: ignore[arg-type]
        FaceVector(directory, "g1", Face("ann", "1", "", "", 1), np.ones((1, 4), np.float32)),
        a_face(directory, "\ud800"),
    ):
        with pytest.raises(InvalidRequest):
            await vectors.put_faces([wrong])
    assert await vectors.persons(directory, "g1") == []
    assert directory not in await vectors.directories("g1")


async def test_a_put_lists_a_directory_again_after_another_process_deleted_it(
    vectors: CassandraVectors, session: Session, directory: str
) -> None:
    await vectors.put_faces([a_face(directory, "ann")])
    where = "WHERE generation = 'g1' AND bucket = %s AND directory = %s"
    session.execute(f"DELETE FROM directories {where}", (bucket_of(directory), directory))  # noqa: S608
    assert directory not in await vectors.directories("g1")
    await vectors.put_faces([a_face(directory, "ann", timestamp=500)])
    assert directory in await vectors.directories("g1")


async def test_a_put_into_a_listed_directory_does_not_list_it(
    vectors: CassandraVectors, session: Session, directory: str
) -> None:
    await vectors.put_faces([a_face(directory, "ann")], listed={(directory, "g1")})
    where = "WHERE generation = 'g1' AND bucket = %s AND directory = %s"
    assert session.execute(f"SELECT * FROM directories {where}", (bucket_of(directory), directory)).all() == []  # noqa: S608
    await vectors.put_faces([a_face(directory, "bob")], listed={(directory, "g2"), ("other", "g1")})
    assert directory in await vectors.directories("g1")


@pytest.fixture
async def directory_client(keyspace: str) -> AsyncIterator[CassandraClient]:
    client = CassandraClient(server_at(keyspace), directories.STATEMENTS, lambda session: None)
    yield client
    await client.close()


async def test_a_directory_found_empty_during_its_first_put_is_still_listed(
    vectors: CassandraVectors, directory_client: CassandraClient, directory: str
) -> None:
    async with directories.keep_listed(directory_client, [(directory, "g1")]):
        await directories.unlist_if_empty(directory_client, "g1", directory)
        await vectors.put_faces([a_face(directory, "ann")], listed={(directory, "g1")})
    assert directory in await vectors.directories("g1")


async def test_a_process_that_dies_while_it_puts_faces_leaves_the_directory_listed(
    vectors: CassandraVectors, directory_client: CassandraClient, directory: str
) -> None:
    listing = directories.keep_listed(directory_client, [(directory, "g1")])
    await listing.__aenter__()
    await vectors.put_faces([a_face(directory, "ann")], listed={(directory, "g1")})
    assert directory in await vectors.directories("g1")


async def test_the_name_of_an_emptied_directory_is_in_no_table(
    vectors: CassandraVectors, session: Session, directory: str
) -> None:
    await vectors.put_faces([a_face(directory, "ann"), a_face(directory, "bob")])
    await vectors.delete_faces(directory, ["g1"], 1_000, person="ann")
    (noted,) = session.execute("SELECT count(*) FROM emptied").one()
    await vectors.delete_faces(directory, ["g1"], 1_000)
    assert session.execute("SELECT count(*) FROM emptied").one() == (noted + 1,)
    for table in ("faces", "directories", "emptied"):
        rows = session.execute(f"SELECT * FROM {table}").all()  # noqa: S608
        assert not [row for row in rows if directory in str(row)]
    (left,) = session.execute("SELECT count(*) FROM faces WHERE directory = %s ALLOW FILTERING", (directory,)).one()
    assert left == 0


async def test_an_answer_is_deleted_even_if_the_clock_of_its_writer_is_ahead(
    vectors: CassandraVectors, session: Session
) -> None:
    image_id = f"{uuid.uuid4()}"
    session.execute(
        "INSERT INTO answers (image_id, value, expires_at) VALUES (%s, '{}', 4e9) USING TIMESTAMP %s",
        (image_id, int((time.time() + 3_600) * 1e6)),
    )
    assert await vectors.answer(image_id) is not None
    await vectors.delete_answers([image_id])
    assert await vectors.answer(image_id) is None


def test_deletes_are_remembered_as_long_as_an_erasure_is_valid(session: Session, keyspace: str) -> None:
    tables = session.cluster.metadata.keyspaces[server_at(keyspace).path].tables
    assert tables["faces"].options["gc_grace_seconds"] == ERASURES_KEPT_S


async def test_an_emptied_directory_is_noted_for_as_long_as_an_erasure_holds(
    vectors: CassandraVectors, session: Session, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.cassandra.directories.ERASURES_KEPT_S", 1.0)
    await vectors.put_faces([a_face(directory, "ann")])
    await vectors.delete_faces(directory, ["g1"], 1_000)
    await vectors.put_faces([a_face(directory, "ann")])  # lists it, but it has no faces
    assert directory not in await vectors.directories("g1")

    async def forgotten() -> None:
        assert directory in await vectors.directories("g1")

    await poll(forgotten, AssertionError)


async def test_people_who_all_lie_in_one_bucket_are_listed_in_order(vectors: CassandraVectors, directory: str) -> None:
    names = sorted(name for name in (f"{number}" for number in range(1_600)) if bucket_of(name) == 7)
    others = [f"{number}" for number in range(1_600, 1_700)]
    await vectors.put_faces([a_face(directory, name) for name in [*names, *others]])
    everybody = sorted([*names, *others])
    for after, limit in (("", 70), (names[10], 33), (everybody[40], 1), ("", 1_000)):
        expected = [name for name in everybody if name > after][:limit]
        assert await vectors.persons(directory, "g1", after=after, limit=limit) == [
            PersonSummary(it, 1) for it in expected
        ]


async def test_a_person_with_more_faces_than_a_page(vectors: CassandraVectors, directory: str) -> None:
    await vectors.put_faces([a_face(directory, "ann", f"{number:05}") for number in range(5_100)])
    await vectors.put_faces([a_face(directory, "bob")])
    assert await vectors.persons(directory, "g1") == [PersonSummary("ann", 5_100), PersonSummary("bob", 1)]
    assert [it.face_id for it in await vectors.faces(directory, "g1", "ann")] == [
        f"{number:05}" for number in range(5_100)
    ]


async def test_an_answer_goes_some_days_after_it_expired(vectors: CassandraVectors, session: Session) -> None:
    now = time.time()
    expiries = {"fresh": now + 1_000, "expired": now - EXPIRED_KEPT_S / 2, "long expired": now - EXPIRED_KEPT_S - 1}
    answers = {name: StoredAnswer(f"{uuid.uuid4()}", name, at) for name, at in expiries.items()}
    await vectors.put_answers(list(answers.values()))
    for name in ("fresh", "expired"):
        assert await vectors.answer(answers[name].image_id) == answers[name]
        (left,) = session.execute("SELECT ttl(value) FROM answers WHERE image_id = %s", (answers[name].image_id,)).one()
        assert left == pytest.approx(expiries[name] + EXPIRED_KEPT_S - now, abs=20)

    async def is_gone() -> None:
        assert await vectors.answer(answers["long expired"].image_id) is None

    await poll(is_gone, AssertionError)


async def test_the_last_of_several_answers_to_an_image_stays(vectors: CassandraVectors) -> None:
    image_id = f"{uuid.uuid4()}"
    await vectors.put_answers([StoredAnswer(image_id, f"{number}", 4e9) for number in range(50)])
    assert await vectors.answer(image_id) == StoredAnswer(image_id, "49", 4e9)


async def test_an_api_key_is_deleted_even_if_the_clock_of_its_writer_is_ahead(
    vectors: CassandraVectors, session: Session
) -> None:
    key = ApiKey(f"{uuid.uuid4()}", "hash", "admin", None, 1.0)
    session.execute(
        "INSERT INTO api_keys (part, key_id, secret_hash, scope, created_at) VALUES ('all', %s, 'hash', 'admin', 1.0)"
        " USING TIMESTAMP %s",
        (key.key_id, int((time.time() + 3_600) * 1e6)),
    )
    assert key in await vectors.api_keys()
    assert await vectors.delete_api_key(key.key_id)
    assert key not in await vectors.api_keys()


async def test_columns_that_the_driver_cannot_parse_are_not_taken_for_nothing(keyspace: str, directory: str) -> None:
    numbers = Statement("SELECT timestamp FROM {keyspace}.faces WHERE directory = ? AND generation = ? AND bucket = ?")
    asked = CassandraClient(server_at(keyspace), [numbers], lambda session: None)
    with pytest.raises(TypeError, match="no columns"):
        await asked.columns(numbers, (directory, "g1", 0), None)
    await asked.close()


async def test_finished_requests_are_freed_without_the_garbage_collector(
    vectors: CassandraVectors, directory: str
) -> None:
    """Collecting them took a third of the time of thousands of requests, and a gallery's rows stayed in memory."""
    await vectors.put_faces([a_face(directory, "ann")])
    gc.collect()
    gc.disable()
    try:
        await vectors.put_faces([a_face(directory, f"{number}") for number in range(200)])
        assert await everything(vectors, directory) == 201
        assert sum(type(it) is ResponseFuture for it in gc.get_objects()) < 20
    finally:
        gc.enable()


# Outages. The relay runs in the same event loop: it passes nothing while the store blocks that.


@pytest.fixture
async def relay(keyspace: str) -> AsyncIterator[Relay]:
    relay = Relay(server_at(keyspace).hosts[0][1])
    await relay.open()
    yield relay
    await relay.cut()


@pytest.fixture
async def away(keyspace: str, relay: Relay) -> AsyncIterator[CassandraVectors]:
    """A store behind the relay."""
    store = CassandraVectors(f"cassandra://127.0.0.1:{relay.port}/{server_at(keyspace).path}")
    yield store
    await store.close()


async def test_a_server_that_is_not_up_yet_is_tried_again_at_the_next_use(relay: Relay, away: CassandraVectors) -> None:
    await relay.cut()
    for _ in range(2):
        with pytest.raises(Unavailable, match="refused"):
            await away.ping()
    await relay.open()
    await away.ping()


async def test_all_calls_while_it_connects_wait_for_the_same_attempt(
    relay: Relay, away: CassandraVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted_clusters(monkeypatch)
    await relay.cut()
    outcomes = await asyncio.gather(*(away.ping() for _ in range(20)), return_exceptions=True)
    assert {type(it) for it in outcomes} == {Unavailable}
    assert len(made) == 1
    await relay.open()
    await asyncio.gather(*(away.ping() for _ in range(20)))
    assert len(made) == 2


async def test_the_store_recovers_after_its_connections_broke(
    relay: Relay, away: CassandraVectors, directory: str
) -> None:
    await away.put_faces([a_face(directory, "before")])
    await relay.cut()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(away.put_faces([a_face(directory, "meanwhile")]), PATIENCE_S)
    await relay.open()
    await poll(lambda: away.put_faces([a_face(directory, "after")]), Unavailable)
    assert [it.person for it in await away.persons(directory, "g1")] == ["after", "before"]


async def test_requests_in_flight_when_the_connections_break_fail_at_once(
    relay: Relay, away: CassandraVectors, directory: str
) -> None:
    await away.ping()
    relay.hold()
    writing = asyncio.create_task(away.put_faces([a_face(directory, f"{number}") for number in range(500)]))
    reading = asyncio.create_task(everything(away, directory))
    await asyncio.sleep(0.1)
    await relay.cut()
    for task in (writing, reading):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(task, PATIENCE_S)


async def test_a_gallery_that_is_not_read_to_its_end_leaves_nothing_behind(
    relay: Relay, away: CassandraVectors, directory: str
) -> None:
    await away.put_faces([a_face(directory, f"{number}") for number in range(100)])
    before = asyncio.all_tasks()
    reading = cast(AsyncGenerator[FaceBlock, None], away.read_gallery(directory, "g1"))
    await anext(reading)
    relay.hold()  # the pages behind the first one do not come
    await asyncio.wait_for(reading.aclose(), 1)
    assert asyncio.all_tasks() <= before


async def test_a_server_that_does_not_answer_is_unavailable_after_a_while(
    relay: Relay, away: CassandraVectors, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.cassandra.connect.REQUEST_S", 0.5)
    await away.ping()
    relay.hold()
    for asking in (away.ping(), everything(away, directory)):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(asking, PATIENCE_S)
    relay.let_go()
    await poll(away.ping, Unavailable)


async def test_after_a_long_outage_a_new_client_is_made(
    keyspace: str, relay: Relay, away: CassandraVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses may change during an outage. Here the port changes, and the old client would wait for ever."""
    made = counted_clusters(monkeypatch)
    monkeypatch.setattr(client, "AWAY_S", 0.2)
    await away.ping()
    await relay.cut()

    async def made_anew() -> None:
        with suppress(Unavailable):
            await away.ping()
        assert len(made) > 1

    await poll(made_anew, AssertionError)
    await relay.open()
    await away.ping()


async def test_closing_does_not_wait_for_a_server_that_does_not_answer(
    relay: Relay, away: CassandraVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    await away.ping()
    relay.hold()
    waiting = asyncio.create_task(away.ping())
    await asyncio.sleep(0.1)
    await asyncio.wait_for(away.close(), client.CLOSE_S)
    with pytest.raises(Unavailable, match="closed"):
        await asyncio.wait_for(waiting, 1)


def counted_clusters(monkeypatch: pytest.MonkeyPatch) -> list[Cluster]:
    """Gets every cluster that a client makes from now on."""
    made: list[Cluster] = []

    def counting(server: ServerUrl) -> Cluster:
        made.append(cluster_of(server))
        return made[-1]

    monkeypatch.setattr(client, "cluster_of", counting)
    return made


async def everything(vectors: VectorStore, directory: str) -> int:
    return sum([len(block) async for block in vectors.read_gallery(directory, "g1")])


async def poll(work: Callable[[], Awaitable[None]], until_no: type[Exception]) -> None:
    """Repeats the work while it fails with this error."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            await work()
            return
        except until_no:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.05)
