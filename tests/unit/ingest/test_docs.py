"""The document and its page are served without a key, and the page loads only files that are served here."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingest.keys import create_key
from schemas.openapi import FILE
from tests.unit.ingest.served import Served, served


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Served]:
    """A service that requires a key."""
    async with served(tmp_path / "data") as service:
        await service.stores.vectors.put_api_key(create_key("admin", None)[1])
        yield service


async def test_the_document_is_served_without_a_key(service: Served) -> None:
    assert (await service.get("/directories"))[0] == 401
    async with service.session.get("/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert await response.json() == json.loads(FILE.read_text())


async def test_the_page_loads_only_what_is_served_here(service: Served) -> None:
    async with service.session.get("/docs") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        policy, page = response.headers["Content-Security-Policy"], await response.text()
    assert "default-src 'none'; script-src 'self';" in policy
    assert "http" not in page
    assert not re.findall(r"<script>|on\w+=", page)
    files = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(files) == 4
    for file in files:
        async with service.session.get(f"/{file}") as response:
            assert response.status == 200, file
            assert response.content_type in ("text/css", "text/javascript", "image/png")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert await response.read()


@pytest.mark.parametrize("name", ["unknown.js", "index.html", "%2e%2e%2f__init__.py", "..%2f__init__.py"])
async def test_no_other_file_of_the_package_is_served(service: Served, name: str) -> None:
    assert (await service.get(f"/docs/{name}"))[0] == 404
