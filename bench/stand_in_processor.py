"""A processor without models: `python -m bench.stand_in_processor`, with the settings of `facestream process`.

It reads each original or copies its source, as a processor does, and answers with one face. The face's vector is
random, with the file's hash as seed, so that the same file gives the same face. So a request costs only what the stream
costs. With `--wait SECONDS` each image takes that long in addition, as on a GPU elsewhere, one image at a time.
"""

import argparse
import asyncio
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import numpy as np

from backends.log import CommittedOffset, NewRecord, Record, TopicPartition
from backends.objects import ObjectReader
from facestream.config import Settings
from facestream.runtime.roles.process import IN_FLIGHT
from facestream.runtime.serve import serve_health
from facestream.runtime.stores import open_stores, wait_for_stores
from facestream.runtime.system_state import follow_state
from schemas.answers import Models
from schemas.cloudevents import decode_image_received
from schemas.faces import Crop, EmbeddedFace, encode_vector
from schemas.ids import crop_key, learned_face_id, probe_face_id, source_of_face
from schemas.records import FacesEmbedded, ImageReceived
from stream.erase.erasures import position_of
from stream.erase.guarded_store import GuardedStore
from stream.health_routes import health_app
from stream.sources import SourceCopier
from stream.topics import FACES_EMBEDDED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK
from stream.worker import Worker
from weights.manifest import Manifest, manifest

BOX = [10, 10, 110, 110]
LANDMARKS = [(40.0, 40.0), (80.0, 40.0), (60.0, 60.0), (45.0, 80.0), (75.0, 80.0)]


class StandInStage:
    """Stage of the consumer group `processors`."""

    name = "processors"

    def __init__(self, objects: ObjectReader, sources: SourceCopier, known: Manifest, wait_s: float) -> None:
        self._objects, self._sources, self._wait_s = objects, sources, wait_s
        generation = known.generation(known.default_generation)
        self._models = Models(detector=generation.detector, embedder=generation.embedder, generation=generation.name)
        self._generation, self._dimension = generation.name, generation.dimension

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Nothing is kept in memory between records."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        return list(await asyncio.gather(*(self._embed(record) for record in records)))

    def event_of(self, record: Record) -> ImageReceived:
        return decode_image_received(record.value, record.headers).with_origin(position_of(record))

    async def check_stores(self) -> None:
        await self._objects.ping()

    async def _embed(self, record: Record) -> NewRecord:
        received = self.event_of(record)
        received_at = received.first_received_at(record.timestamp)
        received, _ = await self._sources.read_original(received, received_at)
        await asyncio.sleep(self._wait_s)
        vector = np.random.default_rng(int(received.sha256[:16], 16)).normal(size=self._dimension).astype(np.float32)
        learn = received.purpose == "learn"
        face_id = learned_face_id(received.image_id) if learn else probe_face_id(received.image_id, 0)
        face = EmbeddedFace(
            face_id=face_id,
            box=BOX,
            landmarks=LANDMARKS,
            score=0.9999,
            detection_score=0.9,
            vectors={self._generation: encode_vector(vector)},
            crop=Crop(object_key=crop_key(face_id), landmarks=LANDMARKS) if learn else None,
            source=source_of_face(received.sha256, BOX) if learn else None,
        )
        value = FacesEmbedded(
            received=received,
            received_at=received_at,
            faces=[face],
            models=self._models,
        )
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait", metavar="SECONDS", type=float, default=0.0)
    wait_s = parser.parse_args().wait
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings()
    async with open_stores(settings) as stores, AsyncExitStack() as stack:
        await wait_for_stores(stores, stop)
        state = await stack.enter_async_context(follow_state(stores.log))
        store = GuardedStore(stores.objects, stores.vectors, state.erasures)
        sources = SourceCopier(stores.objects, store, settings.source_buckets, settings.max_upload)
        worker = Worker(
            stores.log,
            StandInStage(stores.objects, sources, manifest(), wait_s),
            [IMAGES_RECEIVED],
            bulk_topics=[IMAGES_RECEIVED_BULK],
            member=settings.member or socket.gethostname(),
            max_in_flight=1 if wait_s else IN_FLIGHT,
        )
        async with asyncio.TaskGroup() as tasks:
            working, following = tasks.create_task(worker.run()), tasks.create_task(state.run())
            await serve_health(settings, health_app({"worker": worker.check}), stack, always=True)
            await stop.wait()
            worker.stop()
            await working
            following.cancel()


if __name__ == "__main__":
    asyncio.run(main())
