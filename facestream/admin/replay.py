"""The replay that makes the vectors of another generation, for `reembed` and `redetect`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from backends.urls import scheme_of
from facestream.admin.generation_changes import complete, make_candidate, missing_faces
from facestream.config import Settings
from facestream.flags import STORES, add_settings, argument_type, parse_number
from facestream.progress import progress_bar
from facestream.runtime.data_folder import data_folder_lock, serving_url
from facestream.runtime.member import member_name
from facestream.runtime.roles.sink import sink_workers
from facestream.runtime.stores import Stores, open_stores
from facestream.runtime.system_state import SystemState, follow_state
from schemas.errors import Unavailable
from schemas.generation_records import Generation
from stream.catch_up import LOOK_EVERY_S, remaining_lag
from stream.topics import FACES_EMBEDDED, FACES_LEARNED
from stream.worker import Worker

if TYPE_CHECKING:
    from processors.stages.reembed import ReembedStage

IN_FLIGHT = 512
RECORDS_PER_BATCH = (
    256  # records of a sequence: enough to keep several cores busy; after a crash they are tried together
)
SEQUENCES = IN_FLIGHT // RECORDS_PER_BATCH  # of a partition, so that one is fetched and cut while another is embedded
# The niceness of the replay: the service has priority. With clients at 30 % of the capacity of two cores, the values 0,
# 3, 5 and 10 all leave the replay .73 of its rate. The clients' p99 is 396, 211, 142 and 147 ms, and 86 ms without a
# replay.
NICE = 10


def add_replay_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate",
        metavar="FACES",
        type=argument_type("--rate", parse_number),
        default=0.0,
        help="most faces a second; 0 for no limit (default: 0)",
    )
    settings = ("member", "weights", "device", "dtype", "threads", "decoders", "max_pixels")
    add_settings(parser, (*STORES, *settings))


async def replay(settings: Settings, name: str, rate: float) -> int:
    """Makes the vectors of a generation. Returns the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    os.nice(NICE)
    async with open_stores(settings) as stores, follow_state(stores.log) as state:
        following = asyncio.create_task(state.run())
        try:
            async with _sink_without_service(settings, stores, state):
                generation = await make_candidate(stores.log, state.generations, name)
                await _replay(settings, stores, state, generation, rate, stop)
                if stop.is_set():
                    print(f"stopped: `facestream reembed {name}` continues from here", file=sys.stderr)
                    return 130
                return await _finish(stores, state, generation)
        finally:
            following.cancel()


async def _replay(
    settings: Settings, stores: Stores, state: SystemState, generation: Generation, rate: float, stop: asyncio.Event
) -> None:
    """Runs the replay. Returns when its group has passed the current end of the topic and the sink has written the
    vectors.
    """
    ends = await stores.log.end_offsets(FACES_LEARNED.name)
    async with _worker(settings, stores, state, generation, rate) as (worker, stage):
        running = asyncio.create_task(worker.run())
        stopping = asyncio.create_task(stop.wait())
        try:
            await _wait_for_group(stores, generation.name, worker.name, FACES_LEARNED.name, ends, (running, stopping))
        finally:
            stopping.cancel()
            worker.stop()
            await running
        if stage.not_found:
            print(
                f"{stage.not_found} faces keep the crop they have: '{generation.detector}' does not find them",
                file=sys.stderr,
            )
    if not stop.is_set():
        ends = await stores.log.end_offsets(FACES_EMBEDDED)
        await _wait_for_group(stores, "written", "sink", FACES_EMBEDDED, ends, ())


async def _wait_for_group(
    stores: Stores, label: str, group: str, topic: str, ends: dict[int, int], ending_tasks: Sequence[asyncio.Task[Any]]
) -> None:
    """Shows the progress of a consumer group until it has passed `ends`, or one of the tasks has ended."""
    left = await remaining_lag(stores.log, group, topic, ends)
    with progress_bar(label, left, always=label != "written") as advance:
        while left and not any(task.done() for task in ending_tasks):
            await asyncio.sleep(LOOK_EVERY_S)
            with suppress(Unavailable):  # the worker itself waits until the log is available
                now = await remaining_lag(stores.log, group, topic, ends)
                advance(left - now)
                left = now


async def _finish(stores: Stores, state: SystemState, generation: Generation) -> int:
    missing = await missing_faces(stores.vectors, state.generations.active.name, generation.name)
    if missing:
        print(
            f"{len(missing)} faces of the active generation are not in '{generation.name}', the first: {missing[0]}."
            " Run it again for faces that were just being learned. Others could not be embedded:"
            " facestream dead-letters list",
            file=sys.stderr,
        )
        return 1
    completed, reason = await complete(stores, state.generations, generation.name)
    print(f"'{completed.name}' is complete: {completed.faces} faces", file=sys.stderr)
    if completed.threshold is None:
        print(f"it has no threshold and cannot become active yet: {reason}", file=sys.stderr)
    elif completed.calibration is None:
        print(f"its `probability` will be null: {reason}", file=sys.stderr)
    return 0


@asynccontextmanager
async def _worker(
    settings: Settings, stores: Stores, state: SystemState, generation: Generation, rate: float
) -> AsyncIterator[tuple[Worker, "ReembedStage"]]:
    # imported here because torch takes a second, which other commands need not wait for
    from facestream.runtime.roles.process import empty_networks, fetch_embedder, make_detector
    from processors.decoding.pool import DecodePool
    from processors.embed import CropThreads
    from processors.inference import Inference
    from processors.stages.redetect import Redetector
    from processors.stages.reembed import FACES_PER_FORWARD, ReembedStage
    from weights.load import choose_device, choose_dtype

    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.dtype)
    async with AsyncExitStack() as stack:
        # On a CPU there is one instance per core, with one thread each, so that a core that the service uses slows down
        # only one instance. Several threads in one forward would wait for the slowest.
        cores = settings.threads or len(os.sched_getaffinity(0))
        count = 1 if device.type == "cuda" else min(cores, IN_FLIGHT // FACES_PER_FORWARD)
        inferences = [Inference(empty_networks(device), cores // count) for _ in range(count)]
        for inference in inferences:
            stack.callback(inference.close)
            embedder = await fetch_embedder(settings, stores.objects, device, dtype, generation)
            await inference.add_embedder(generation.name, embedder)
        crop_threads = CropThreads()
        stack.callback(crop_threads.close)
        member = settings.member or stack.enter_context(member_name(settings.data, "reembed"))

        async def open_redetector() -> Redetector:
            detector = generation.detector
            await inferences[0].add_detector(detector, partial(make_detector, settings, device, dtype, detector))
            decoders = DecodePool(workers=settings.decoders or None, max_pixels=settings.max_pixels)
            await decoders.start()
            stack.push_async_callback(decoders.close)
            return Redetector(detector, stores.objects, decoders, crop_threads, inferences[0])

        stage = ReembedStage(
            generation, stores.objects, crop_threads, inferences, state.erasures, open_redetector, rate=rate
        )
        worker = Worker(
            stores.log,
            stage,
            [FACES_LEARNED.name],
            sequence_of=lambda record: str(
                record.offset // RECORDS_PER_BATCH % SEQUENCES
            ),  # order does not matter, batches do
            member=member,
            max_in_flight=IN_FLIGHT,
            suspects_per_attempt=RECORDS_PER_BATCH,
        )
        yield worker, stage


@asynccontextmanager
async def _sink_without_service(settings: Settings, stores: Stores, state: SystemState) -> AsyncIterator[None]:
    """Runs a sink in this process if the log is embedded and no service runs, because the vectors have to be
    written.
    """
    embedded = scheme_of(settings.log_url, known=("sqlite", "kafka"), setting="FACESTREAM_LOG") == "sqlite"
    if not embedded or serving_url(settings.data) is not None:
        yield
        return
    async with AsyncExitStack() as stack:
        stack.enter_context(data_folder_lock(settings.data))
        member = stack.enter_context(member_name(settings.data, "sink"))
        workers, _ = sink_workers(settings, stores, state, member)
        running = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            yield
        finally:
            for worker in workers:
                worker.stop()
            await asyncio.gather(*running)
