"""Clocks that are wrong: a process that was started with one, and replicas whose clocks differ. Who is erased stays
erased, and who is learned again is recognized.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from bench.serving import Serving
from bench.stores import temporary_stores
from tests.conftest import ROOT
from tests.e2e.conftest import Client

CLOCKS = ("+400d", "+0d", "-1d")


@pytest.fixture(scope="session")
def faketime() -> str:
    """The library that gives a process another clock."""
    for folder in ("x86_64-linux-gnu", "aarch64-linux-gnu"):
        library = Path("/usr/lib") / folder / "faketime" / "libfaketimeMT.so.1"
        if library.exists():
            return str(library)
    pytest.skip("there is no faketime: apt-get install faketime")


def clock(monkeypatch: pytest.MonkeyPatch, library: str, offset: str) -> None:
    """Processes that are made from now on have this clock. Durations are not changed."""
    monkeypatch.setenv("LD_PRELOAD", library)
    monkeypatch.setenv("FAKETIME", offset)
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")


async def learn(client: Client, photos: Path, person: str, directory: str) -> None:
    status, body, _ = await client.post("/learn", photos / f"{person}.jpg", person=person, directory=directory)
    assert status in (200, 201), body


async def named(client: Client, photo: Path, directory: str) -> str | None:
    status, body, _ = await client.post("/recognize", photo, directory=directory)
    assert status == 200, body
    return str(body["persons"][0]["id"]) if body["persons"][0]["id"] is not None else None


async def erase(client: Client, person: str, directory: str) -> int:
    address = f"{client.url}/directories/{directory}/persons/{person}"
    async with client.session.delete(address) as response:
        assert response.status == 200, await response.text()
        return int((await response.json())["erased"]["faces"])


async def erased_and_learned_again(learning: Client, erasing: Client, photos: Path, directory: str) -> None:
    await learn(learning, photos, "obama", directory)
    await learn(learning, photos, "biden", directory)
    for one, other in ((learning, erasing), (erasing, learning)):
        assert await named(other, photos / "obama2.jpg", directory) == "obama"
        assert await erase(other, "obama", directory) == 1
        assert await named(one, photos / "obama2.jpg", directory) is None
        assert await named(one, photos / "biden.jpg", directory) == "biden"
        await learn(one, photos, "obama", directory)
    assert await named(erasing, photos / "obama2.jpg", directory) == "obama"


def nothing_left(environment: Mapping[str, str]) -> None:
    """What `facestream erase verify` says with the right clock."""
    command = [sys.executable, "-m", "facestream.cli", "erase", "verify"]
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for store in ("vectors", "answers", "objects"):
        assert f"{store}: nothing left" in done.stdout


async def test_a_start_with_a_clock_that_is_ahead_or_was_set_back_changes_nothing_about_erasures(
    tmp_path: Path, weights_folder: Path, small_photos: Path, faketime: str, dtype: str
) -> None:
    async with aiohttp.ClientSession() as session:
        for number, offset in enumerate(CLOCKS):
            with pytest.MonkeyPatch.context() as monkeypatch:
                clock(monkeypatch, faketime, offset)
                serving = Serving(tmp_path / "data", weights_folder, dtype=dtype)
            await asyncio.to_thread(serving.start)
            client = Client(session, serving.url)
            if number:  # what the last start left
                assert await named(client, small_photos / "obama2.jpg", "acme") == "obama"
            await erased_and_learned_again(client, client, small_photos, "acme")
            assert await asyncio.to_thread(serving.stop) == 0
    others = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    await asyncio.to_thread(nothing_left, others | {"FACESTREAM_DATA": str(tmp_path / "data")})


async def test_the_clocks_of_replicas_may_differ(
    services: Mapping[str, str],
    tmp_path: Path,
    weights_folder: Path,
    small_photos: Path,
    faketime: str,
    dtype: str,
) -> None:
    """On the real servers, with one HTTP service seven minutes ahead of them and one seven minutes behind."""
    data = tmp_path / "data"
    async with temporary_stores("clocks", services) as stores, aiohttp.ClientSession() as session:
        settings = {**stores, "dtype": dtype}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
        environment |= {f"FACESTREAM_{name.upper()}": value for name, value in settings.items() if name != "dtype"}
        environment["FACESTREAM_DATA"] = str(data)
        command = [sys.executable, "-m", "facestream.cli", "init"]
        await asyncio.to_thread(subprocess.run, command, cwd=ROOT, env=environment, check=True, capture_output=True)
        roles = [
            Serving(data, weights_folder, command=("process",), name="process", **settings),
            Serving(data, weights_folder, command=("sink",), name="sink", **settings),
        ]
        for name, offset in (("ahead", "+7m"), ("behind", "-7m")):
            with pytest.MonkeyPatch.context() as monkeypatch:
                clock(monkeypatch, faketime, offset)
                roles.append(Serving(data, weights_folder, command=("ingest",), name=name, **settings))
        try:
            await asyncio.gather(*(asyncio.to_thread(it.start) for it in roles))
            ahead, behind = (Client(session, it.url) for it in roles[2:])
            await erased_and_learned_again(ahead, behind, small_photos, "acme")
            await erased_and_learned_again(behind, ahead, small_photos, "other")
        finally:
            codes = [await asyncio.to_thread(it.stop) for it in roles]
        assert codes == [0] * len(roles)
        await asyncio.to_thread(nothing_left, environment)
    shutil.rmtree(data)
