"""Other systems use Kafka and the bucket on the real servers. Runs the examples of docs/events.md."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from minio import Minio
from yarl import URL

from bench.cluster import Cluster
from bench.stores import delete_topics, temporary_stores
from schemas.ids import image_id_of_event
from tests.conftest import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = re.findall(
    r"^```(sh|python)\n(.*?)^```$", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE | re.DOTALL
)
PREFIX = "test-events."  # of the topics: MinIO's target TEST is of it, see scripts/services_start.py
PATIENCE_S = 60.0


class Outside:
    """Another system: it has the address of Kafka and a client of the S3 server."""

    def __init__(self, stores: dict[str, str], folder: Path) -> None:
        self.kafka = urlsplit(stores["log"].partition("?")[0]).netloc
        server = urlsplit(stores["objects"])
        self.bucket = server.path.strip("/")
        self.s3 = Minio(f"{server.hostname}:{server.port}", server.username, stores["objects_password"], secure=False)
        self._folder = folder

    async def put(self, name: str, picture: Path) -> None:
        await asyncio.to_thread(self.s3.fput_object, self.bucket, name, str(picture))

    def there(self) -> set[str]:
        return {it.object_name or "" for it in self.s3.list_objects(self.bucket, "incoming/", recursive=True)}

    async def example(self, part: str, *arguments: str) -> str:
        """Runs the example of the document that contains this text, with the test's addresses; returns its output."""
        ((kind, text),) = [(kind, text) for kind, text in EXAMPLES if part in text]
        text = text.replace("localhost:9092", self.kafka).replace(
            '"bucket": "facestream"', f'"bucket": "{self.bucket}"'
        )
        text = re.sub(r"\b(images\.received(\.bulk)?|results|dead-letters)\b", rf"{PREFIX}\1", text)
        if kind == "sh" and shutil.which("kcat") is None:
            pytest.skip("there is no kcat: apt-get install kcat")
        file = self._folder / f"example.{kind}"
        file.write_text(text)
        command = ["bash", "-euo", "pipefail", str(file)] if kind == "sh" else [sys.executable, str(file), *arguments]
        ran = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, errors="backslashreplace", timeout=PATIENCE_S
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    async def send(self, *values: bytes, topic: str = "images.received") -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka)
        await producer.start()
        for value in values:
            await producer.send_and_wait(PREFIX + topic, value)
        await producer.stop()

    async def first(self, topic: str, wanted: Callable[[ConsumerRecord], bool]) -> ConsumerRecord:
        """The first record from the start of a topic for which `wanted` is true."""
        consumer = AIOKafkaConsumer(PREFIX + topic, bootstrap_servers=self.kafka, auto_offset_reset="earliest")
        await consumer.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for record in consumer:
                    if wanted(record):
                        return record
            raise AssertionError("a consumer goes on without end")
        finally:
            await consumer.stop()

    async def answer(self, image_id: str) -> dict[str, Any]:
        return await self._answer(lambda it: it["image_id"] == image_id)

    async def answer_of(self, filename: str) -> dict[str, Any]:
        return await self._answer(lambda it: it["body"].get("filename") == filename)

    async def _answer(self, wanted: Callable[[Any], bool]) -> dict[str, Any]:
        record = await self.first("results", lambda it: wanted(json.loads(it.value)))
        answer: dict[str, Any] = json.loads(record.value)
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    services: dict[str, str], tmp_path_factory: pytest.TempPathFactory, weights_folder: Path
) -> AsyncIterator[tuple[Cluster, dict[str, str]]]:
    async with temporary_stores("test", services) as made:
        stores = made | {"log": f"{services['FACESTREAM_LOG']}?prefix={PREFIX}"}
        data = tmp_path_factory.mktemp("events") / "data"
        try:
            async with Cluster(stores, data, weights_folder, {}, decoders="1") as running:
                yield running, stores
        finally:
            await delete_topics(services["FACESTREAM_LOG"], PREFIX)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outside(
    cluster: tuple[Cluster, dict[str, str]], tmp_path_factory: pytest.TempPathFactory, small_photos: Path
) -> Outside:
    """Another system, and in the bucket the pictures that the examples of the document refer to."""
    outside = Outside(cluster[1], tmp_path_factory.mktemp("outside"))
    for name, photo in (("ann", "obama"), ("ann2", "obama2"), ("bob", "biden")):
        await outside.put(f"incoming/acme/{name}.jpg", small_photos / f"{photo}.jpg")
    return outside


async def test_any_reader_of_the_results_gets_the_answers_to_events(outside: Outside) -> None:
    learned = json.loads(await outside.example("# answer.py", await outside.example("# learn.py")))
    assert (learned["status"], learned["body"]["persons"][0]["id"], learned["body"]["filename"]) == (
        201,
        "Ann Lee",
        "ann.jpg",
    )
    recognized = json.loads(await outside.example("# answer.py", await outside.example("# binary.py")))
    assert (recognized["status"], recognized["body"]["persons"][0]["id"]) == (200, "Ann Lee")
    await outside.example("# structured.py")
    learned = await outside.answer(image_id_of_event("/cms/portraits", "bob-1"))
    assert (learned["status"], learned["body"]["persons"][0]["id"]) == (201, "Bob Hill")


async def test_kcat_sends_and_reads(outside: Outside) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("there is no kcat: apt-get install kcat")
    image_id = await outside.example("kcat -P")
    assert (await outside.answer(image_id))["body"]["persons"][0]["box"]
    assert image_id in {line.partition(" ")[0] for line in (await outside.example("-t results")).splitlines()}


async def test_invalid_events_become_dead_letters_and_processing_continues(outside: Outside) -> None:
    good = {
        "purpose": "detect",
        "directory": "acme",
        "source": {"bucket": outside.bucket, "key": "incoming/acme/ann.jpg"},
    }
    ids = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(5)]
    events = [
        b"\xff\xd8\xff",
        json.dumps(good | {"image_id": "not a uuid"}).encode(),
        json.dumps([{"specversion": "1.0", "type": "facestream.image.detect", "data": good}]).encode(),
        json.dumps(good | {"image_id": ids[0], "source": {"bucket": outside.bucket, "key": "originals/x"}}).encode(),
        json.dumps(
            good | {"image_id": ids[1], "source": {"bucket": outside.bucket, "key": "incoming/acme/none.jpg"}}
        ).encode(),
        json.dumps(good | {"image_id": ids[2]}).encode(),
        json.dumps(good | {"image_id": ids[3], "options": {"top": "abc"}}).encode(),
        json.dumps(good | {"image_id": ids[4], "purpose": "forget"}).encode(),
    ]
    await outside.send(*events)
    answers = [await outside.answer(image_id) for image_id in ids]
    assert [(it["status"], it["body"].get("code")) for it in answers] == [
        (403, "forbidden_source"),
        (422, "object_missing"),
        (200, None),
        (400, "invalid_event"),
        (400, "invalid_event"),
    ]
    assert [it["body"].get("field") for it in answers] == [None, None, None, "options.top", "purpose"]
    reasons = {0: "JSON: ", 1: "image_id", 2: "a record of its own", 3: "originals/x", 6: "options.top", 7: "purpose"}
    for number, reason in reasons.items():
        letter = await outside.first("dead-letters", partial(_has_value, events[number]))
        said = dict(letter.headers)
        assert letter.key is None
        assert reason in said["__connect.errors.exception.message"].decode()
        code = said["__facestream.errors.code"]
        assert code in ((b"invalid_event",) if number > 5 else (b"unreadable_record", b"forbidden_source"))
    if shutil.which("kcat") is not None:
        assert "__connect.errors.topic=images.received," in await outside.example("-t dead-letters")


def _has_value(value: bytes, record: ConsumerRecord) -> bool:
    return bool(record.value == value)


async def test_pictures_in_the_bucket_are_learned_recognized_and_deleted_when_erased(
    cluster: tuple[Cluster, dict[str, str]], outside: Outside, small_photos: Path
) -> None:
    running, stores = cluster
    environment = os.environ | {f"FACESTREAM_{name.upper()}": value for name, value in stores.items()}
    command = [sys.executable, "-m", "facestream.cli", "init", "--data", str(running.data), "--bucket-events", "TEST"]
    await asyncio.to_thread(subprocess.run, command, check=True, env=environment)
    await outside.put("incoming/böcket/learn/Ann + Lee/a b%.jpg", small_photos / "obama.jpg")
    learned = await outside.answer_of("a b%.jpg")
    assert (learned["status"], learned["directory"], learned["body"]["persons"][0]["id"]) == (
        201,
        "böcket",
        "Ann + Lee",
    )
    await outside.put("incoming/böcket/recognize/2026/seen.jpg", small_photos / "obama2.jpg")
    seen = await outside.answer_of("seen.jpg")
    assert (seen["status"], seen["body"]["persons"][0]["id"]) == (200, "Ann + Lee")
    url = URL(f"{running.urls[0]}/directories/b%C3%B6cket/persons/Ann%20%2B%20Lee", encoded=True)
    async with aiohttp.ClientSession() as session, session.delete(url) as response:
        assert response.status == 200
    left = await asyncio.to_thread(outside.there)
    assert {name for name in left if "böcket" in name} == {"incoming/böcket/recognize/2026/seen.jpg"}
