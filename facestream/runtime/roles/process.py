"""The processor role: decoders, networks, and the workers of its stages."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import numpy as np
import torch

from backends.objects import ObjectReader
from facestream.config import Settings
from facestream.runtime.stores import Stores
from facestream.runtime.system_state import SystemState
from processors.align import parse_template
from processors.decoding.pool import DecodePool
from processors.detectors import Detectors
from processors.embed import CropThreads
from processors.embedders import Embedders
from processors.inference import Inference, Networks
from processors.networks import Detector, Embedder, TorchEmbedder
from processors.stages.base import StageResources
from processors.stages.fused import FusedStage
from processors.stages.separate import DetectStage, EmbedStage
from schemas.generation_records import Generation
from stream.erase.guarded_store import GuardedStore
from stream.sources import SourceCopier
from stream.topics import FACES_DETECTED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK
from stream.worker import Worker
from weights.load import choose_device, choose_dtype, load_detector, load_embedder
from weights.manifest import manifest

IN_FLIGHT = 32
# Pixels and chips of one forward. On a CPU this takes about 0.1 s, which is the longest time that a portrait waits for
# a crowd.
CHUNK_PIXELS_CPU, CHUNK_CHIPS_CPU = 1_300_000, 32
CHUNK_PIXELS_GPU, CHUNK_CHIPS_GPU = 32_000_000, 512


@asynccontextmanager
async def process_workers(
    settings: Settings, stores: Stores, state: SystemState, member: str
) -> AsyncIterator[list[Worker]]:
    """Yields the workers of `settings.stage`: both stages in one worker, or one of them."""
    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.dtype)
    store = GuardedStore(stores.objects, stores.vectors, state.erasures)
    async with AsyncExitStack() as stack:
        inference = Inference(empty_networks(device), settings.threads)
        stack.callback(inference.close)
        crop_threads = CropThreads()
        stack.callback(crop_threads.close)
        embedders = Embedders(
            state.generations, inference, partial(fetch_embedder, settings, stores.objects, device, dtype)
        )
        if settings.stage != "detect":
            await embedders.load_active()
        if settings.stage == "embed":
            embed = EmbedStage(stores.objects, store, crop_threads, inference, embedders)
            yield [Worker(stores.log, embed, [FACES_DETECTED], member=member, max_in_flight=IN_FLIGHT)]
            return
        detectors = Detectors(state.generations, inference, partial(make_detector, settings, device, dtype))
        await detectors.load_active()
        decoders = DecodePool(workers=settings.decoders or None, max_pixels=settings.max_pixels)
        await decoders.start()
        stack.push_async_callback(decoders.close)
        sources = SourceCopier(stores.objects, store, settings.source_buckets, settings.max_upload)
        resources = StageResources(stores.objects, store, decoders, crop_threads, inference, detectors, sources)
        yield [
            Worker(
                stores.log,
                DetectStage(resources) if settings.stage == "detect" else FusedStage(resources, embedders),
                [IMAGES_RECEIVED],
                bulk_topics=[IMAGES_RECEIVED_BULK],
                member=member,
                max_in_flight=IN_FLIGHT,
            )
        ]


def empty_networks(device: torch.device) -> Networks:
    """No networks yet: each is loaded together with its generation."""
    gpu = device.type == "cuda"
    return Networks(CHUNK_PIXELS_GPU if gpu else CHUNK_PIXELS_CPU, CHUNK_CHIPS_GPU if gpu else CHUNK_CHIPS_CPU)


def make_detector(settings: Settings, device: torch.device, dtype: torch.dtype, name: str) -> Detector:
    """Loads a detector. Raises WeightsInvalid, NotFound."""
    shipped = manifest().detector(name)
    module = load_detector(settings.weights_folder, name, device, dtype)
    detector = Detector(module, device, dtype, score_threshold=shipped.score_threshold, mirror=shipped.mirror)
    detector.detect([np.zeros((256, 256, 3), np.uint8)])  # the first forward takes a second: now no request waits
    return detector


async def fetch_embedder(
    settings: Settings, objects: ObjectReader, device: torch.device, dtype: torch.dtype, generation: Generation
) -> Callable[[], Embedder]:
    """Returns a function that makes the embedder of a generation. Raises ObjectMissing, Unavailable; the function
    raises WeightsInvalid and, without ONNX Runtime, ConfigurationError.
    """
    if generation.onnx is not None:
        from processors.onnx_embedder import load_onnx_embedder  # onnx is needed only for models that users have added

        stored = await objects.get(generation.onnx.object_key)
        return lambda: load_onnx_embedder(stored.data, generation, device)

    def load() -> Embedder:
        module = load_embedder(settings.weights_folder, generation.embedder, device, dtype)
        embedder = TorchEmbedder(module, device, mirror=generation.mirror)
        side = parse_template(generation.template).side
        embedder.embed([np.zeros((side, side, 3), np.uint8)])  # as for a detector
        return embedder

    return load
