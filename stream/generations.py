"""The generations of models, read from the topic `models`. Every role follows the topic, and switches to another
generation when it reads the record that activates it.
"""

import structlog

from backends.log import EventLog, NewRecord, Record
from schemas.errors import NotFound, UnreadableRecord
from schemas.generation_records import ActiveGeneration, Generation
from stream.topic_follower import TopicFollower
from stream.topics import MODELS

log = structlog.get_logger(__name__)

ACTIVE_KEY = "active"  # the key of the record that names the active generation
GENERATION_KEY = "generation:"  # with the name, the key of a generation's record


class Generations(TopicFollower):
    """The generations by name, and which one is active. `default` is known and active until the topic says
    otherwise.
    """

    def __init__(self, log_: EventLog, default: Generation) -> None:
        super().__init__(log_, MODELS)
        self._known: dict[str, Generation] = {default.name: default}
        self._active = default.name
        self._started = False

    async def start(self) -> None:
        """See TopicFollower. Earlier changes are not logged; only the resulting state is."""
        await super().start()
        self._started = True
        log.info("generations", active=self._active, live=[it.name for it in self.live])

    def apply(self, record: Record) -> None:
        try:
            if record.key == ACTIVE_KEY:
                self._active = ActiveGeneration.decode(record.value).active
                if self._started:
                    log.info("active generation", generation=self._active)
            else:
                generation = Generation.decode(record.value)
                self._known[generation.name] = generation
                if self._started:
                    log.info("generation", generation=generation.name, state=generation.state)
        except UnreadableRecord as error:
            log.error("unreadable generation", offset=record.offset, reason=error.message)

    @property
    def active(self) -> Generation:
        """The generation with which probes are embedded."""
        return self._known[self._active]

    @property
    def live(self) -> list[Generation]:
        """The generations with which learned faces are embedded."""
        return [it for it in self._known.values() if it.is_live]

    @property
    def all(self) -> list[Generation]:
        """All generations, retired ones too, in the order of their first records."""
        return list(self._known.values())

    def get(self, name: str) -> Generation:
        """Raises NotFound."""
        if name not in self._known:
            raise NotFound(f"no generation '{name}': there are {', '.join(self._known)} (facestream models list)")
        return self._known[name]

    async def get_or_refresh(self, name: str) -> Generation:
        """As `get`, for a name that came from another process, which may have read the topic sooner. Raises NotFound,
        Unavailable.
        """
        if name not in self._known:
            await self.refresh()
        return self.get(name)


def generation_record(generation: Generation) -> NewRecord:
    """The record that adds a generation, or changes its state."""
    return NewRecord(MODELS, GENERATION_KEY + generation.name, generation.encode())


def active_record(name: str) -> NewRecord:
    """The record that activates a generation."""
    return NewRecord(MODELS, ACTIVE_KEY, ActiveGeneration(active=name).encode())
