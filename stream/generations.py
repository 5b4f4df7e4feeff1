"""The generations of models as the topic `models` has them: every role knows them, and switches on the record."""

import structlog

from backends.log import EventLog, NewRecord, Record
from schemas.errors import NotFound, UnreadableRecord
from schemas.generation_records import ActiveGeneration, Generation
from stream.topic_follower import TopicFollower
from stream.topics import MODELS

log = structlog.get_logger(__name__)

ACTIVE = "active"  # the key of the record that says which is
GENERATION = "generation:"  # and the name: the key of a generation's record


class Generations(TopicFollower):
    """`default`: what is there and active as long as the topic says nothing."""

    def __init__(self, log_: EventLog, default: Generation) -> None:
        super().__init__(log_, MODELS)
        self._known: dict[str, Generation] = {default.name: default}
        self._active = default.name

    def take(self, record: Record) -> None:
        try:
            if record.key == ACTIVE:
                self._active = ActiveGeneration.decode(record.value).active
                log.info("active generation", generation=self._active)
            else:
                generation = Generation.decode(record.value)
                self._known[generation.name] = generation
                log.info("generation", generation=generation.name, state=generation.state)
        except UnreadableRecord as error:
            log.error("unreadable generation", offset=record.offset, reason=error.message)

    @property
    def active(self) -> Generation:
        """The one that probes are embedded in."""
        return self._known[self._active]

    @property
    def live(self) -> list[Generation]:
        """Those that learns are embedded in."""
        return [it for it in self._known.values() if it.is_live]

    @property
    def all(self) -> list[Generation]:
        """Retired ones too, in the order in which they came."""
        return list(self._known.values())

    def get(self, name: str) -> Generation:
        """Raises NotFound."""
        if name not in self._known:
            raise NotFound(f"no generation '{name}': there are {', '.join(self._known)} (facestream models list)")
        return self._known[name]

    async def get_or_refresh(self, name: str) -> Generation:
        """The same, for a name that another process has used: it may have heard of it sooner. Raises NotFound,
        Unavailable.
        """
        if name not in self._known:
            await self.refresh()
        return self.get(name)


def generation_record(generation: Generation) -> NewRecord:
    return NewRecord(MODELS, GENERATION + generation.name, generation.encode())


def active_record(name: str) -> NewRecord:
    return NewRecord(MODELS, ACTIVE, ActiveGeneration(active=name).encode())
