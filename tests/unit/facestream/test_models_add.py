"""`facestream models add`: the trial, the file in the store, the record in the topic, and refused networks."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import structlog
import torch
from onnx import helper, numpy_helper
from PIL import Image

from facestream.admin.onnx_trial import draw_face
from facestream.cli import main
from facestream.config import Settings
from facestream.runtime.roles.process import fetch_embedder
from facestream.runtime.stores import Stores, create_stores, open_stores
from processors.align import warp_chip
from schemas.errors import WeightsInvalid
from schemas.generation_records import Generation
from stream.generations import Generations, generation_record
from tests.onnx_files import CPU, DIMENSION, SIDE, SmallEmbedder, exported, of_graph, write_resnet29, write_small
from weights.manifest import manifest

LIKE_ARCFACE = ("--input", "112", "--template", "arcface", "--range", "-1..1")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Add = Callable[..., Awaitable[Done]]


@pytest.fixture(autouse=True)
def loud_again() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # `main` sends the logs to the stderr of the moment


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    """The stores of a running service."""
    async with open_stores(Settings(data=tmp_path / "data")) as stores:
        await create_stores(stores)
        yield stores


@pytest.fixture
def add(stores: Stores, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Add:
    """Runs the command as another process would, beside the stores that the test has open."""

    def command(arguments: Sequence[str]) -> int:
        try:
            return main(["models", "add", *arguments, "--data", str(tmp_path / "data"), "--device", "cpu"])
        except SystemExit as ended:
            return int(ended.code or 0)

    async def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = await asyncio.to_thread(command, [str(it) for it in arguments])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("onnx") / "model.onnx")


async def known(stores: Stores) -> dict[str, Generation]:
    generations = Generations(stores.log, manifest().generation(manifest().default_generation))
    await generations.start()
    await generations.close()
    return {it.name: it for it in generations.all}


async def stored(stores: Stores) -> list[str]:
    return [info.key async for info in stores.objects.list("models/")]


@pytest.fixture(scope="module")
def content(file: Path) -> bytes:
    return file.read_bytes()


async def test_a_model_is_tried_stored_and_announced(add: Add, stores: Stores, file: Path, content: bytes) -> None:
    done = await add("mine", file, *LIKE_ARCFACE, "--channels", "bgr", "--mirror")
    assert done.code == 0, done.err
    assert f"{DIMENSION} numbers a face" in done.out
    assert "next: facestream reembed mine" in done.out
    generation = (await known(stores))["mine"]
    assert (generation.state, generation.template, generation.dimension) == ("added", "arcface-112", DIMENSION)
    assert (generation.detector, generation.embedder, generation.mirror) == ("centerface", "mine", True)
    assert (generation.threshold, generation.calibration) == (None, None)
    assert generation.onnx is not None
    assert generation.onnx.sha256 == hashlib.sha256(content).hexdigest()
    assert (generation.onnx.channels, generation.onnx.side, generation.onnx.offset) == ("bgr", 112, -1)
    assert generation.onnx.scale * 255 == pytest.approx(2)
    assert (await stores.objects.get(generation.onnx.object_key)).data == content
    assert await stored(stores) == [f"models/{generation.onnx.sha256}.onnx"]


async def test_the_json_output_has_the_results_of_the_trial(
    add: Add, stores: Stores, file: Path, content: bytes
) -> None:
    done = await add("mine", file, *LIKE_ARCFACE, "--json")
    found = json.loads(done.out)
    assert (found["name"], found["sha256"]) == ("mine", hashlib.sha256(content).hexdigest())
    assert (found["dimension"], found["device"]) == (DIMENSION, "cpu")


async def test_a_processor_makes_the_embedder_from_the_record(
    add: Add, stores: Stores, file: Path, tmp_path: Path
) -> None:
    assert (await add("mine", file, *LIKE_ARCFACE)).code == 0
    generation = (await known(stores))["mine"]
    load = await fetch_embedder(Settings(data=tmp_path / "data"), stores.objects, CPU, torch.float32, generation)
    chip = warp_chip(*draw_face(0), generation.template)
    expected = SmallEmbedder()(torch.from_numpy(chip).permute(2, 0, 1)[None] / 127.5 - 1).numpy()
    np.testing.assert_allclose(load().embed([chip]), expected, atol=1e-5)

    assert generation.onnx is not None
    await stores.objects.put(generation.onnx.object_key, exported(SmallEmbedder(seed=1), SIDE))
    load = await fetch_embedder(Settings(data=tmp_path / "data"), stores.objects, CPU, torch.float32, generation)
    with pytest.raises(WeightsInvalid, match="sha256 differs"):
        load()


async def test_the_trial_prints_the_similarities_of_a_photo(
    add: Add, stores: Stores, weights_folder: Path, photos: Path, tmp_path: Path
) -> None:
    file = write_resnet29(tmp_path / "resnet29.onnx", weights_folder)
    like_dlib = ("--input", "150", "--template", "dlib", "--range", "0..255", "--try", photos / "obama.jpg")
    done = await add("dlib-again", file, *like_dlib, "--weights", weights_folder)
    assert done.code == 0, done.err
    words = next(line for line in done.out.splitlines() if line.startswith("similarity")).split()
    same, other = float(words[1]), float(words[7])
    assert same > 0.99 > other


async def test_a_model_with_a_fixed_batch_is_added_with_flags_that_have_an_equals_sign(
    add: Add, stores: Stores, tmp_path: Path
) -> None:
    file = write_small(tmp_path / "fixed.onnx", dimension=7, batch=1)
    done = await add("mine", file, "--input=112", "--template=arcface", "--range=-0.5..0.5")
    assert done.code == 0, done.err
    generation = (await known(stores))["mine"]
    assert generation.dimension == 7
    assert generation.onnx is not None
    assert generation.onnx.scale * 255 == pytest.approx(1)
    assert generation.onnx.offset == -0.5


@pytest.mark.parametrize("name", ["mine", "dlib-resnet29", "dlib-resnet29-mirror", "gone"])
async def test_a_name_is_used_once(add: Add, stores: Stores, file: Path, name: str) -> None:
    assert (await add("mine", file, *LIKE_ARCFACE)).code == 0
    retired = (await known(stores))["mine"].model_copy(update={"name": "gone", "state": "retired"})
    await stores.log.append([generation_record(retired)])
    before = await known(stores)
    done = await add(name, write_small(file.with_name("other.onnx"), seed=1), *LIKE_ARCFACE)
    assert done.code == 2
    assert f"generation '{name}' is" in done.err
    assert await known(stores) == before
    assert len(await stored(stores)) == 1


SHAPE = ["batch", 3, SIDE, SIDE]
MEAN = helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)


def of(*nodes: object) -> bytes:
    return of_graph([MEAN, *nodes], {"x": list(SHAPE)}, {"y": ["batch", "dimension"]}, AXIS)


AXIS = numpy_helper.from_array(np.array(0), "axis")
UNFIT = {
    "not onnx": (b"no network", "this is no ONNX file"),
    "nan": (of(helper.make_node("Sub", ["m", "m"], ["z"]), helper.make_node("Div", ["z", "z"], ["y"])), "not finite"),
    "constant": (
        of(helper.make_node("Sub", ["m", "m"], ["z"]), helper.make_node("Exp", ["z"], ["y"])),
        "the same vector for different faces",
    ),
    "nothing": (of(helper.make_node("Sub", ["m", "m"], ["y"])), "the same vector for different faces"),
    "random": (
        of(helper.make_node("RandomNormalLike", ["m"], ["r"]), helper.make_node("Add", ["m", "r"], ["y"])),
        "a different vector each time",
    ),
    "mixed up in a batch": (of(helper.make_node("CumSum", ["m", "axis"], ["y"])), "other vectors than for each alone"),
}


@pytest.mark.parametrize("name", list(UNFIT))
async def test_a_model_that_fails_the_trial_is_refused(add: Add, stores: Stores, tmp_path: Path, name: str) -> None:
    content, message = UNFIT[name]
    (tmp_path / "unfit.onnx").write_bytes(content)
    done = await add("mine", tmp_path / "unfit.onnx", *LIKE_ARCFACE)
    assert done.code == 1
    assert message in done.err
    assert "mine" not in await known(stores)
    assert await stored(stores) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Mine"}, "'Mine' is no name of a generation"),
        ({"name": "a/b"}, "'a/b' is no name of a generation"),
        ({"--input": "8"}, "--input 8"),
        ({"--template": "retina"}, "--template retina: it is one of dlib, arcface"),
        ({"--range": "1"}, "--range 1:"),
        ({"--range": "1..-1"}, "--range 1..-1:"),
        ({"--range": "0..nan"}, "--range 0..nan:"),
        ({"--range": "-1e308..1e308"}, "--range -1e308..1e308:"),
        ({"--range": "0..inf"}, "--range 0..inf:"),
        ({"--input": "1" + "0" * 400}, "--input 1"),
        ({"--try": "/nowhere.jpg"}, "/nowhere.jpg cannot be read"),
        ({"file": "/nowhere.onnx"}, "/nowhere.onnx cannot be read: No such file or directory"),
    ],
)
async def test_a_command_line_that_is_wrong_says_where(
    add: Add, stores: Stores, file: Path, change: dict[str, str], message: str
) -> None:
    given = {"name": "mine", "file": str(file), "--input": "112", "--template": "arcface", "--range": "-1..1"} | change
    flags = [part for key, value in given.items() if key.startswith("--") for part in (key, value)]
    done = await add(given["name"], given["file"], *flags)
    assert done.code == 2
    assert message in done.err
    assert "mine" not in await known(stores)


async def test_a_trial_with_a_picture_without_a_face_is_refused(
    add: Add, stores: Stores, file: Path, weights_folder: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "grey.png")
    done = await add("mine", file, *LIKE_ARCFACE, "--try", tmp_path / "grey.png", "--weights", weights_folder)
    assert done.code == 1
    assert "no face was found" in done.err
    assert await stored(stores) == []
