"""The stage behind `results`: keeps the answers for `GET /results/{image_id}` and for repeated requests."""

import time
from collections.abc import Mapping, Sequence

from backends.log import Committed, NewRecord, Record, TopicPartition
from backends.objects import ObjectStore
from backends.vectors import StoredAnswer, VectorStore
from schemas.answers import Problem
from schemas.errors import ObjectMissing, UnreadableRecord
from schemas.ids import original_key, sheet_key
from schemas.records import Answer, ImageReceived
from stream.answers import ANSWER_KEPT_S
from stream.erase.marks import Erasures
from stream.erase.redaction import redacted

REFUSED, FAILED = 400, 500  # statuses: what failed may be tried again, with its picture


class Answers:
    """Stage of the consumer group `answers`. `keep_probes` False deletes a probe's picture as soon as its answer is
    stored.
    """

    name = "answers"

    def __init__(self, vectors: VectorStore, objects: ObjectStore, erasures: Erasures, *, keep_probes: bool) -> None:
        self._vectors, self._objects, self._erasures, self._keep_probes = vectors, objects, erasures, keep_probes

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """Nothing is held in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        answers: list[tuple[Record, Answer]] = []
        answered: set[str] = set()
        for record in records:
            answer = Answer.decode(record.value)
            if answer.purpose == "erase":
                continue  # it names who is gone, and whoever asked for it was answered
            if not await self._came_too_late(answer, answered):
                answers.append((record, answer))
                answered.add(answer.image_id)
        fresh = [(record, it) for record, it in answers if record.timestamp / 1000 + ANSWER_KEPT_S > time.time()]
        stored = self._shown(fresh)
        await self._vectors.put_answers(stored)
        await (
            self._erasures.refresh()
        )  # an erasure that came meanwhile may have looked for names before these were there
        await self._vectors.put_answers(
            [left for put, left in zip(stored, self._shown(fresh), strict=True) if left != put]
        )
        await self._objects.delete([key for _, it in answers for key in self._pictures_of_no_use(it)])
        return []

    def _shown(self, answers: Sequence[tuple[Record, Answer]]) -> list[StoredAnswer]:
        stored = []
        for record, it in answers:
            left = redacted(it, self._erasures)
            value = record.value if left is it else left.encode()
            stored.append(StoredAnswer(it.image_id, (value or b"").decode(), record.timestamp / 1000 + ANSWER_KEPT_S))
        return stored

    def _pictures_of_no_use(self, answer: Answer) -> list[str]:
        """The keys of what goes with the answer: probes that are not kept, and portraits that were refused."""
        if answer.status >= FAILED:
            return []
        if answer.purpose == "learn":
            return [original_key(answer.image_id, "learn")] if answer.status >= REFUSED else []
        kept = self._keep_probes and answer.store
        return [] if kept else [original_key(answer.image_id, "recognize"), sheet_key(answer.image_id)]

    async def _came_too_late(self, answer: Answer, answered: set[str]) -> bool:
        """A record that is processed again finds that its picture went with the answer: the first answer stands. It may
        be in the same batch, `answered`.
        """
        if not isinstance(answer.body, Problem) or answer.body.code != ObjectMissing.code:
            return False
        return answer.image_id in answered or await self._vectors.answer(answer.image_id) is not None

    def received(self, record: Record) -> ImageReceived:
        raise UnreadableRecord("an answer is not answered")

    async def probe(self) -> None:
        await self._vectors.ping()
