"""The sink role: the workers that write faces, match probes and keep answers, and the housekeeping of all stores."""

from facestream.config import Settings
from facestream.runtime.housekeeping import Housekeeping
from facestream.runtime.stores import Stores
from facestream.runtime.system_state import SystemState
from sink.answers import AnswerStage
from sink.sink import Sink
from stream.bridge import Bridge
from stream.erase.guarded_store import GuardedStore
from stream.topics import BUCKET_EVENTS, FACES_EMBEDDED, RESULTS
from stream.worker import Worker

IN_FLIGHT = 512
BRIDGE_LINGER_S = 0.5  # no request waits for bucket events
# Clients poll for a stored answer after a second at the earliest. Storing answers one by one would take half of the
# work of a request.
ANSWERS_LINGER_S = 0.5


def sink_workers(
    settings: Settings, stores: Stores, state: SystemState, member: str
) -> tuple[list[Worker], Housekeeping]:
    store = GuardedStore(stores.objects, stores.vectors, state.erasures)
    sink = Sink(
        stores.log,
        stores.objects,
        stores.vectors,
        store,
        state.generations,
        state.erasures,
        settings.gallery_memory,
    )
    answers = AnswerStage(stores.vectors, stores.objects, store, keep_probes=settings.keep_probes > 0)
    workers = [
        Worker(
            stores.log, sink, [FACES_EMBEDDED], sequence_of=sink.sequence_of, member=member, max_in_flight=IN_FLIGHT
        ),
        Worker(
            stores.log,
            answers,
            [RESULTS],
            sequence_of=lambda record: "",
            member=member,
            max_in_flight=IN_FLIGHT,
            linger_s=ANSWERS_LINGER_S,
        ),
        Worker(
            stores.log,
            Bridge(stores.objects),
            [BUCKET_EVENTS],
            sequence_of=lambda record: "",
            member=member,
            max_in_flight=IN_FLIGHT,
            linger_s=BRIDGE_LINGER_S,
        ),
    ]
    housekeeping = Housekeeping(
        stores.log, stores.objects, stores.vectors, state, settings.keep_probes, is_mine=lambda: sink.is_leader
    )
    return workers, housekeeping
