"""All roles in one process: opens the stores, loads the models, runs workers and HTTP service, and drains them in order."""

import asyncio
import gc
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from aiohttp import web

from backends.log import EventLog, open_log
from backends.objects import ObjectStore, open_objects
from backends.vectors import VectorStore, open_vectors
from facestream.config import Settings
from facestream.housekeeping import Housekeeping
from ingest.accept import Accept
from ingest.app import create_app
from ingest.keys import Access, Keys
from ingest.replies import Replies
from ingest.service import Limits, Service
from ingest.uploads import UploadMemory
from processors.decode import DecodePool
from processors.embed import Cutting
from processors.inference import Inference, Networks
from processors.networks import Detector, Embedder
from processors.processor import Processor
from schemas.errors import ConfigurationError
from sink.answers import Answers
from sink.sink import Sink
from stream.topics import FACES_EMBEDDED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, RESULTS, TOPICS
from stream.worker import Stage, Worker
from weights.load import choose_device, choose_dtype, load_detector, load_embedder
from weights.manifest import Manifest, manifest

log = structlog.get_logger(__name__)

DRAIN_S = 40.0  # requests under way when the service stops get so long to be answered
PROCESSOR_IN_FLIGHT = 32
SINK_IN_FLIGHT = 512
# One forward: on a CPU about a tenth of a second, so that a portrait waits for a crowd no longer than that.
CHUNK_PIXELS_CPU, CHUNK_CHIPS_CPU = 1_300_000, 32
CHUNK_PIXELS_GPU, CHUNK_CHIPS_GPU = 32_000_000, 512


@dataclass
class Stores:
    log: EventLog
    objects: ObjectStore
    vectors: VectorStore


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """The three stores that the settings name, with all topics there."""
    async with AsyncExitStack() as stack:
        settings.data.mkdir(parents=True, exist_ok=True)
        log_ = open_log(settings.log_url)
        stack.push_async_callback(log_.close)
        objects = open_objects(settings.objects_url)
        stack.push_async_callback(objects.close)
        vectors = open_vectors(settings.vectors_url)
        stack.push_async_callback(vectors.close)
        await log_.create_topics(TOPICS)
        yield Stores(log_, objects, vectors)


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


class OwnersKeys(Keys):
    """Who can open the socket of a data folder's owner is the owner: no key is asked for."""

    async def access(self, text: str | None) -> Access:
        return Access()


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    started: Callable[[str], None],
    owners_socket: Path | None = None,
) -> None:
    """Runs everything until `stop` is set; `started` is called with the URL once requests are answered. With `owners_socket`, a
    path in a folder that nobody else can enter, it listens there instead, without keys.

    Ends in the order in which work flows: the service takes no more and answers what it has, then the workers finish and commit,
    then the stores close. A role that fails ends all.
    """
    known = manifest()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        if owners_socket is None:
            await _require_keys(settings, stores.vectors)
        inference = Inference(lambda: load_networks(settings, known))
        stack.callback(inference.close)
        await inference.loaded()
        cutting = Cutting()
        stack.callback(cutting.close)
        decoders = DecodePool(workers=settings.decoders or None, max_pixels=settings.max_pixels)
        await decoders.start()
        stack.push_async_callback(decoders.close)

        workers = _workers(settings, stores, Processor(stores.objects, decoders, cutting, inference, known), known)
        replies = Replies(stores.log)
        await replies.start()
        stack.push_async_callback(replies.close)
        keys = Keys(stores.vectors) if owners_socket is None else OwnersKeys(stores.vectors)
        app = create_app(_service(settings, stores, keys, replies, known))
        runner = web.AppRunner(app, shutdown_timeout=DRAIN_S, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(worker.run()) for worker in workers]
            background = [
                tasks.create_task(replies.run()),
                tasks.create_task(Housekeeping(stores.log, stores.objects, stores.vectors, settings.keep_probes).run()),
            ]
            for worker in workers:
                await worker.ready.wait()
            gc.collect()
            gc.freeze()  # what is loaded by now stays: later collections need not look at it, and stall the loop less
            stack.callback(gc.unfreeze)
            url = await _listen(runner, settings.listen, owners_socket)
            log.info("serving", url=url)
            started(url)
            await stop.wait()
            log.info("stopping", in_flight=replies.in_flight)
            await runner.cleanup()
            for worker in workers:
                worker.stop()
            await asyncio.gather(*running)
            for task in background:
                task.cancel()


def _workers(settings: Settings, stores: Stores, processor: Processor, known: Manifest) -> list[Worker]:
    sink = Sink(stores.vectors, stores.objects, known, settings.gallery_memory)
    answers = Answers(stores.vectors, stores.objects, keep_probes=settings.keep_probes > 0)

    def worker(stage: Stage, topics: list[str], *, ordered: bool, max_in_flight: int) -> Worker:
        return Worker(stores.log, stage, topics, member="up", ordered=ordered, max_in_flight=max_in_flight)

    return [
        worker(processor, [IMAGES_RECEIVED, IMAGES_RECEIVED_BULK], ordered=False, max_in_flight=PROCESSOR_IN_FLIGHT),
        worker(sink, [FACES_EMBEDDED], ordered=True, max_in_flight=SINK_IN_FLIGHT),
        worker(answers, [RESULTS], ordered=True, max_in_flight=SINK_IN_FLIGHT),
    ]


def _service(settings: Settings, stores: Stores, keys: Keys, replies: Replies, known: Manifest) -> Service:
    limits = Limits(settings.max_upload, settings.upload_memory, settings.max_in_flight)
    return Service(
        objects=stores.objects,
        vectors=stores.vectors,
        keys=keys,
        accept=Accept(stores.log, stores.objects, stores.vectors, replies.reply_to),
        replies=replies,
        uploads=UploadMemory(limits.upload_memory, limits.max_upload),
        limits=limits,
        generation=known.default_generation,
        # The models are loaded before the service listens: an answer of /readyz says so already.
        checks={"log": stores.log.ping, "objects": stores.objects.ping, "vectors": stores.vectors.ping},
    )


async def _require_keys(settings: Settings, vectors: VectorStore) -> None:
    """Raises ConfigurationError when the service would be open to others without any key."""
    host, _ = _host_and_port(settings.listen)
    if _is_loopback(host) or await vectors.api_keys():
        return
    if not settings.open:
        raise ConfigurationError(
            f"{settings.listen} can be reached from other machines and no API key exists: make one with "
            "`facestream keys create --scope admin`, or allow everybody with FACESTREAM_OPEN=1"
        )
    log.warning("open to everybody who can reach this address: no API key exists", listen=settings.listen)


async def _listen(runner: web.AppRunner, listen: str, owners_socket: Path | None) -> str:
    """Returns the URL, unix:PATH for a socket."""
    if owners_socket is not None:
        await web.UnixSite(runner, owners_socket).start()
        return f"unix:{owners_socket}"
    sock = listening_socket(listen)
    await web.SockSite(runner, sock).start()
    return url_of(sock)


def listening_socket(listen: str) -> socket.socket:
    """Raises ConfigurationError when the address cannot be listened on."""
    host, port = _host_and_port(listen)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {listen}: {error.strerror}: choose another with --listen or FACESTREAM_LISTEN"
        ) from None


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _host_and_port(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"FACESTREAM_LISTEN is '{listen}': write address:port, for example 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
