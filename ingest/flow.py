"""Whether somebody is there for the images that are accepted: finds the partitions in which a request would wait for
nobody, and refuses those requests.

The state comes from the log, which is looked at every second: a partition has no owner, its group makes no progress
although records wait, or a transaction of another system holds its records back.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, get_args

import structlog
from prometheus_client import Gauge

from backends.log import EventLog, Member, partition_of
from schemas.errors import FacestreamError, HeldBack, NoProcessor, NoSink, Unavailable
from schemas.records import ImageReceived
from stream.topics import FACES_DETECTED, FACES_EMBEDDED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, PARTITIONS, RESULTS
from stream.unused_partitions import UnusedPartitions

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
# How long something is seen before requests are refused. A group without a killed member needs its session and a
# rebalance until all partitions have owners again: up to 16 s.
NO_OWNER_S, NO_PROGRESS_S, HELD_S = 20.0, 30.0, 5.0
RETRY_AFTER_S = 5

DEGRADED = Gauge(
    "facestream_degraded_partitions",
    "Partitions in which nobody goes on, by reason: no_owner, no_progress or held_back",
    ["topic", "reason"],
)


class _Pair(NamedTuple):
    """A consumer group and a topic. `optional`: an image need not pass it, so that it needs owners only if records
    wait in it.
    """

    group: str
    topic: str
    error: type[FacestreamError]
    optional: bool = False


PAIRS = (
    _Pair("processors", IMAGES_RECEIVED, NoProcessor),
    _Pair("processors", IMAGES_RECEIVED_BULK, NoProcessor),
    _Pair("embedders", FACES_DETECTED, NoProcessor, optional=True),
    _Pair("sink", FACES_EMBEDDED, NoSink),
)
Reason = Literal["no_owner", "no_progress", "held_back"]
Place = tuple[str, int]  # a topic and a partition


@dataclass(slots=True)
class _Seen:
    """What was seen of a partition: for how many seconds it has been without owner, without progress although records
    wait, and held back at an offset. `position` is where its group continues. `unanswered`: a request that passed it
    got no answer in time, and none has got one since.
    """

    no_owner_s: float = 0.0
    no_progress_s: float = 0.0
    held_s: float = 0.0
    held_at: int | None = None
    position: int | None = None
    unanswered: bool = False

    @property
    def reason(self) -> Reason | None:
        """What is wrong, if it has been so for long enough."""
        if self.no_owner_s >= NO_OWNER_S:
            return "no_owner"
        if self.held_s >= HELD_S:
            return "held_back"
        return "no_progress" if self.no_progress_s >= NO_PROGRESS_S else None

    @property
    def refuses(self) -> bool:
        """Whether requests would wait for nobody. A group that makes no progress may only be trying one record again
        and again, and finish the others.
        """
        return self.reason is not None and (self.reason != "no_progress" or self.unanswered)


class Flow:
    """Looks at the consumer groups until it is cancelled. reply_to: the address of the answers that are waited for.
    unused: what it adds to `degraded`.
    """

    def __init__(self, log_: EventLog, reply_to: str, unused: UnusedPartitions) -> None:
        self._log, self._unused = log_, unused
        self._reply_place = RESULTS, partition_of(reply_to, PARTITIONS)
        self._errors = {pair.topic: pair.error for pair in PAIRS}
        self._seen = {topic: [_Seen() for _ in range(PARTITIONS)] for topic in (*self._errors, RESULTS)}
        self._foreign: dict[str, str] = {}  # by group: another program that has partitions
        self._looked_at: float | None = None
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except Unavailable as error:
                self._looked_at = None  # time in which nothing was seen does not count
                log.warning("looking at the consumer groups failed", reason=error.message)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Raises Unavailable."""
        now = time.monotonic()
        elapsed_s = 0.0 if self._looked_at is None else now - self._looked_at
        members = {group: await self._log.group_members(group) for group in dict.fromkeys(it.group for it in PAIRS)}
        self._foreign = {
            group: it.client for group, of_group in members.items() for it in of_group if it.foreign and it.partitions
        }
        for pair in PAIRS:
            await self._look_at_pair(pair, members[pair.group], elapsed_s)
        for topic, partitions in self._seen.items():
            held = await self._log.held_offsets(topic)
            for partition, seen in enumerate(partitions):
                still = partition in held and held[partition] == seen.held_at
                seen.held_s = seen.held_s + elapsed_s if still else 0.0
                seen.held_at = held.get(partition)
        self._looked_at = now
        self._say()

    async def _look_at_pair(self, pair: _Pair, members: Collection[Member], elapsed_s: float) -> None:
        lag = await self._log.lag(pair.group, pair.topic)
        positions = await self._log.group_offsets(pair.group, pair.topic) if any(lag.values()) else {}
        owned = {at.partition for it in members if not it.foreign for at in it.partitions if at.topic == pair.topic}
        for partition, seen in enumerate(self._seen[pair.topic]):
            waits = lag[partition] > 0
            missing = partition not in owned and (waits or not pair.optional)
            seen.no_owner_s = seen.no_owner_s + elapsed_s if missing else 0.0
            stands = waits and partition in owned and positions[partition] == seen.position
            seen.no_progress_s = seen.no_progress_s + elapsed_s if stands else 0.0
            seen.position = positions.get(partition)

    def check_topic(self, topic: str) -> None:
        """Raises NoProcessor if nobody at all reads the topic."""
        if all(seen.reason == "no_owner" for seen in self._seen[topic]):
            raise self._errors[topic](
                f"no process reads {topic}: try again in {RETRY_AFTER_S} s, or send Prefer: respond-async",
                retry_after=RETRY_AFTER_S,
            )

    def check(self, received: ImageReceived, topic: str) -> None:
        """Raises NoProcessor, NoSink or HeldBack if a request that waits for this image would wait for nobody. topic:
        the one that the image is appended to.
        """
        for name, partition in self._path(received, topic):
            seen = self._seen[name][partition]
            if not seen.refuses:
                continue
            again = f"try again in {RETRY_AFTER_S} s, or send Prefer: respond-async"
            if seen.reason == "held_back":
                raise HeldBack(
                    f"a transaction of another system is open and holds back partition {partition} of {name}: {again}",
                    retry_after=RETRY_AFTER_S,
                )
            raise self._errors[name](
                f"{_explained(seen.reason)} partition {partition} of {name}: {again}", retry_after=RETRY_AFTER_S
            )

    def note_wait(self, received: ImageReceived, topic: str, *, answered: bool) -> None:
        """Notes whether a request that has waited for this image got an answer."""
        for name, partition in self._path(received, topic):
            self._seen[name][partition].unanswered = not answered

    def degraded(self) -> dict[str, str]:
        """What is wrong, by topic, without the topics in which all is well."""
        waits, unused = self._waits_for_nobody(), self._unused.degraded()
        return {
            topic: "; ".join(found[topic] for found in (waits, unused) if topic in found) for topic in waits | unused
        }

    def _waits_for_nobody(self) -> dict[str, str]:
        found: dict[str, str] = {}
        groups = {pair.topic: pair.group for pair in PAIRS}
        for topic, partitions in self._seen.items():
            texts = [
                f"{_explained(reason)} {in_ranges(numbers)}"
                for reason in get_args(Reason)
                if (numbers := [partition for partition, seen in enumerate(partitions) if seen.reason == reason])
            ]
            if client := self._foreign.get(groups.get(topic, "")):
                texts.append(f"another program ({client}) is in the group '{groups[topic]}' and has partitions")
            if texts:
                found[topic] = "; ".join(texts)
        return found

    def _say(self) -> None:
        """Publishes the metric, and logs what has changed."""
        for topic, partitions in self._seen.items():
            counts = Counter(seen.reason for seen in partitions)
            for reason in get_args(Reason):
                DEGRADED.labels(topic, reason).set(counts[reason])
        now = self._waits_for_nobody()
        for topic in now.keys() | self._said.keys():
            if topic not in now:
                log.info("partitions work again", topic=topic)
            elif now[topic] != self._said.get(topic):
                log.error("requests would wait for nobody", topic=topic, reason=now[topic])
        self._said = now

    def _path(self, received: ImageReceived, topic: str) -> list[Place]:
        """The partitions that the image and its answer pass."""
        of_image = partition_of(received.image_id, PARTITIONS)
        path = [(topic, of_image), (FACES_DETECTED, of_image), self._reply_place]
        if received.directory is not None and received.purpose != "detect":
            path.append((FACES_EMBEDDED, partition_of(received.directory, PARTITIONS)))
        return path


def _explained(reason: Reason | None) -> str:
    match reason:
        case "no_owner":
            return "no process reads"
        case "no_progress":
            return "nothing is finished in"
        case _:
            return "a transaction of another system holds back"


def in_ranges(partitions: Sequence[int]) -> str:
    """Partitions for a reader: all of them, or their numbers with ranges."""
    if len(partitions) == PARTITIONS:
        return "all partitions"
    ranges = [list(it) for _, it in groupby(partitions, key=lambda each: each - partitions.index(each))]
    texts = [f"{it[0]}" if len(it) == 1 else f"{it[0]}-{it[-1]}" for it in ranges]
    return f"partition{'s' if len(partitions) > 1 else ''} {', '.join(texts)}"
