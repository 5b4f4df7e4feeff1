"""API keys: what each allows, and that no secret is stored."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.sqlite.vectors import SqliteVectors
from backends.vectors import ApiKey
from ingest import keys
from ingest.keys import Access, KeyChecker, create_key
from schemas.errors import Forbidden, Unauthorized


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SqliteVectors]:
    store = SqliteVectors(tmp_path / "vectors.db")
    yield store
    await store.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keys, "time", clock)
    return clock


async def add(vectors: SqliteVectors, scope: str = "admin", directory: str | None = None) -> tuple[str, ApiKey]:
    text, key = create_key(scope, directory)
    await vectors.put_api_key(key)
    return text, key


async def test_without_any_key_everybody_may_do_everything(vectors: SqliteVectors) -> None:
    for text in (None, "", "fs_nonsense"):
        access = await KeyChecker(vectors).check(text)
        access.require_scope("admin")
        assert access.allows("any directory")


async def test_with_the_first_key_everybody_needs_one(vectors: SqliteVectors) -> None:
    text, _ = await add(vectors)
    access = await KeyChecker(vectors).check(text)
    access.require_scope("admin")
    for without in (None, ""):
        with pytest.raises(Unauthorized):
            await KeyChecker(vectors).check(without)


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [("recognize", ["recognize"]), ("learn", ["recognize", "learn"]), ("admin", ["recognize", "learn", "admin"])],
)
async def test_each_scope_includes_those_before_it(vectors: SqliteVectors, scope: str, allowed: list[str]) -> None:
    text, _ = await add(vectors, scope)
    access = await KeyChecker(vectors).check(text)
    for wanted in ("recognize", "learn", "admin"):
        if wanted in allowed:
            access.require_scope(wanted)
        else:
            with pytest.raises(Forbidden, match=wanted):
                access.require_scope(wanted)


async def test_a_key_of_a_directory_gives_access_to_no_other(vectors: SqliteVectors) -> None:
    text, _ = await add(vectors, directory="acme")
    access = await KeyChecker(vectors).check(text)
    access.require_directory("acme")
    assert access.allows("acme")
    for other in ("other", "", None):
        assert not access.allows(other)
        with pytest.raises(Forbidden):
            access.require_directory(other)


def test_a_key_without_directory_sees_all() -> None:
    assert Access().allows(None)
    assert Access().allows("acme")


async def test_anything_but_the_very_key_is_refused(vectors: SqliteVectors) -> None:
    text, key = await add(vectors)
    other_text, _ = await add(vectors)
    secret = text.removeprefix(f"fs_{key.key_id}_")
    wrong = [
        text[:-1],
        text + "x",
        text.upper(),
        f"fs_{key.key_id}_",
        f"fs_{key.key_id}",
        f"xx_{key.key_id}_{secret}",
        f"fs_{key.key_id}_{other_text.split('_', 2)[2]}",
        f"fs_{key.key_id}_{key.secret_hash}",
        f"fs__{secret}",
        secret,
        f"fs_{key.key_id}_\udcff",
        f"fs_{key.key_id}_ключ",
        "\x00",
    ]
    checked = KeyChecker(vectors)
    for each in wrong:
        with pytest.raises(Unauthorized):
            await checked.check(each)
    await checked.check(text)


async def test_a_new_and_a_revoked_key_count_within_the_refresh(vectors: SqliteVectors, clock: Clock) -> None:
    first, _ = await add(vectors)
    checked = KeyChecker(vectors)
    await checked.check(first)
    second, key = await add(vectors)
    clock.now += keys.REFRESH_S + 0.01
    await checked.check(second)
    assert await vectors.delete_api_key(key.key_id)
    clock.now += keys.REFRESH_S + 0.01
    with pytest.raises(Unauthorized):
        await checked.check(second)
    await checked.check(first)


async def test_keys_are_read_from_the_store_once_per_refresh(vectors: SqliteVectors, clock: Clock) -> None:
    reads = 0
    read = vectors.api_keys

    async def counted() -> list[ApiKey]:
        nonlocal reads
        reads += 1
        return await read()

    vectors.api_keys = counted  # type: ignore[method-assign]
    text, _ = await add(vectors)
    checked = KeyChecker(vectors)
    for _ in range(20):
        await checked.check(text)
        clock.now += 0.1
    assert reads <= 2
    assert keys.REFRESH_S <= 2


def everything_in(folder: Path) -> bytes:
    return b"".join(it.read_bytes() for it in folder.iterdir())


async def test_a_secret_is_nowhere_on_disk(vectors: SqliteVectors, tmp_path: Path) -> None:
    made = [await add(vectors, "learn", "acme") for _ in range(5)]
    await vectors.close()
    content = await asyncio.to_thread(everything_in, tmp_path)
    for text, key in made:
        secret = text.removeprefix(f"fs_{key.key_id}_")
        assert key.key_id.encode() in content
        assert secret.encode() not in content
        assert text.encode() not in content
        assert secret not in repr(key)


def test_keys_are_long_and_differ() -> None:
    made = [create_key("admin", None) for _ in range(50)]
    assert len({text for text, _ in made}) == 50
    assert len({key.secret_hash for _, key in made}) == 50
    for text, key in made:
        assert len(text.removeprefix(f"fs_{key.key_id}_")) >= 43  # 256 bits in base64
