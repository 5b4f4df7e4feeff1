"""The topics: names, partition counts and retention as the design's table has them."""

from backends.log import TopicSpec

IMAGES_RECEIVED = "images.received"
IMAGES_RECEIVED_BULK = "images.received.bulk"
FACES_DETECTED = "faces.detected"
FACES_EMBEDDED = "faces.embedded"
FACES_LEARNED = "faces.learned"
RESULTS = "results"
MODELS = "models"
ERASURES = "erasures"
DEAD_LETTERS = "dead-letters"

PARTITIONS = 64
DAY_S = 86_400.0

TOPICS = (
    TopicSpec(IMAGES_RECEIVED, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(IMAGES_RECEIVED_BULK, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(FACES_DETECTED, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(FACES_EMBEDDED, PARTITIONS, retention_s=7 * DAY_S),
    TopicSpec(FACES_LEARNED, PARTITIONS, compacted=True),
    TopicSpec(RESULTS, PARTITIONS, retention_s=DAY_S),
    TopicSpec(MODELS, 1, compacted=True),
    TopicSpec(ERASURES, 1, compacted=True),
    TopicSpec(DEAD_LETTERS, PARTITIONS, retention_s=14 * DAY_S),
)

# Consumer groups and what they read. The first lane's images go through the pairs of INTERACTIVE.
GROUPS: dict[str, tuple[str, ...]] = {
    "processors": (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK),
    "embedders": (FACES_DETECTED,),
    "sink": (FACES_EMBEDDED,),
    "answers": (RESULTS,),
}
INTERACTIVE = (("processors", IMAGES_RECEIVED), ("embedders", FACES_DETECTED), ("sink", FACES_EMBEDDED))
