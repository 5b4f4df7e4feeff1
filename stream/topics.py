"""The topics: names, partition counts and retention, and the consumer groups that read them."""

from dataclasses import dataclass, replace

from backends.log import TopicSpec


@dataclass(frozen=True, slots=True)
class ChangelogTopic:
    """A topic for which only stream.erase.guarded_store makes records. It is not a str, so that NewRecord does not
    accept it.
    """

    name: str


BUCKET_EVENTS = "bucket.events"
IMAGES_RECEIVED = "images.received"
IMAGES_RECEIVED_BULK = "images.received.bulk"
FACES_DETECTED = "faces.detected"
FACES_EMBEDDED = "faces.embedded"
FACES_LEARNED = ChangelogTopic("faces.learned")
RESULTS = "results"
MODELS = "models"
ERASURES = "erasures"
DEAD_LETTERS = "dead-letters"

PARTITIONS = 64
DAY_S = 86_400.0

TOPICS = (
    TopicSpec(BUCKET_EVENTS, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(IMAGES_RECEIVED, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(IMAGES_RECEIVED_BULK, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(FACES_DETECTED, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(FACES_EMBEDDED, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(FACES_LEARNED.name, PARTITIONS, compacted=True),
    TopicSpec(RESULTS, PARTITIONS, retention_s=DAY_S),
    TopicSpec(MODELS, 1, compacted=True),
    TopicSpec(ERASURES, 1, compacted=True),
    TopicSpec(DEAD_LETTERS, PARTITIONS, retention_s=14 * DAY_S),
)

# These topics contain what people look like and where they were, so their records are deleted together with the
# pictures of probes. They are kept for at least a day, for the processors.
IMAGE_TOPICS = (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, FACES_DETECTED, FACES_EMBEDDED)


def topics(keep_probes: float) -> list[TopicSpec]:
    """All topics. Those of images are kept for `keep_probes` days, but at least one and at most seven."""
    kept_s = DAY_S * min(max(keep_probes, 1.0), 7.0)
    return [replace(it, retention_s=kept_s) if it.name in IMAGE_TOPICS else it for it in TOPICS]


# The topics in which images come into the stream: their records are the origins of images.
ORIGIN_TOPICS = (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, BUCKET_EVENTS)

# Consumer groups and the topics they read. Images pass through the pairs of OF_IMAGES, those of the first lane through
# the pairs of INTERACTIVE.
GROUPS: dict[str, tuple[str, ...]] = {
    "bridge": (BUCKET_EVENTS,),
    "processors": (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK),
    "embedders": (FACES_DETECTED,),
    "sink": (FACES_EMBEDDED,),
    "answers": (RESULTS,),
}
OF_IMAGES = tuple((group, topic) for group in ("processors", "embedders", "sink") for topic in GROUPS[group])
INTERACTIVE = (("processors", IMAGES_RECEIVED), ("embedders", FACES_DETECTED), ("sink", FACES_EMBEDDED))
