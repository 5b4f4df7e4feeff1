"""A user's own embedder: an ONNX file, run by ONNX Runtime, which is an optional extra.

The file is not trusted: only its own bytes are read, and a network that does not fit raises a WeightsInvalid that says
why.
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

LARGEST_FILE = 1_000_000_000  # bytes, the largest that every object store accepts
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
MISSING = (
    "your own model needs ONNX Runtime: pip install 'facestream[onnx]'"
    " (for a GPU: pip install onnxruntime-gpu, in place of onnxruntime)"
)


def load_onnx_embedder(
    content: bytes, generation: generations.Generation, device: torch.device
) -> "OnnxRuntimeEmbedder":
    """The embedder of a generation with `onnx`, after a first run. content: the ONNX file.

    Raises WeightsInvalid, ConfigurationError.
    """
    assert generation.onnx is not None
    if hashlib.sha256(content).hexdigest() != generation.onnx.sha256:
        raise WeightsInvalid(
            f"{generation.onnx.object_key} is not the file that '{generation.name}' was added with (sha256 differs):"
            " put that file back into the object store, or add this one under another name"
        )
    embedder = OnnxRuntimeEmbedder(content, generation.onnx, device, mirror=generation.mirror)
    side = generation.onnx.side
    embedder.embed([np.zeros((side, side, 3), np.uint8)])  # the first run takes longer: now no request waits
    return embedder


class OnnxRuntimeEmbedder:
    """A processors.networks.Embedder that runs an ONNX file."""

    def __init__(
        self,
        content: bytes,
        model: generations.OnnxEmbedder,
        device: torch.device,
        *,
        mirror: bool,
        batch_size: int = 64,
    ) -> None:
        """content: the ONNX file. mirror: whether to average the vectors of the chip and of the mirrored chip.
        batch_size: chips in one forward; a network whose batch is fixed at 1 gets them one by one. Raises
        WeightsInvalid, ConfigurationError where ONNX Runtime is missing.
        """
        self._session = _session(content, device)
        self._model, self._mirror = model, mirror
        self._input, self._type, batch = _input(self._session, model.side)
        self._output = _output(self._session)
        self._batch_size = batch_size if batch is None else batch

    def embed(self, chips: Chips) -> NDArray[np.float32]:
        """The vectors, (B, dimension). chips: (B, 3, side, side), or (side, side, 3) each; RGB 0..255, uint8 or float.

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
        starts = range(0, len(x), self._batch_size)
        return np.concatenate([self._run(x[start : start + self._batch_size]) for start in starts])

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (output,) = self._session.run([self._output], {self._input: np.ascontiguousarray(x, self._type)})
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
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
    # no spinning: between two forwards torch needs the cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised, not logged
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        return onnxruntime.InferenceSession(content, options, providers)
    except Exception as error:  # as in _run
        raise WeightsInvalid(f"ONNX Runtime does not take this network: {first_line(error)}") from error


def _check_whole(content: bytes) -> None:
    """Raises WeightsInvalid if the content is not an ONNX file, is too large, or refers to other files."""
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
    """All tensors of a graph, inner graphs included. graph: a GraphProto or a FunctionProto."""
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
    """The name and the dtype of the input, and its batch size where that is fixed."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise WeightsInvalid(
            f"the network has {len(inputs)} inputs ({', '.join(it.name for it in inputs)}), it may have one"
        )
    (only,) = inputs
    shape = [it if isinstance(it, int) else None for it in only.shape]  # a variable dimension is a name or None
    if len(shape) != 4 or any(
        has not in (None, wanted) for has, wanted in zip(shape[1:], (3, side, side), strict=True)
    ):
        raise WeightsInvalid(f"the network wants input of shape {only.shape}, not (batch, 3, {side}, {side})")
    if shape[0] not in (None, 1):
        raise WeightsInvalid(
            f"the network always wants {shape[0]} faces at once: export it with a batch of 1, or of any size"
        )
    if only.type not in INPUT_TYPES:
        raise WeightsInvalid(f"the network wants input of type {only.type}, it may be one of {', '.join(INPUT_TYPES)}")
    return only.name, INPUT_TYPES[only.type], shape[0]


def _output(session: Any) -> str:
    """The first output that has two dimensions, as far as the file states them."""
    outputs = session.get_outputs()
    for it in outputs:
        if len(it.shape) == 2 or (len(outputs) == 1 and not it.shape):
            return str(it.name)
    shapes = ", ".join(f"{it.name} {it.shape}" for it in outputs)
    raise WeightsInvalid(f"no output of the network has the shape (batch, dimension): {shapes}")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
