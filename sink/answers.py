"""The stage behind `results`: keeps the answers for `GET /results/{image_id}` and for repeated requests."""

import time
from collections.abc import Mapping, Sequence

from backends.log import Committed, NewRecord, Record, TopicPartition
from backends.objects import ObjectStore
from backends.vectors import StoredAnswer, VectorStore
from schemas.errors import ObjectMissing, UnreadableRecord
from schemas.records import Answer, ImageReceived
from stream.answers import ANSWER_KEPT_S, sheet_key


class Answers:
    """Stage of the consumer group `answers`. `keep_probes` False deletes a probe's picture as soon as its answer is stored."""

    name = "answers"

    def __init__(self, vectors: VectorStore, objects: ObjectStore, *, keep_probes: bool) -> None:
        self._vectors, self._objects, self._keep_probes = vectors, objects, keep_probes

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """Nothing is held in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        answers: list[tuple[Record, Answer]] = []
        answered: set[str] = set()
        for record in records:
            answer = Answer.decode(record.value)
            if not await self._came_too_late(answer, answered):
                answers.append((record, answer))
                answered.add(answer.image_id)
        stored = [
            StoredAnswer(answer.image_id, (record.value or b"").decode(), record.timestamp / 1000 + ANSWER_KEPT_S)
            for record, answer in answers
        ]
        await self._vectors.put_answers([it for it in stored if it.expires_at > time.time()])
        if not self._keep_probes:
            probes = [it for _, it in answers if it.purpose != "learn"]
            await self._objects.delete([key for it in probes for key in (it.object_key, sheet_key(it)) if key])
        return []

    async def _came_too_late(self, answer: Answer, answered: set[str]) -> bool:
        """A record that is processed again finds that its picture went with the answer: the first answer stands. It may be in the
        same batch, `answered`.
        """
        if answer.body.get("code") != ObjectMissing.code:
            return False
        return answer.image_id in answered or await self._vectors.answer(answer.image_id) is not None

    def received(self, record: Record) -> ImageReceived:
        raise UnreadableRecord("an answer is not answered")

    async def probe(self) -> None:
        await self._vectors.ping()
