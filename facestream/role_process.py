"""The processor's part of a process: decoders, networks, and the workers of the stages it runs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np

from facestream.config import Settings
from facestream.stores import Stores
from processors.apart import Detect, Embed
from processors.decode import DecodePool
from processors.embed import Cutting
from processors.inference import Inference, Networks
from processors.networks import Detector, Embedder
from processors.processor import Processor
from stream.topics import FACES_DETECTED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK
from stream.worker import Worker
from weights.load import choose_device, choose_dtype, load_detector, load_embedder
from weights.manifest import Manifest

IN_FLIGHT = 32
# One forward: on a CPU about a tenth of a second, so that a portrait waits for a crowd no longer than that.
CHUNK_PIXELS_CPU, CHUNK_CHIPS_CPU = 1_300_000, 32
CHUNK_PIXELS_GPU, CHUNK_CHIPS_GPU = 32_000_000, 512


@asynccontextmanager
async def process_workers(settings: Settings, stores: Stores, known: Manifest, member: str) -> AsyncIterator[list[Worker]]:
    """The workers of `settings.stage`: detect and embed in one, or one of them."""
    stage = settings.stage
    async with AsyncExitStack() as stack:
        inference = Inference(lambda: load_networks(settings, known), settings.threads)
        stack.callback(inference.close)
        await inference.loaded()
        cutting = Cutting()
        stack.callback(cutting.close)
        if stage == "embed":
            embed = Embed(stores.objects, cutting, inference, known)
            yield [Worker(stores.log, embed, [FACES_DETECTED], member=member, max_in_flight=IN_FLIGHT)]
            return
        decoders = DecodePool(workers=settings.decoders or None, max_pixels=settings.max_pixels)
        await decoders.start()
        stack.push_async_callback(decoders.close)
        kind = Detect if stage == "detect" else Processor
        yield [
            Worker(
                stores.log,
                kind(stores.objects, decoders, cutting, inference, known),
                [IMAGES_RECEIVED],
                bulk=[IMAGES_RECEIVED_BULK],
                member=member,
                max_in_flight=IN_FLIGHT,
            )
        ]


def load_networks(settings: Settings, known: Manifest) -> Networks:
    """The networks of the default generation. Raises WeightsInvalid, ConfigurationError."""
    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.dtype)
    generation = known.generation(known.default_generation)
    detector_model = known.detector(generation.detector)
    detector = Detector(
        load_detector(settings.weights_folder, device, dtype, generation.detector),
        device,
        dtype,
        score_threshold=detector_model.score_threshold,
    )
    embedder = Embedder(
        load_embedder(settings.weights_folder, generation.embedder, device, dtype), device, mirror=generation.mirror
    )
    detector.detect([np.zeros((256, 256, 3), np.uint8)])  # the first of each takes a second: before anybody waits
    embedder.embed([np.zeros((150, 150, 3), np.uint8)])
    gpu = device.type == "cuda"
    return Networks(
        detector,
        embedder,
        chunk_pixels=CHUNK_PIXELS_GPU if gpu else CHUNK_PIXELS_CPU,
        chunk_chips=CHUNK_CHIPS_GPU if gpu else CHUNK_CHIPS_CPU,
    )
