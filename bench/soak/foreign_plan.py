"""Plans what the programs of other systems send, and what must come of it.

A plan has the events of one client with one codec. Each has its own image_id. Half of them go to the bulk lane. A tenth
is learned: each as another person. The others are recognized, in directories in which nobody is learned meanwhile, so
that a repeated answer is the same. Runs of records outside a transaction and transactions alternate; the first of each
four transactions is aborted.
"""

import json
import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

from bench.programs import Program
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK

CODECS = ("gzip", "snappy", "lz4", "zstd")
DIRECTORIES = 8  # of each kind
LEARNING = [f"learned-{number}" for number in range(DIRECTORIES)]
RECOGNIZING = [f"seen-{number}" for number in range(DIRECTORIES)]
PICTURES = 4
LEARNS = 0.1  # share of the records
OUTSIDE, INSIDE = (10, 50), (5, 40)  # records in a row outside and inside of a transaction


@dataclass(frozen=True, slots=True)
class PlannedRecord:
    """`person` is None for a recognize, `transaction` outside of one, where every record counts as committed."""

    image_id: str
    directory: str
    person: str | None
    picture: str
    topic: str
    transaction: str | None
    commit: bool

    def line(self, bucket: str, prefix: str) -> str:
        """The line of a program's plan. bucket: where the pictures are. prefix: of the topics."""
        event = {
            "image_id": self.image_id,
            "purpose": "recognize" if self.person is None else "learn",
            "directory": self.directory,
            "source": {"bucket": bucket, "key": self.picture},
        }
        value = json.dumps(event if self.person is None else event | {"person": self.person})
        record = {"key": self.image_id, "value": value, "topic": prefix + self.topic}
        return json.dumps(record | {"transaction": self.transaction, "commit": self.commit})


Plans = dict[tuple[str, str], list[PlannedRecord]]  # by client and codec


def make_plans(programs: Mapping[str, Program], records: int, chance: random.Random) -> Plans:
    """Plans with `records` records in all, in equal shares."""
    pairs = [(client, codec) for client in programs for codec in CODECS]
    shares = [len(range(number, records, len(pairs))) for number in range(len(pairs))]
    return {
        (client, codec): list(islice(_planned(chance, programs[client].has_transactions), share))
        for (client, codec), share in zip(pairs, shares, strict=True)
    }


def picture_keys(directory: str) -> list[str]:
    return [f"incoming/{directory}/{number}.jpg" for number in range(PICTURES)]


def _planned(chance: random.Random, has_transactions: bool) -> Iterator[PlannedRecord]:
    for number in count():
        for _ in range(chance.randint(*OUTSIDE)):
            yield _record(chance, None, True)
        if has_transactions:
            transaction = str(uuid.UUID(int=chance.getrandbits(128)))
            for _ in range(chance.randint(*INSIDE)):
                yield _record(chance, transaction, number % 4 != 0)


def _record(chance: random.Random, transaction: str | None, commit: bool) -> PlannedRecord:
    image_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    learns = chance.random() < LEARNS
    directory = chance.choice(LEARNING if learns else RECOGNIZING)
    return PlannedRecord(
        image_id=image_id,
        directory=directory,
        person=f"person-{image_id}" if learns else None,
        picture=chance.choice(picture_keys(directory)),
        topic=chance.choice((IMAGES_RECEIVED, IMAGES_RECEIVED_BULK)),
        transaction=transaction,
        commit=commit,
    )
