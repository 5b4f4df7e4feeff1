"""The metrics of stages: handled records, times and errors."""

from collections.abc import Sequence

import structlog
from prometheus_client import Counter, Histogram

from backends.log import Record

log = structlog.get_logger(__name__)

RECORDS = Counter("facestream_records_total", "Records that a stage has done", ["stage", "topic"])
BATCH = Histogram(
    "facestream_batch_records",
    "Records handed to a stage at a time",
    ["stage"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
SECONDS = Histogram("facestream_stage_seconds", "Time that a stage takes for the records of one call", ["stage"])
ERRORS = Counter("facestream_errors_total", "Errors by code, including attempts that are repeated", ["stage", "code"])
DEAD_LETTERS = Counter("facestream_dead_letters_total", "Records that could not be processed", ["stage", "code"])


def count_done(stage: str, records: Sequence[Record], seconds: float) -> None:
    """Counts and logs records that were handed over together and are done. seconds: the time that this took."""
    BATCH.labels(stage).observe(len(records))
    SECONDS.labels(stage).observe(seconds)
    for record in records:
        RECORDS.labels(stage, record.topic).inc()
        log.info(
            "handled",
            stage=stage,
            image_id=record.key,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            records=len(records),
            ms=round(seconds * 1e3, 1),
        )
