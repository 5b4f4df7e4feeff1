"""A user's own embedder: agreement with torch, the format of its input, batches, and files that are refused."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from processors.networks import TorchEmbedder
from processors.onnx_embedder import OnnxRuntimeEmbedder, load_onnx_embedder
from schemas import generation_records as generations
from schemas.arrays import Float32Array
from schemas.errors import ConfigurationError, WeightsInvalid
from tests.onnx_files import CPU, DIMENSION, SIDE, SmallEmbedder, exported, of_graph, write_resnet29
from weights.load import load_embedder

X: dict[str, list[str | int]] = {"x": ["batch", 3, SIDE, SIDE]}
MEANS = helper.make_node(
    "ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0
)  # of each channel: vectors of three numbers
Y: dict[str, list[str | int]] = {"y": ["batch", 3]}


def entry(content: bytes = b"", **members: object) -> generations.OnnxEmbedder:
    known: dict[str, object] = {
        "object_key": "models/x.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "side": SIDE,
    }
    return generations.OnnxEmbedder.model_validate(known | {"scale": 2 / 255, "offset": -1.0} | members)


def loaded(content: bytes, *, mirror: bool = False, **members: object) -> OnnxRuntimeEmbedder:
    return OnnxRuntimeEmbedder(content, entry(content, **members), CPU, mirror=mirror)


def pictures(count: int, side: int = SIDE) -> list[Float32Array]:
    return list(np.random.default_rng(0).uniform(0, 255, (count, side, side, 3)).astype(np.float32))


def by_torch(chips: list[Float32Array]) -> Float32Array:
    x = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2) / 127.5 - 1
    vectors: Float32Array = SmallEmbedder()(x).numpy()
    return vectors


@pytest.fixture(scope="module")
def small() -> bytes:
    return exported(SmallEmbedder(), SIDE)


def test_vectors_are_those_of_torch(small: bytes) -> None:
    vectors = loaded(small).embed(pictures(5))
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, DIMENSION)
    np.testing.assert_allclose(vectors, by_torch(pictures(5)), atol=1e-5)


def test_the_shipped_embedder_as_a_file_gives_the_same_vectors(weights_folder: Path, tmp_path: Path) -> None:
    content = write_resnet29(tmp_path / "model.onnx", weights_folder).read_bytes()
    shipped = TorchEmbedder(load_embedder(weights_folder, "dlib-resnet29", CPU, torch.float32), CPU, mirror=True)
    own = loaded(content, mirror=True, side=150, scale=1.0, offset=0.0)
    np.testing.assert_allclose(own.embed(pictures(2, 150)), shipped.embed(pictures(2, 150)), atol=1e-4)


def test_more_than_fit_in_one_forward_are_embedded_in_their_order(small: bytes) -> None:
    embedder = OnnxRuntimeEmbedder(small, entry(small), CPU, mirror=False, batch_size=2)
    np.testing.assert_allclose(embedder.embed(pictures(5)), by_torch(pictures(5)), atol=1e-5)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_network_of_one_face_at_a_time_gives_the_same_vectors(small: bytes, mirror: bool) -> None:
    one_by_one = loaded(exported(SmallEmbedder(), SIDE, batch=1), mirror=mirror)
    np.testing.assert_allclose(
        one_by_one.embed(pictures(3)), loaded(small, mirror=mirror).embed(pictures(3)), atol=1e-5
    )


def test_the_mirror_mean_is_the_mean_of_both(small: bytes) -> None:
    chips = pictures(3)
    both = by_torch(chips), by_torch([chip[:, ::-1].copy() for chip in chips])
    np.testing.assert_allclose(loaded(small, mirror=True).embed(chips), (both[0] + both[1]) / 2, atol=1e-5)


def test_a_network_of_bgr_gets_blue_first() -> None:
    red = np.zeros((SIDE, SIDE, 3), np.uint8)
    red[..., 0] = 255
    content = of_graph([MEANS], X, Y)
    np.testing.assert_allclose(loaded(content).embed([red])[0], [1, -1, -1], atol=1e-5)
    np.testing.assert_allclose(loaded(content, channels="bgr").embed([red])[0], [-1, -1, 1], atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_black_and_white_are_the_ends_of_the_range(low: float, high: float) -> None:
    ends = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 255)]
    embedder = loaded(of_graph([MEANS], X, Y), scale=(high - low) / 255, offset=low)
    np.testing.assert_allclose(embedder.embed(ends), [[low] * 3, [high] * 3], rtol=1e-5, atol=1e-6)


def test_bytes_and_a_tensor_are_the_same_chips(small: bytes) -> None:
    embedder = loaded(small, mirror=True)
    whole = [np.rint(chip).astype(np.uint8) for chip in pictures(2)]
    expected = embedder.embed([chip.astype(np.float32) for chip in whole])
    np.testing.assert_array_equal(embedder.embed(whole), expected)
    np.testing.assert_array_equal(embedder.embed(torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2)), expected)


def test_no_chips_are_a_mistake_of_the_caller(small: bytes) -> None:
    with pytest.raises(ValueError, match="no chips"):
        loaded(small).embed([])


def test_the_first_output_with_the_shape_of_a_vector_is_used() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["map"]), MEANS, helper.make_node("Neg", ["y"], ["z"])]
    content = of_graph(nodes, X, {"map": X["x"], **Y, "z": Y["y"]})
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    np.testing.assert_allclose(loaded(content).embed([white]), [[1, 1, 1]], atol=1e-5)


def test_a_network_with_half_precision_input_gets_float16() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["wide"], ["y"]),
    ]
    model = onnx.load_model_from_string(of_graph(nodes, X, {"y": ["batch", 3 * SIDE * SIDE]}))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    assert loaded(model.SerializeToString()).embed([white]).min() == 1


REFUSED = {
    "nothing": (b"", "no ONNX file"),
    "text": (b"a letter, not a network", "no ONNX file"),
    "no network": (onnx.ModelProto(ir_version=8).SerializeToString(), "there is no network in it"),
    "two inputs": (of_graph([helper.make_node("Add", ["x", "w"], ["z"]), MEANS], X | {"w": X["x"]}, Y), "has 2 inputs"),
    "another side": (of_graph([MEANS], {"x": ["batch", 3, 128, 128]}, Y), r"not \(batch, 3, 112, 112\)"),
    "channels last": (
        of_graph(
            [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)], {"x": ["batch", SIDE, SIDE, 3]}, Y
        ),
        r"\['batch', 112, 112, 3\], not \(batch, 3, 112, 112\)",
    ),
    "a vector in": (
        of_graph([helper.make_node("Identity", ["x"], ["y"])], {"x": ["batch", 3]}, Y),
        "wants input of shape",
    ),
    "four at once": (of_graph([MEANS], {"x": [4, 3, SIDE, SIDE]}, {"y": [4, 3]}), "always wants 4 faces at once"),
    "a map out": (of_graph([helper.make_node("Identity", ["x"], ["y"])], X, {"y": X["x"]}), "no output"),
    "unknown operation": (
        of_graph([helper.make_node("Learn", ["x"], ["y"])], X, Y),
        "ONNX Runtime does not take this network",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_an_embedder_is_refused(name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(WeightsInvalid, match=message):
        loaded(content)


def test_a_part_of_a_file_is_refused(small: bytes) -> None:
    with pytest.raises(WeightsInvalid, match="no ONNX file, or a part of it is missing"):
        loaded(small[: len(small) // 2])


def test_a_file_beyond_what_the_store_takes_is_refused(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processors.onnx_embedder.LARGEST_FILE", len(small) - 1)
    with pytest.raises(WeightsInvalid, match=f"the file has {len(small):,} bytes"):
        loaded(small)


@pytest.mark.parametrize("where", ["constant", "attribute", "inside a branch"])
def test_files_that_a_network_refers_to_are_not_read(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other file exists, so that reading it would succeed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.ones(3, np.float32).tobytes())
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="secret")
    constant, means = helper.make_node("Constant", [], ["w"], value=outside), helper.make_node("Add", ["m", "w"], ["y"])
    m = helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    branch = helper.make_graph([constant, means], "branch", [], [y])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    graph = {
        "constant": ([m, means], [outside]),
        "attribute": ([m, constant, means], []),
        "inside a branch": ([m, helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)], [yes]),
    }[where]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, X["x"])
    model = helper.make_model(helper.make_graph(graph[0], "embedder", [x], [y], graph[1]), ir_version=8)
    model.opset_import[0].version = 17
    with pytest.raises(WeightsInvalid, match="its weights are in other files"):
        loaded(model.SerializeToString())


def test_an_error_of_the_runtime_is_raised_as_weights_invalid() -> None:
    fifths = [
        helper.make_node("Constant", [], ["shape"], value_ints=[5, -1]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    embedder = loaded(of_graph(fifths, X, {"y": ["batch", "dimension"]}))
    with pytest.raises(WeightsInvalid, match=r"cannot embed 1 faces at once: .*Reshape"):
        embedder.embed(pictures(1))


def test_one_vector_for_several_faces_is_an_error() -> None:
    flat = [
        helper.make_node("Constant", [], ["shape"], value_ints=[1, -1]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    embedder = loaded(of_graph(flat, X, {"y": ["batch", "dimension"]}))
    with pytest.raises(WeightsInvalid, match=r"shape \(1, 75264\) for 2 faces"):
        embedder.embed(pictures(2))


def test_another_file_than_was_added_is_not_loaded(small: bytes) -> None:
    other = exported(SmallEmbedder(seed=1), SIDE)
    generation = generations.Generation(
        name="own",
        state="added",
        detector="centerface",
        embedder="own",
        template="arcface-112",
        dimension=DIMENSION,
        onnx=entry(small),
    )
    np.testing.assert_allclose(
        load_onnx_embedder(small, generation, CPU).embed(pictures(1)), by_torch(pictures(1)), atol=1e-5
    )
    with pytest.raises(WeightsInvalid, match="not the file that 'own' was added with"):
        load_onnx_embedder(other, generation, CPU)


def test_without_the_runtime_it_says_how_to_get_it(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'facestream\[onnx\]'"):
        loaded(small)
