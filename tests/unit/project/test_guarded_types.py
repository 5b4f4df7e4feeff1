"""mypy proves which code can put: the ports of stages and routes can only read, or read and delete; only the guarded
store puts.
"""

import re
from pathlib import Path

import mypy.api
import pytest

ROOT = Path(__file__).parents[3]
CONFIGURATION = f"""\
[mypy]
mypy_path = {ROOT}
strict = True
plugins = pydantic.mypy
follow_imports = silent
ignore_missing_imports = True

[mypy-torch.*,torchvision.*,aiokafka.*,cassandra.*]
follow_imports = skip
"""
# Each line that ends with "# refused" must be an error, and no other line may be one.
CODE = """\
from backends.log import NewRecord
from backends.objects import ObjectDeleter, ObjectReader
from backends.vectors import FaceVector, StoredAnswer, VectorDeleter, VectorReader
from ingest.acceptor import UploadAcceptor
from ingest.service import Service
from processors.stages.base import ImageStage
from processors.stages.reembed import ReembedStage
from processors.stages.separate import DetectStage, EmbedStage
from schemas.object_metadata import ObjectMetadata
from schemas.records import FaceLearned, ImageReceived
from sink.answers import AnswerStage
from sink.erase import Eraser
from sink.sink import Sink
from stream.erase.erasures import Erasures
from stream.erase.guarded_store import AnswerToStore, GuardedStore, changelog_tombstones
from stream.sources import SourceCopier
from stream.topics import FACES_EMBEDDED, FACES_LEARNED


async def a_stage_puts_an_object(
    image: ImageStage,
    detect: DetectStage,
    embed: EmbedStage,
    reembed: ReembedStage,
    sources: SourceCopier,
    received: ImageReceived,
) -> None:
    await image._objects.put("key", b"data")  # refused
    await image._objects.delete(["key"])  # refused
    await detect._objects.put("key", b"data")  # refused
    await embed._objects.put("key", b"data")  # refused
    await reembed._objects.put("key", b"data")  # refused
    await sources._objects.put("key", b"data")  # refused
    await image._store.put(received, "key", b"data", {"directory": "acme"})  # refused
    await image._store.put(received, "key", b"data", ObjectMetadata("acme", received_at=1))


async def a_route_puts(acceptor: UploadAcceptor, service: Service, answer: StoredAnswer) -> None:
    await acceptor._objects.put("key", b"data")  # refused
    await service.objects.put("key", b"data")  # refused
    await service.vectors.put_answers([answer])  # refused
    await service.vectors.delete_answers(["image"])
    await acceptor._store.put_upload("key", b"data", ObjectMetadata("acme", received_at=1), if_absent=True)


async def the_sink_puts(
    sink: Sink, eraser: Eraser, answers: AnswerStage, face: FaceVector, answer: StoredAnswer
) -> None:
    await sink._vectors.put_faces([face])  # refused
    await sink._vectors.put_answers([answer])  # refused
    await answers._vectors.put_answers([answer])  # refused
    await answers._vectors.delete_answers(["image"])  # refused
    await eraser._objects.put("key", b"data")  # refused
    await eraser._vectors.put_answers([answer])  # refused
    await eraser._objects.delete(["key"])
    await sink._store.put_faces([face])


async def answers_are_stored(store: GuardedStore, answer: StoredAnswer, to_store: AnswerToStore) -> None:
    await store.put_answers([answer])  # refused
    await store.put_answers([to_store])


def somebody_makes_a_record_of_the_changelog(store: GuardedStore, face: FaceLearned) -> list[NewRecord]:
    NewRecord(FACES_LEARNED, face.image_id, face.encode(), face.directory)  # refused
    NewRecord(FACES_LEARNED, face.image_id, None)  # refused
    return [
        NewRecord(FACES_EMBEDDED, face.image_id, face.encode()),
        *store.changelog_records([face]),
        *changelog_tombstones([face.image_id], face.directory),
    ]


def a_guarded_store_is_made_of_what_cannot_put(
    reader: ObjectReader, deleter: ObjectDeleter, vectors: VectorReader, rows: VectorDeleter, erasures: Erasures
) -> None:
    GuardedStore(reader, vectors, erasures)  # refused
    GuardedStore(deleter, rows, erasures)  # refused
"""


def test_only_the_guarded_store_can_put(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    configuration, code = tmp_path / "mypy.ini", tmp_path / "who_puts.py"
    configuration.write_text(CONFIGURATION)
    code.write_text(CODE)
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("mypy")
    arguments = ["--config-file", str(configuration), "--cache-dir", str(cache), "--no-error-summary", str(code)]
    out, problems, _ = mypy.api.run(arguments)
    assert not problems, problems
    found = {int(line) for line in re.findall(r"who_puts\.py:(\d+): error", out)}
    wanted = {number for number, line in enumerate(CODE.splitlines(), 1) if line.endswith("# refused")}
    assert found == wanted, out


def test_few_files_have_a_port_that_can_put() -> None:
    """`Stores`, which commands open, has the whole ports: mypy does not see which command puts with them."""
    whole = re.compile(r"\b(ObjectStore|VectorStore)\b|objects\.put\(|vectors\.put_(faces|answers)\(")
    packages = ("facestream", "ingest", "processors", "sink", "stream", "weights")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in files if whole.search(path.read_text())} == {
        "facestream/admin/api_keys.py",
        "facestream/commands/keys.py",
        "facestream/commands/models/add.py",  # the file of a network
        "facestream/runtime/stores.py",
        "stream/erase/guarded_store.py",
    }
