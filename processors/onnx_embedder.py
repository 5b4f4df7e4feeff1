"""A user's own embedder, called as processors.networks.Embedder is: an ONNX file, run by ONNX Runtime, an optional
extra.

The file comes from somebody else: nothing but its own bytes is read, and what does not fit is a WeightsInvalid that
says why.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from processors.networks import Chips
from schemas import generation_records as generations
from schemas.errors import ConfigurationError, WeightsInvalid

LARGEST_FILE = 1_000_000_000  # bytes: what an object store takes
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
MISSING = (
    "a model of one's own needs ONNX Runtime: pip install 'facestream[onnx]'"
    " (for a GPU: pip install onnxruntime-gpu, in place of onnxruntime)"
)


def load_onnx_embedder(content: bytes, generation: generations.Generation, device: torch.device) -> "OnnxEmbedder":
    """The embedder of a generation that has `onnx`, warmed up. content: the file. Raises WeightsInvalid,
    ConfigurationError.
    """
    assert generation.onnx is not None
    if hashlib.sha256(content).hexdigest() != generation.onnx.sha256:
        raise WeightsInvalid(
            f"{generation.onnx.object_key} is not the file that '{generation.name}' was added with (sha256 differs): put that"
            " file back into the object store, or add this one under another name"
        )
    embedder = OnnxEmbedder(content, generation.onnx, device, mirror=generation.mirror)
    side = generation.onnx.side
    embedder.embed([np.zeros((side, side, 3), np.uint8)])  # the first takes longer: before anybody waits
    return embedder


class OnnxEmbedder:
    def __init__(
        self, content: bytes, model: generations.OnnxEmbedder, device: torch.device, *, mirror: bool, at_once: int = 64
    ) -> None:
        """content: the ONNX file. mirror: the mean with the mirrored chip's vector. at_once: chips in one forward; a
        network whose batch is fixed at 1 gets them one by one. Raises WeightsInvalid, ConfigurationError where ONNX
        Runtime is missing.
        """
        self._session = _session(content, device)
        self._model, self._mirror = model, mirror
        self._input, self._type, batch = _input(self._session, model.side)
        self._output = _output(self._session)
        self._at_once = at_once if batch is None else batch

    def embed(self, chips: Chips) -> NDArray[np.float32]:
        """chips: (B, 3, side, side) or pictures (side, side, 3), RGB 0..255, uint8 or float32. Returns (B, dimension).
        Raises WeightsInvalid.
        """
        if not len(chips):
            raise ValueError("no chips to embed")
        x = chips.numpy(force=True) if isinstance(chips, Tensor) else np.stack(chips).transpose(0, 3, 1, 2)
        if self._model.channels == "bgr":
            x = x[:, ::-1]
        x = x.astype(np.float32) * np.float32(self._model.scale) + np.float32(self._model.offset)  # (B, 3, side, side)
        vectors = self._forward(x)  # (B, dimension)
        if self._mirror:
            vectors = (vectors + self._forward(x[..., ::-1])) * np.float32(0.5)
        return vectors

    def _forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([self._run(x[at : at + self._at_once]) for at in range(0, len(x), self._at_once)])

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (output,) = self._session.run([self._output], {self._input: np.ascontiguousarray(x, self._type)})
        except Exception as error:  # the runtime's exceptions have no base of their own
            raise WeightsInvalid(f"the network cannot embed {len(x)} faces at once: {first_line(error)}") from error
        vectors = np.asarray(output, np.float32)
        if vectors.ndim != 2 or len(vectors) != len(x):
            raise WeightsInvalid(
                f"the network gives numbers of shape {vectors.shape} for {len(x)} faces, not ({len(x)}, dimension)"
            )
        return vectors


def _session(content: bytes, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError(MISSING) from error
    _check_whole(content)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # between two forwards the cores are torch's: its own networks run in the same thread
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what is wrong is raised
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        return onnxruntime.InferenceSession(content, options, providers)
    except Exception as error:  # as in _run
        raise WeightsInvalid(f"ONNX Runtime does not take this network: {first_line(error)}") from error


def _check_whole(content: bytes) -> None:
    """Raises WeightsInvalid for what is no ONNX file, is too large, or refers to other files."""
    if len(content) > LARGEST_FILE:
        raise WeightsInvalid(f"the file has {len(content):,} bytes, at most {LARGEST_FILE:,} are taken")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError is another class in each of its implementations
        raise WeightsInvalid("this is no ONNX file, or a part of it is missing") from error
    if not model.graph.node:
        raise WeightsInvalid("this is no ONNX file, or there is no network in it")
    for each in (model.graph, *model.functions):
        for tensor in _tensors(each):
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                raise WeightsInvalid(
                    "its weights are in other files: save it as one file (onnx.save(onnx.load(FILE), ONE_FILE))"
                )


def _tensors(graph: Any) -> Iterator[Any]:
    """graph: a GraphProto, or a FunctionProto, which has no constants of its own."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _input(session: Any, side: int) -> tuple[str, Any, int | None]:
    """Name, dtype, and the batch where it is fixed."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise WeightsInvalid(
            f"the network has {len(inputs)} inputs ({', '.join(it.name for it in inputs)}), it may have one"
        )
    (only,) = inputs
    shape = [it if isinstance(it, int) else None for it in only.shape]  # what may vary has a name, or None
    if len(shape) != 4 or any(
        has not in (None, wanted) for has, wanted in zip(shape[1:], (3, side, side), strict=True)
    ):
        raise WeightsInvalid(f"the network wants input of shape {only.shape}, not (batch, 3, {side}, {side})")
    if shape[0] not in (None, 1):
        raise WeightsInvalid(
            f"the network always wants {shape[0]} faces at once: export it with a batch of 1, or of any size"
        )
    if only.type not in FLOATS:
        raise WeightsInvalid(f"the network wants input of type {only.type}, it may be one of {', '.join(FLOATS)}")
    return only.name, FLOATS[only.type], shape[0]


def _output(session: Any) -> str:
    """The first that has two dimensions, as far as the file says it."""
    outputs = session.get_outputs()
    for it in outputs:
        if len(it.shape) == 2 or (len(outputs) == 1 and not it.shape):
            return str(it.name)
    shapes = ", ".join(f"{it.name} {it.shape}" for it in outputs)
    raise WeightsInvalid(f"no output of the network has the shape (batch, dimension): {shapes}")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
