"""The sink's part of a process: the workers that write, match and keep answers, and the housekeeping of all stores."""

from facestream.config import Settings
from facestream.housekeeping import Housekeeping
from facestream.stores import Stores
from sink.answers import Answers
from sink.sink import Sink
from stream.topics import FACES_EMBEDDED, RESULTS
from stream.worker import Worker
from weights.manifest import Manifest

IN_FLIGHT = 512
ANSWERS_LINGER_S = 0.5  # who asks for a stored answer was told to wait a second; one at a time they cost half of a request


def sink_workers(settings: Settings, stores: Stores, known: Manifest, member: str) -> tuple[list[Worker], Housekeeping]:
    sink = Sink(stores.vectors, stores.objects, known, settings.gallery_memory)
    answers = Answers(stores.vectors, stores.objects, keep_probes=settings.keep_probes > 0)
    workers = [
        Worker(stores.log, sink, [FACES_EMBEDDED], sequence_of=sink.sequence_of, member=member, max_in_flight=IN_FLIGHT),
        Worker(
            stores.log,
            answers,
            [RESULTS],
            sequence_of=lambda record: "",
            member=member,
            max_in_flight=IN_FLIGHT,
            linger_s=ANSWERS_LINGER_S,
        ),
    ]
    housekeeping = Housekeeping(stores.log, stores.objects, stores.vectors, settings.keep_probes, is_mine=lambda: sink.leads)
    return workers, housekeeping
