"""A bulk run against a server that delays pictures, refuses or loses them, or becomes unavailable, as the test says."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import BodyPartReader, web
from aiohttp.test_utils import TestServer

from facestream.client.bulk import client as bulk_client
from facestream.client.bulk import uploads as bulk
from facestream.client.bulk.client import BulkClient
from facestream.client.bulk.journal import Journal, journal_path, version_of
from facestream.client.bulk.report import LISTED, BulkReport
from facestream.client.bulk.source import PictureFile, portraits_of
from facestream.client.bulk.uploads import BulkRun
from facestream.client.http import ServiceClient
from facestream.terminal import print_message
from schemas.errors import ConfigurationError, InvalidRequest, Unavailable
from schemas.records import Purpose
from tests.answers import learned, recognized, refused

Answer = Callable[[str, int], tuple[int, Any]]


def working(image_id: str) -> dict[str, str]:
    return {"status": "working", "image_id": image_id, "location": f"/results/{image_id}"}


def refusal(status: int, *code_and_detail: str, **members: str) -> web.Response:
    return web.json_response(refused(status, *code_and_detail, **members).members(), status=status)


def learned_answer(person: str, nth: int) -> tuple[int, Any]:
    return 201, learned(person).members()


class Service:
    """A service whose answer to an upload is ready after `looks` polls. `answer`: gives the status and the body for a
    person, "" for a picture to recognize, and the number of the upload of that picture.
    """

    def __init__(self, answer: Answer = learned_answer, looks: int = 1) -> None:
        self.answer, self.looks = answer, looks
        self.refuse: Callable[[web.Request], web.Response | None] = lambda request: None
        self.uploads: list[dict[str, str]] = []
        self.keys: list[str] = []
        self.persons: set[str] = set()
        self.waiting: dict[str, tuple[str, int]] = {}
        self.asked: Counter[str] = Counter()
        self.open = self.most_open = self.most_waiting = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            refused = self.refuse(request)
            if refused is not None:
                await request.read()
                return refused
            if request.method == "POST":
                return await self.take(request)
            if request.path.endswith("/persons"):
                return self.page(sorted(self.persons), request.query)
            return self.result(request.path.rpartition("/")[2])
        finally:
            self.open -= 1

    async def take(self, request: web.Request) -> web.Response:
        fields = {}
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            assert part.name
            fields[part.name] = bytes(await part.read()).decode()
        assert request.headers["Prefer"] == "respond-async"
        assert request.query["lane"] == "bulk"
        key = request.headers["Idempotency-Key"]
        image_id = str(uuid.uuid5(uuid.NAMESPACE_URL, key))
        self.uploads.append(fields)
        self.keys.append(key)
        self.waiting[image_id] = fields.get("person", ""), sum(it["file"] == fields["file"] for it in self.uploads)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return web.json_response(working(image_id), status=202)

    def result(self, image_id: str) -> web.Response:
        self.asked[image_id] += 1
        if image_id not in self.waiting:
            return refusal(404, "not_found", "unknown")
        if self.asked[image_id] < self.looks:
            return web.json_response({}, status=202)
        status, body = self.answer(*self.waiting[image_id])
        if status < 400:
            self.persons.add(self.waiting[image_id][0])
        del self.waiting[image_id]
        return web.json_response(body, status=status)

    def page(self, names: list[str], query: Any) -> web.Response:
        rest = [name for name in names if name > query["after"]]
        following = {"next": rest[1]} if len(rest) > 2 else {}
        persons = [{"id": name, "faces": 1} for name in rest[:2]]
        return web.json_response({"directory": "acme", "persons": persons} | following)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ServiceClient]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        async with TestServer(app) as server, ServiceClient(str(server.make_url(""))) as client:
            yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "POLL_S", 0.001)
    monkeypatch.setattr(bulk_client, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(bulk_client, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def people(tmp_path: Path) -> list[PictureFile]:
    """Thirty people with a picture each."""
    for i in range(30):
        folder = tmp_path / "people" / f"p{i:02}"
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_text(f"picture {i}")
    return portraits_of(tmp_path / "people")


async def learn(
    service: Service,
    tmp_path: Path,
    items: list[PictureFile],
    *,
    purpose: Purpose = "learn",
    again: bool = False,
    report: BulkReport | None = None,
) -> BulkReport:
    report = report or BulkReport(purpose, tmp_path / "report.jsonl", as_json=True)
    with Journal(tmp_path / "state" / "journal.jsonl", again=again) as journal:
        async with service.client() as client:
            run = BulkRun(
                client, BulkClient(client, purpose, {"directory": "acme"}, tell=print_message), journal, report, purpose
            )
            try:
                await run.run(items)
            finally:
                report.close(run.unanswered)
    return report


def printed(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


async def test_every_picture_is_learned_once_with_few_requests_open(
    tmp_path: Path, people: list[PictureFile], capfd: pytest.CaptureFixture[str]
) -> None:
    service = Service(looks=3)
    report = await learn(service, tmp_path, people)
    assert not report.failed
    assert sorted(it["person"] for it in service.uploads) == [it.person for it in people]
    assert {it["directory"] for it in service.uploads} == {"acme"}
    assert len(set(service.keys)) == 30
    assert set(service.asked.values()) == {3}
    assert service.most_open <= bulk.UPLOADS + bulk.POLLS
    assert sorted(it["photo"] for it in printed(capfd)) == [it.photo for it in people]
    assert (tmp_path / "report.jsonl").read_text() == ""


async def test_at_most_as_many_pictures_wait_as_the_window_allows(
    tmp_path: Path, people: list[PictureFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LEAST_WINDOW", 6)
    monkeypatch.setattr(bulk, "LARGEST_WINDOW", 6)
    service = Service(looks=2)
    await learn(service, tmp_path, people)
    assert len(service.uploads) == 30
    assert bulk.POLLS <= service.most_waiting <= 6


async def test_the_window_grows_with_the_pace(
    tmp_path: Path, people: list[PictureFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LEAST_WINDOW", 6)
    monkeypatch.setattr(bulk, "UPLOADS", 30)
    service = Service(looks=2)
    await learn(service, tmp_path, people)
    assert service.most_waiting > 6


async def test_slow_pictures_do_not_delay_others(tmp_path: Path, people: list[PictureFile]) -> None:
    """There are more slow pictures than concurrent polls."""
    service = Service()
    last: list[str] = []
    waits = {f"p{i:02}" for i in range(2 * bulk.POLLS)}

    def answer(person: str, nth: int) -> tuple[int, Any]:
        last.append(person)
        return learned_answer(person, nth)

    service.answer = answer
    result = service.result

    def slow(image_id: str) -> web.Response:
        slow_one = service.waiting.get(image_id, ("",))[0] in waits
        service.looks = 4 * bulk.POLLS_IN_A_ROW if slow_one else 1
        return result(image_id)

    service.result = slow  # type: ignore[method-assign]
    await learn(service, tmp_path, people)
    assert set(last[-len(waits) :]) == waits
    assert len(last) == 30


async def test_failures_are_reported_by_code_and_the_run_continues(
    tmp_path: Path, people: list[PictureFile], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "people" / "p03" / "1.jpg").unlink()

    def answer(person: str, nth: int) -> tuple[int, Any]:
        return (
            (422, refused(422, "no_face", f"no face of {person}").members())
            if person in ("p01", "p02")
            else learned_answer(person, nth)
        )

    report = await learn(Service(answer), tmp_path, people)
    assert report.failed
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert sum("error" in it for it in lines) == 3
    assert sum("persons" in it for it in lines) == 27
    told = [line.removeprefix("facestream: ") for line in err.splitlines() if line.startswith("facestream: ")]
    assert told[:2] == ["27 learned, 3 failed", "2 × no_face"]
    assert sorted(told[2:4]) == [f"  {tmp_path}/people/p0{i}/1.jpg: no face of p0{i}" for i in (1, 2)]
    assert told[4:] == [
        "1 × unreadable_photo",
        f"  {tmp_path}/people/p03/1.jpg: cannot be read: No such file or directory",
    ]
    failures = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert sorted((it["person"], it["error"]["code"]) for it in failures) == [
        ("p01", "no_face"),
        ("p02", "no_face"),
        ("p03", "unreadable_photo"),
    ]


async def test_of_many_failures_some_are_shown(
    tmp_path: Path, people: list[PictureFile], capfd: pytest.CaptureFixture[str]
) -> None:
    await learn(Service(lambda person, nth: (422, refused(422, "no_face", "no").members())), tmp_path, people)
    err = capfd.readouterr().err
    assert err.count("1.jpg: no") == LISTED
    assert f"and {30 - LISTED} more: they are in {tmp_path / 'report.jsonl'}" in err
    assert len((tmp_path / "report.jsonl").read_text().splitlines()) == 30


async def test_repeating_a_finished_run_sends_nothing_and_prints_all_answers(
    tmp_path: Path, people: list[PictureFile], capfd: pytest.CaptureFixture[str]
) -> None:
    service = Service()
    await learn(service, tmp_path, people)
    first = printed(capfd)
    await learn(service, tmp_path, people)
    assert len(service.uploads) == 30
    assert sorted(printed(capfd), key=lambda it: str(it["photo"])) == sorted(first, key=lambda it: str(it["photo"]))


async def test_the_option_again_sends_all_pictures_with_the_same_idempotency_keys(
    tmp_path: Path, people: list[PictureFile]
) -> None:
    service = Service()
    await learn(service, tmp_path, people)
    await learn(service, tmp_path, people, again=True)
    assert Counter(service.keys) == dict.fromkeys(service.keys, 2)
    assert len(service.keys) == 60


async def test_only_changed_failed_and_new_pictures_are_sent_again(tmp_path: Path, people: list[PictureFile]) -> None:
    service = Service(
        lambda person, nth: (
            (422, refused(422, "no_face").members()) if (person, nth) == ("p05", 1) else learned_answer(person, nth)
        )
    )
    await learn(service, tmp_path, people)
    (tmp_path / "people" / "p07" / "1.jpg").write_text("another picture")
    (tmp_path / "people" / "p08" / "2.jpg").write_text("one more")
    del service.uploads[:]
    await learn(service, tmp_path, portraits_of(tmp_path / "people"))
    assert sorted(it["person"] for it in service.uploads) == ["p05", "p07", "p08"]


async def test_a_person_missing_from_the_directory_is_learned_again(tmp_path: Path, people: list[PictureFile]) -> None:
    """The service lost its data, or another one has its address."""
    service = Service()
    await learn(service, tmp_path, people)
    service.persons -= {"p11", "p29"}
    del service.uploads[:]
    await learn(service, tmp_path, people)
    assert sorted(it["person"] for it in service.uploads) == ["p11", "p29"]


async def test_a_picture_that_failed_in_the_service_gets_a_new_idempotency_key(
    tmp_path: Path, people: list[PictureFile]
) -> None:
    """With the same key, the stored error would be returned for a day. If the picture itself was the cause, it keeps
    its key.
    """
    service = Service(lambda person, nth: (status := 500 if person == "p01" else 422, refused(status).members()))
    await learn(service, tmp_path, people[1:3])
    await learn(service, tmp_path, people[1:3])
    keys: dict[str, set[str]] = {}
    for upload, key in zip(service.uploads, service.keys, strict=True):
        keys.setdefault(upload["person"], set()).add(key)
    assert {person: len(it) for person, it in keys.items()} == {"p01": 2, "p02": 1}


async def test_an_interrupted_run_continues_with_the_accepted_pictures(
    tmp_path: Path, people: list[PictureFile], capfd: pytest.CaptureFixture[str]
) -> None:
    service, asked = Service(), set[str]()
    all_are_asked_for = asyncio.Event()

    def working(request: web.Request) -> web.Response | None:
        if "/results/" not in request.path:
            return None
        asked.add(request.path)
        if len(asked) == 30:
            all_are_asked_for.set()
        return web.json_response({}, status=202)

    service.refuse = working
    run = asyncio.create_task(learn(service, tmp_path, people))
    async with asyncio.timeout(10):
        await all_are_asked_for.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    err = capfd.readouterr().err
    assert "30 left" in err
    assert "the same command again goes on" in err
    service.refuse = lambda request: None
    report = await learn(service, tmp_path, people)
    assert not report.failed
    assert len(service.uploads) == 30
    assert len(printed(capfd)) == 30


async def test_a_picture_to_recognize_whose_answer_was_deleted_is_sent_again(
    tmp_path: Path, people: list[PictureFile]
) -> None:
    service = Service(lambda person, nth: (200, recognized().members()))
    forgotten = set[str]()

    def forget(request: web.Request) -> web.Response | None:
        image_id = request.path.rpartition("/")[2]
        if "/results/" in request.path and len(forgotten) < 2 and image_id in service.waiting:
            del service.waiting[image_id]
            forgotten.add(image_id)
        return None

    service.refuse = forget
    pictures = [PictureFile(it.photo, it.name) for it in people]
    assert not (await learn(service, tmp_path, pictures, purpose="recognize")).failed
    assert len(forgotten) == 2
    assert len(service.uploads) == len(set(service.keys)) == 32


async def test_an_answer_that_never_comes_is_a_failure(tmp_path: Path, people: list[PictureFile]) -> None:
    service = Service()
    service.refuse = lambda request: refusal(404, "not_found") if "/results/" in request.path else None
    pictures = [PictureFile(it.photo, it.name) for it in people[:2]]
    assert (await learn(service, tmp_path, pictures, purpose="recognize")).failed
    assert len(service.uploads) == 2 * bulk.ATTEMPTS


async def test_a_picture_erased_during_the_run_is_learned_only_by_the_next_run(
    tmp_path: Path, people: list[PictureFile]
) -> None:
    service = Service()
    service.refuse = lambda request: refusal(404, "not_found") if "/results/" in request.path else None
    assert (await learn(service, tmp_path, people[:2])).failed
    assert len(service.uploads) == 2
    service.refuse = lambda request: None
    assert not (await learn(service, tmp_path, people[:2])).failed
    assert service.persons == {"p00", "p01"}


async def test_a_busy_full_or_restarting_service_is_asked_again(tmp_path: Path, people: list[PictureFile]) -> None:
    service = Service()
    replies = iter([429, 503, 507, 502] * 10)

    def refuse(request: web.Request) -> web.Response | None:
        status = next(replies, None)
        if status == 502:
            return web.Response(status=502, text="<html>Bad gateway")
        return None if status is None else refusal(status, "x", "busy")

    service.refuse = refuse
    assert not (await learn(service, tmp_path, people)).failed
    assert len(service.uploads) == 30


async def test_a_long_outage_ends_the_run_and_no_picture_counts_as_failed(
    tmp_path: Path, people: list[PictureFile], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bulk_client, "PATIENCE_S", 0.2)
    monkeypatch.setattr(bulk_client, "TOLD_AFTER_S", 0.05)
    service = Service()

    def refuse(request: web.Request) -> web.Response | None:
        return refusal(503, "unavailable", "the log is away") if len(service.uploads) >= 5 else None

    service.refuse = refuse
    report = BulkReport("learn", None, as_json=True)
    with pytest.raises(Unavailable, match="the log is away"):
        await learn(service, tmp_path, people, report=report)
    assert not report.failed
    err = capfd.readouterr().err
    assert err.count("the log is away; trying again") == 1
    assert "left" in err
    service.refuse = lambda request: None
    assert not (await learn(service, tmp_path, people)).failed
    assert len(service.uploads) == 30


async def test_a_connection_that_is_lost_is_made_again(tmp_path: Path, people: list[PictureFile]) -> None:
    service = Service()
    lost = iter(range(10))

    def refuse(request: web.Request) -> web.Response | None:
        if next(lost, None) is not None:
            assert request.transport is not None
            request.transport.close()
        return None

    service.refuse = refuse
    assert not (await learn(service, tmp_path, people)).failed
    assert service.persons == {it.person for it in people}


@pytest.mark.parametrize(
    ("status", "error"), [(401, ConfigurationError), (403, ConfigurationError), (400, InvalidRequest)]
)
async def test_what_is_wrong_for_every_picture_ends_the_run(
    tmp_path: Path, people: list[PictureFile], status: int, error: type[Exception]
) -> None:
    service = Service()
    service.refuse = lambda request: refusal(status, detail="this is wrong")
    with pytest.raises(error, match="this is wrong"):
        await learn(service, tmp_path, people)


async def test_one_malformed_picture_does_not_end_the_run(tmp_path: Path, people: list[PictureFile]) -> None:
    service = Service()
    service.refuse = lambda request: (
        refusal(400, "invalid_request", "no") if request.method == "POST" and len(service.uploads) == 7 else None
    )

    def once(request: web.Request) -> web.Response | None:
        refused = only(request)
        if refused is not None:
            service.refuse = lambda request: None
        return refused

    only, service.refuse = service.refuse, once
    report = await learn(service, tmp_path, people)
    assert report.failed
    assert len(service.uploads) == 29


def test_only_one_process_can_use_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(ConfigurationError, match="already running"), Journal(path):
        pass
    with Journal(path):
        pass


def test_a_journal_with_an_incomplete_last_line_can_be_read(tmp_path: Path, people: list[PictureFile]) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        run = journal.run
        for item in people[:2]:
            journal.add_accepted(item, version_of(item.photo), 0, f"image of {item.person}")
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-cut])
        with Journal(path) as journal:
            assert journal.run == run
            assert journal.entry(people[1]) is None
            journal.add_accepted(people[1], version_of(people[1].photo), 3, "new")
        with Journal(path) as journal:
            entries = [journal.entry(item) for item in people[:2]]
            assert [(it.attempt, it.image_id) for it in entries if it] == [(0, "image of p00"), (3, "new")]


def test_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="XDG_STATE_HOME"), Journal(tmp_path / "file" / "journal.jsonl"):
        pass


def test_a_journal_stores_paths_that_are_not_valid_unicode(tmp_path: Path) -> None:
    photo = str(tmp_path / b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
    Path(photo).touch()
    item = PictureFile(photo, photo, "Ann")
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.add_answered(item, version_of(photo), 0, 201, learned())
    with Journal(tmp_path / "journal.jsonl") as journal:
        entry = journal.entry(item)
        assert entry is not None
        assert journal.read_body(entry, "learn") == learned()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_every_command_has_its_journal(tmp_path: Path, state: Path) -> None:
    same: dict[str, Any] = {"service": "s", "purpose": "learn", "fields": {"directory": "d"}, "source": tmp_path}
    path = journal_path(**same)
    assert path.is_relative_to(state)
    (tmp_path / "link").symlink_to(tmp_path)
    assert journal_path(**same | {"source": tmp_path / "link"}) == path
    others: tuple[dict[str, Any], ...] = (
        {"service": "t"},
        {"purpose": "recognize"},
        {"fields": {"directory": "e"}},
        {"source": tmp_path / "other"},
    )
    assert len({path, *(journal_path(**same | it) for it in others)}) == 5
