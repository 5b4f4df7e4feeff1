"""A backup beside a running service under load, and a restore, both killed at random moments."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from backends.files.objects import FileObjects
from bench.clients import ClientReport, Clients
from bench.serving import Serving
from bench.soak.kills import SingleService
from facestream.admin.backup import HEAD
from facestream.admin.gallery_file import read_faces
from tests.conftest import ROOT
from tests.e2e.conftest import PATIENCE_S, Client
from tests.portraits import jpeg, portrait

DIRECTORY = "kept"
KILLS = 3
FILLERS = 1_500  # objects, so that there is time to kill
pytestmark = pytest.mark.timeout(900)  # on a busy machine
PHOTOS = [jpeg(portrait(seed)) for seed in (2, 3, 5)]


def start(data: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    command = [sys.executable, "-m", "facestream.cli", *map(str, arguments), "--data", str(data)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(data: Path, *arguments: str | Path) -> str:
    process = start(data, *arguments)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return said


def run_and_kill(chance: random.Random, under_way: Callable[[], bool], data: Path, *arguments: str | Path) -> bool:
    """Runs a command and kills it some time after it has begun to write. Returns whether it was killed."""
    with start(data, *arguments) as process:
        while process.poll() is None and not under_way():
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.6))
        process.kill()
        process.communicate()
        return process.returncode == -signal.SIGKILL


def has_more(folder: Path, known: set[Path]) -> bool:
    return set(folder.glob("facestream-files-*")) > known


async def fill(data: Path) -> None:
    objects = FileObjects(data / "objects")
    for begin in range(0, FILLERS, 100):
        await asyncio.gather(*(objects.put(f"models/{begin + it}", b"0" * 2_000) for it in range(100)))
    await objects.close()


def check_pictures(data: Path, people: set[str], file: Path) -> None:
    """Everybody has a crop and an original."""
    run(data, "export", file, "--directory", DIRECTORY)
    with_original = {it.face.person for it in read_faces(file) if it.original in PHOTOS}
    assert people <= with_original


async def test_a_backup_under_load_has_everything_that_was_acknowledged_and_nobody_who_was_erased(
    tmp_path: Path, weights_folder: Path
) -> None:
    data, saved = tmp_path / "data", tmp_path / "saved"
    chance, report = random.Random(1), ClientReport()
    await fill(data)
    serving = Serving(data, weights_folder, dtype="float32")
    await asyncio.to_thread(serving.start)
    async with (
        Clients(SingleService(serving), PHOTOS, report, directory=DIRECTORY, seed=1, clients=3) as clients,
        aiohttp.ClientSession() as session,
    ):
        killed = 0
        for _ in range(KILLS):
            writing = partial(has_more, saved, set(saved.glob("facestream-files-*")))
            killed += await asyncio.to_thread(run_and_kill, chance, writing, data, "backup", saved)
        assert killed
        async with asyncio.timeout(PATIENCE_S):
            while len(report.learned) < 8:  # noqa: ASYNC110 - clients in other tasks
                await asyncio.sleep(0.1)
        earlier = sorted(report.learned)
        async with session.delete(f"{serving.url}/directories/{DIRECTORY}/persons/{earlier[0]}") as response:
            assert response.status == 200
        acknowledged = set(report.learned) - {earlier[0]}
        await asyncio.to_thread(run, data, "backup", saved)
        for person in earlier[1:3]:
            async with session.delete(f"{serving.url}/directories/{DIRECTORY}/persons/{person}") as response:
                assert response.status == 200
        await clients.finish()
    assert report.wrong == []
    assert await asyncio.to_thread(serving.stop) == 0
    assert [it.name for it in saved.iterdir() if it.name != HEAD] == [json.loads((saved / HEAD).read_text())["folder"]]

    killed = 0
    for _ in range(KILLS):
        writing_there = (data / "objects" / ".restored").exists
        killed += await asyncio.to_thread(run_and_kill, chance, writing_there, data, "restore", "--yes", saved)
        listed = await asyncio.to_thread(start, data, "keys", "list")
        said, _ = await asyncio.to_thread(listed.communicate)
        assert listed.returncode == 0 or "run `facestream restore` again" in said
    assert killed
    await asyncio.to_thread(run, data, "restore", "--yes", saved)

    await asyncio.to_thread(run, data, "erase", "verify")
    with Serving(data, weights_folder, dtype="float32") as serving:
        async with aiohttp.ClientSession() as session:
            client = Client(session, serving.url)
            _, listing, _ = await client.get(f"/directories/{DIRECTORY}/persons?limit=1000")
            people = {it["id"]: it["faces"] for it in listing["persons"]}
            assert acknowledged - set(earlier[1:3]) <= people.keys()
            assert set(earlier[:3]).isdisjoint(people)
            assert set(people.values()) == {1}
            for photo in PHOTOS:
                status, body, _ = await client.post("/recognize", photo, directory=DIRECTORY, strangers="1")
                assert status == 200
                assert body["persons"][0]["id"] not in {None, *earlier[:3]}
            status, body, _ = await client.post("/learn", PHOTOS[0], directory=DIRECTORY, person=earlier[1])
            assert status == 201
    await asyncio.to_thread(run, data, "erase", "verify")
    check_pictures(data, acknowledged - set(earlier[2:3]), tmp_path / "kept.tar")
