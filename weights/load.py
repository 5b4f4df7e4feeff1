"""Loads converted weights into networks, after checking their sha256; chooses device and dtype.

The manifest names the class of each network, so that this package imports nothing from processors.
"""

import hashlib
import math
import pkgutil
import time
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from torch import nn

from schemas.errors import ConfigurationError, WeightsInvalid
from weights.manifest import DetectorModel, EmbedderModel, manifest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_detector(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a detector, ready for inference. Raises WeightsInvalid, NotFound."""
    model = manifest().detector(name).model
    return _load(folder, model, manifest().detector_model(model), device, dtype)


def load_embedder(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """An embedder's network, ready for inference. Raises WeightsInvalid, NotFound."""
    return _load(folder, name, manifest().embedder(name), device, dtype)


def weights_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _load(
    folder: Path, name: str, model: DetectorModel | EmbedderModel, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    path = weights_file(folder, name)
    remedy = "run `facestream weights get`"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsInvalid(
            f"the weights of {name} cannot be read from {path} ({error.strerror}): {remedy}"
        ) from error
    if hashlib.sha256(content).hexdigest() != model.sha256:
        raise WeightsInvalid(f"{path} is not the file that the manifest describes (sha256 differs): {remedy}")
    network = build_network(model.network)
    network.load_state_dict(load_tensors(content))
    return _prepare(network, device, dtype)


def build_network(name: str) -> nn.Module:
    """A network with random weights. name: the name of its class in the manifest."""
    network: nn.Module = pkgutil.resolve_name(name)()
    return network


def _prepare(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    network = network.eval().requires_grad_(False).to(device, dtype)
    # on a CPU, channels_last makes small convolutions faster only together with bfloat16
    channels_last = device.type == "cuda" or dtype == torch.bfloat16
    return network.to(memory_format=torch.channels_last) if channels_last else network


def choose_device(requested: str = "auto") -> torch.device:
    """requested: 'auto' (a GPU if there is one), 'cpu', 'cuda' or 'cuda:N'. Raises ConfigurationError."""
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"unknown device {requested!r}: choose 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise ConfigurationError(
            f"no device {requested!r}: {torch.cuda.device_count()} CUDA devices are usable, choose 'auto' or 'cpu'"
        )
    return device


def choose_dtype(device: torch.device, requested: str = "auto") -> torch.dtype:
    """requested: 'auto', 'float32', 'bfloat16' or 'float16'. Raises ConfigurationError.

    'auto' is float16 on a GPU: no activation of either network exceeds 50, so that its precision is worth more than the
    range of bfloat16. On a CPU it is bfloat16 where the CPU has instructions for it and the detector is faster with it,
    else float32.
    """
    if requested != "auto":
        if requested not in DTYPES:
            raise ConfigurationError(f"unknown dtype {requested!r}: choose 'auto', {', '.join(map(repr, DTYPES))}")
        return DTYPES[requested]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if _multiplies_bfloat16() and bfloat16_is_faster() else torch.float32


def _multiplies_bfloat16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@lru_cache
def bfloat16_is_faster() -> bool:
    """Whether the detector is faster in bfloat16. Measures it, with random weights, on a picture of 320 × 320."""
    cpu = torch.device("cpu")
    known = manifest()
    model = known.detector_model(known.detector(known.generation(known.default_generation).detector).model)
    networks = {dtype: _prepare(build_network(model.network), cpu, dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(networks, math.inf)
    with torch.inference_mode():
        for turn in range(4):
            for dtype, network in networks.items():
                picture = torch.zeros(1, 320, 320, 3, dtype=dtype).permute(0, 3, 1, 2)
                start = time.process_time()  # not the wall clock: the load of the machine must not decide
                network(picture)
                if turn:  # the first run sets up kernels
                    seconds[dtype] = min(seconds[dtype], time.process_time() - start)
    return seconds[torch.bfloat16] < seconds[torch.float32]
