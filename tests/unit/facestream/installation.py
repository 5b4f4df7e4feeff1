"""An embedded installation without models: what a processor would do is given, the sink is the real one."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.log import CommittedOffset, Consumer, NewRecord, Record, partition_of
from backends.vectors import StoredAnswer
from facestream.cli import main
from facestream.config import Settings
from facestream.runtime.stores import Stores, create_stores, open_stores
from facestream.runtime.system_state import SystemState, follow_state
from schemas.erasures import AnyErasure, PersonErasure, erase_command
from schemas.errors import Erased
from schemas.faces import Crop, encode_vector
from schemas.ids import crop_key, learned_face_id, new_image_id, original_key
from schemas.object_metadata import ObjectMetadata
from schemas.records import Answer, ImageReceived
from sink.sink import Sink
from stream.answers import error_answer_record
from stream.erase.cuts import make_cut
from stream.erase.erasures import position_of
from stream.erase.guarded_store import GuardedStore
from stream.topic_reading import OffsetRange, read_ranges
from stream.topics import FACES_EMBEDDED, IMAGES_RECEIVED, PARTITIONS, RESULTS
from tests.records import LANDMARKS, embedded_face, faces_embedded, image_id, image_received
from weights.manifest import manifest

GENERATION = manifest().default_generation
DIRECTORY = "acme"


@dataclass
class Installation:
    data: Path

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Stores, SystemState]]:
        async with open_stores(Settings(data=self.data)) as stores:
            await create_stores(stores)
            async with follow_state(stores.log) as state:
                yield stores, state

    async def run(self, *command: str | Path) -> int:
        return await asyncio.to_thread(main, [*map(str, command), "--data", str(self.data)])

    async def accept(self, person: str, image: str = "", directory: str = DIRECTORY) -> None:
        """What the HTTP service does with a portrait. image: a name; without one, that of the person."""
        received = image_received(image or person, "learn", person=person, directory=directory)
        async with self.opened() as (stores, _):
            metadata = ObjectMetadata(directory=directory, person=person, received_at=_now(), erasures_seen=0)
            await stores.objects.put(original_key(received.image_id, "learn"), b"portrait", metadata.encode())
            await stores.log.append([NewRecord(IMAGES_RECEIVED, received.image_id, received.encode())])

    async def process(self) -> None:
        """What a processor does with the images that wait."""
        async with self.opened() as (stores, state):
            store = GuardedStore(stores.objects, stores.vectors, state.erasures)
            async with self._polled(stores, "processors", IMAGES_RECEIVED) as records:
                for record in records:
                    received = ImageReceived.decode(record.value).with_origin(position_of(record))
                    try:
                        await store.drop_if_erased(received)
                    except Erased as erased:
                        await stores.log.append([error_answer_record(received, erased)])
                        continue
                    await self._put_face(stores, store, received)

    async def sink(self) -> None:
        """What the sink does with the faces and the erase commands that wait."""
        async with self.opened() as (stores, state):
            store = GuardedStore(stores.objects, stores.vectors, state.erasures)
            sink = Sink(stores.log, stores.objects, stores.vectors, store, state.generations, state.erasures, 1 << 20)
            async with self._polled(stores, "sink", FACES_EMBEDDED) as records:
                await sink.on_assignment({})
                for record in records:
                    await stores.log.append(await sink.handle([record]))

    async def learn(self, person: str, image: str = "", directory: str = DIRECTORY) -> None:
        await self.accept(person, image, directory)
        await self.process()
        await self.sink()

    async def send_erase(self, erasure: AnyErasure) -> None:
        async with self.opened() as (stores, _):
            command = erase_command(erasure, new_image_id(), await make_cut(stores.log), None)
            await stores.log.append([NewRecord(FACES_EMBEDDED, command.image_id, command.encode(), command.directory)])

    async def erase(self, *persons: str) -> None:
        for person in persons:
            await self.send_erase(PersonErasure(DIRECTORY, person))
        await self.sink()

    async def put_probe(self, name: str, directory: str = DIRECTORY) -> None:
        async with self.opened() as (stores, _):
            metadata = ObjectMetadata(directory=directory, received_at=_now())
            await stores.objects.put(original_key(image_id(name), "recognize"), b"photo", metadata.encode())

    async def put_answer(self, answer: Answer) -> None:
        """Stores an answer that was given just now."""
        async with self.opened() as (stores, _):
            offset = (await stores.log.end_offsets(FACES_EMBEDDED))[partition_of(DIRECTORY, PARTITIONS)] - 1
            value = answer.model_copy(update={"offset": offset}).encode().decode()
            await stores.vectors.put_answers([StoredAnswer(answer.image_id, value, time.time() + 60)])

    async def people(self, directory: str = DIRECTORY) -> set[str]:
        async with self.opened() as (stores, _):
            return {it.person for it in await stores.vectors.persons(directory, GENERATION)}

    async def objects(self) -> set[str]:
        async with self.opened() as (stores, _):
            return {it.key async for it in stores.objects.list()}

    async def answers(self) -> dict[str, Answer]:
        """The stored answers and those of the topic, by image."""
        found: dict[str, Answer] = {}
        async with self.opened() as (stores, _):
            ends = await stores.log.end_offsets(RESULTS)
            ranges = {it: OffsetRange(0, end) for it, end in ends.items() if end}

            def take(records: Sequence[Record]) -> None:
                for record in records:
                    answer = Answer.decode(record.value)
                    found[answer.image_id] = answer

            await read_ranges(stores.log, RESULTS, ranges, take)
            async for page in stores.vectors.read_answers():
                found |= {it.image_id: Answer.decode(it.value.encode()) for it in page}
        return found

    async def _put_face(self, stores: Stores, store: GuardedStore, received: ImageReceived) -> None:
        face_id = learned_face_id(received.image_id)
        crop = Crop(object_key=crop_key(face_id), landmarks=LANDMARKS)
        metadata = store.metadata(received, _now(), image_id=received.image_id)
        await store.put(received, crop.object_key, b"crop", metadata)
        vector = np.random.default_rng(uuid.UUID(received.image_id).int).normal(size=128).astype(np.float32)
        face = embedded_face(face_id, vectors={GENERATION: encode_vector(vector)}, crop=crop, source=received.image_id)
        event = faces_embedded(received, face, received_at=_now())
        await stores.log.append([NewRecord(FACES_EMBEDDED, received.image_id, event.encode(), received.directory)])

    @asynccontextmanager
    async def _polled(self, stores: Stores, group: str, topic: str) -> AsyncIterator[list[Record]]:
        """The records that wait for a group; committed when the block has ended."""
        consumer = await stores.log.consumer(group, [topic], member="test")
        records: list[Record] = []
        while any((await stores.log.lag(group, topic)).values()):
            records += (polled := await consumer.poll(1_000, 0.1))
            if not polled and _is_at_end(consumer, await stores.log.end_offsets(topic)):
                break
        yield records
        if records:
            await consumer.commit({at: CommittedOffset(offset) for at, offset in consumer.next_offsets().items()})
        await consumer.close()


def _is_at_end(consumer: Consumer, ends: dict[int, int]) -> bool:
    offsets = consumer.next_offsets()
    return bool(offsets) and all(offset >= ends[at.partition] for at, offset in offsets.items())


def _now() -> int:
    return int(time.time() * 1000)


def pictures(*names: str) -> set[str]:
    """The keys of the portraits that tests call by these names, and of their crops."""
    of = [image_id(name) for name in names]
    return {original_key(it, "learn") for it in of} | {crop_key(learned_face_id(it)) for it in of}
