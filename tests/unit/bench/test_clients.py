"""The checks of bench.clients, against a service that is not there for a moment."""

import asyncio
from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import clients
from bench.clients import ClientReport, Clients


@dataclass
class OneUrl:
    urls: list[str]


@dataclass
class Service:
    """Answers 503 to uploads, and to the first GET of each path. Then there are a result and a person."""

    result: int = 200
    faces: int = 1

    def __post_init__(self) -> None:
        self.asked: set[str] = set()

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "POST" or request.path not in self.asked:
            self.asked.add(request.path)
            return web.json_response({"code": "unavailable"}, status=503)
        if request.path.startswith("/results/"):
            return web.json_response({"status": "OK"}, status=self.result)
        return web.json_response({"persons": [{"id": "person-1", "faces": self.faces}]})


async def check(service: Service) -> list[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.answer)
    report = ClientReport(learned={"person-1"}, accepted={"image-1"})
    async with TestServer(app) as server:
        urls = OneUrl([str(server.make_url("")).rstrip("/")])
        async with Clients(urls, [b""], report, directory="d", seed=0, clients=1) as running:
            await running.check()
    return report.wrong


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "RETRY_S", 0.01)


async def test_a_replica_that_has_not_reconnected_is_asked_again() -> None:
    assert await asyncio.wait_for(check(Service()), 20) == []


async def test_a_lost_answer_and_a_face_twice_are_found() -> None:
    assert await asyncio.wait_for(check(Service(result=404, faces=2)), 20) == [
        "the accepted image image-1 ended in 404: {'status': 'OK'}",
        "person-1 has 2 faces of one picture",
    ]
