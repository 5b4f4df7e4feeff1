"""The generation that `facestream redetect` makes: the active one with another detector, under a new name."""

from collections.abc import AsyncIterator

import pytest

from backends.sqlite.log import SqliteLog
from facestream.commands.redetect import make_generation
from schemas.errors import ConfigurationError
from stream.generations import Generations, active_record, generation_record
from weights.manifest import manifest

ACTIVE = manifest().generation(manifest().default_generation)
OTHER = "centerface-mirror"


@pytest.fixture
async def generations(log: SqliteLog) -> AsyncIterator[Generations]:
    generations = Generations(log, ACTIVE)
    await generations.start()
    yield generations
    await generations.close()


async def test_the_generation_is_the_active_one_with_another_detector(log: SqliteLog, generations: Generations) -> None:
    wanted = make_generation(generations, OTHER, None)
    assert (wanted.name, wanted.detector, wanted.state) == (f"{ACTIVE.name}.{OTHER}", OTHER, "added")
    same = ("embedder", "mirror", "template", "dimension", "onnx", "threshold", "calibration")
    assert [getattr(wanted, it) for it in same] == [getattr(ACTIVE, it) for it in same]
    assert make_generation(generations, OTHER, "mine").name == "mine"
    await log.append([generation_record(wanted.model_copy(update={"state": "candidate"}))])
    await generations.refresh()
    assert make_generation(generations, OTHER, None).name == wanted.name  # the existing candidate is continued
    await log.append([active_record(wanted.name)])
    await generations.refresh()
    with pytest.raises(ConfigurationError, match="already"):
        make_generation(generations, OTHER, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dlib-resnet29", "another generation"),
        (ACTIVE.name, "another generation"),
        ("Mine", "no name"),
        ("a" * 65, "no name"),
    ],
)
async def test_a_taken_or_invalid_name_is_refused(generations: Generations, name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_generation(generations, OTHER, name)
