"""Health, readiness and metrics, on the separate address of a role and on the service."""

import re
import uuid
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY, Counter

from ingest.keys import create_key as create_key
from schemas.errors import Unavailable
from stream.health_routes import Checks, health_app
from tests.unit.ingest.served import served

SEEN = Counter("facestream_test_watching_total", "Something that a test counts", ["what"])


async def well() -> None:
    """A check that always succeeds."""


async def ill() -> None:
    raise Unavailable("the store is away")


async def broken() -> None:
    raise RuntimeError("a defect")


@pytest.mark.parametrize(
    ("checks", "status", "said"),
    [
        ({}, 200, {}),
        ({"log": well, "sink": well}, 200, {"log": "OK", "sink": "OK"}),
        (
            {"log": well, "objects": ill, "sink": broken},
            503,
            {"log": "OK", "objects": "the store is away", "sink": "a defect"},
        ),
    ],
)
async def test_readiness_has_the_result_of_each_check_and_health_is_always_ok(
    checks: Checks, status: int, said: dict[str, str]
) -> None:
    async with TestClient(TestServer(health_app(checks))) as client:
        async with client.get("/readyz") as response:
            assert response.status == status
            assert (await response.json())["checks"] == said
        async with client.get("/healthz") as response:
            assert response.status == 200


async def test_a_process_is_ready_again_when_its_store_is_back(tmp_path: Path) -> None:
    away = True

    async def store() -> None:
        if away:
            raise Unavailable("the store is away")

    async with TestClient(TestServer(health_app({"objects": store}))) as client:
        async with client.get("/readyz") as response:
            assert response.status == 503
        away = False
        async with client.get("/readyz") as response:
            assert response.status == 200


async def test_metrics_are_in_the_format_of_prometheus() -> None:
    SEEN.labels('a "hostile"\nname').inc(3)
    async with TestClient(TestServer(health_app({}))) as client, client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    assert 'facestream_test_watching_total{what="a \\"hostile\\"\\nname"} 3.0' in text.splitlines()
    for name in ("facestream_lag_records", "facestream_http_requests_total", "process_resident_memory_bytes"):
        assert f"\n# TYPE {name} " in text
    assert "_created" not in text


async def test_the_metrics_of_the_service_are_public_only_while_there_are_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.keys.REFRESH_S", -1.0)
    async with served(tmp_path / "data", checks={"log": well, "objects": ill}) as service:
        assert (await service.get("/metrics"))[0] == 200
        texts = {}
        for scope in ("learn", "admin"):
            texts[scope], key = create_key(scope, None)
            await service.stores.vectors.put_api_key(key)
        for headers, status in ({}, 401), ({"x-api-key": texts["learn"]}, 403), ({"x-api-key": texts["admin"]}, 200):
            assert (await service.get("/metrics", **headers))[0] == status
        assert (await service.get("/healthz"))[0] == 200  # these need none
        status, text = await service.get("/readyz")
        assert status == 503
        assert "the store is away" in text


def requests_of(route: str, status: int) -> float:
    return REGISTRY.get_sample_value("facestream_http_requests_total", {"route": route, "status": str(status)}) or 0.0


async def test_requests_are_counted_by_the_pattern_of_their_route(tmp_path: Path) -> None:
    before = {key: requests_of(*key) for key in COUNTED}
    image_ids = [str(uuid.uuid4()) for _ in range(5)]
    async with served(tmp_path / "data") as service:
        for image_id in image_ids:
            assert (await service.get(f"/results/{image_id}"))[0] == 404
            assert (await service.get(f"/files/{image_id}.jpg"))[0] == 404
            assert (await service.get(f"/{image_id}"))[0] == 404
            assert (await service.get(f"/directories/{image_id}/persons"))[0] == 200
        async with service.session.post("/healthz") as response:
            assert response.status == 405
        assert (await service.detect(Prefer="respond-async"))[0] == 202
        metrics = (await service.get("/metrics"))[1]
    after = {key: requests_of(*key) for key in COUNTED}
    assert {key: after[key] - before[key] for key in COUNTED} == COUNTED
    assert not any(image_id in metrics for image_id in image_ids)
    assert re.search(r'^facestream_http_request_seconds_count\{route="POST /detect"\} \d', metrics, re.MULTILINE)
    assert re.search(r'^facestream_uploaded_bytes_total\{purpose="detect"\} \d', metrics, re.MULTILINE)
    assert "\nfacestream_http_requests_in_flight 1.0\n" in metrics  # the one for the metrics


COUNTED = {
    ("GET /results/{image_id}", 404): 5.0,
    ("GET /files/{image_id}.{ext}", 404): 5.0,
    ("GET /directories/{directory}/persons", 200): 5.0,
    ("none", 404): 5.0,
    ("none", 405): 1.0,
    ("POST /detect", 202): 1.0,
}
