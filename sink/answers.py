"""The stage behind `results`: keeps the answers for `GET /results/{image_id}` and for repeated requests."""

import time
from collections.abc import Mapping, Sequence

from backends.log import CommittedOffset, NewRecord, Record, TopicPartition
from backends.objects import ObjectDeleter
from backends.vectors import VectorReader
from schemas.answers import LearnedBody, Problem
from schemas.errors import InvalidEvent, ObjectMissing, UnreadableRecord
from schemas.ids import crop_key, learned_face_id, original_key, sheet_key
from schemas.records import Answer, ImageReceived
from stream.answers import ANSWER_KEPT_S
from stream.erase.guarded_store import AnswerToStore, GuardedStore

KNOWN = 200  # to a learn: the same picture of this person was learned before
REFUSED, FAILED = 400, 500  # HTTP statuses: an image that failed may be tried again, so its picture is kept


class AnswerStage:
    """Stage of the consumer group `answers`. `keep_probes` False deletes a probe's picture as soon as its answer is
    stored.
    """

    name = "answers"

    def __init__(
        self, vectors: VectorReader, objects: ObjectDeleter, store: GuardedStore, *, keep_probes: bool
    ) -> None:
        self._vectors, self._objects, self._store, self._keep_probes = vectors, objects, store, keep_probes

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Does nothing: the stage keeps no state in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        answers: list[AnswerToStore] = []
        answered: dict[str, Answer] = {}  # by image_id
        now = time.time()  # an append time may be ahead, if a clock was
        for record in records:
            answer = Answer.decode(record.value)
            if answer.purpose == "erase":
                continue  # it names the erased person; the waiting request gets it from `results`
            if not await self._is_superseded(answer, answered):
                value = (record.value or b"").decode()
                answers.append(AnswerToStore(answer, value, min(record.timestamp / 1000, now) + ANSWER_KEPT_S))
                answered[answer.image_id] = answer
        await self._store.put_answers([it for it in answers if it.expires_at > now])
        await self._objects.delete([key for it in answers for key in self._unneeded_pictures(it.answer)])
        return []

    def _unneeded_pictures(self, answer: Answer) -> list[str]:
        """The keys of pictures that are not needed after the answer: probes that are not kept, refused portraits, and
        portraits that are stored as another image of the same person. Until the answer is stored, the picture tells
        that the image was accepted. For an invalid event no picture was stored: what is there belongs to another event
        with its image_id.
        """
        if answer.status >= FAILED or _code(answer) == InvalidEvent.code:
            return []
        if isinstance(answer.body, LearnedBody) and answer.status == KNOWN and answer.body.image_id != answer.image_id:
            return [original_key(answer.image_id, "learn"), crop_key(learned_face_id(answer.image_id))]
        if answer.purpose == "learn":
            return [original_key(answer.image_id, "learn")] if answer.status >= REFUSED else []
        kept = self._keep_probes and answer.store
        return [] if kept else [original_key(answer.image_id, "recognize"), sheet_key(answer.image_id)]

    async def _is_superseded(self, answer: Answer, answered: Mapping[str, Answer]) -> bool:
        """Whether an earlier answer to the image is kept, which may be in the same batch, `answered`. A record that is
        processed again does not find its picture, which was deleted after the first answer. An invalid event that has
        the image_id of another event says nothing about that.
        """
        if _code(answer) not in (ObjectMissing.code, InvalidEvent.code):
            return False
        earlier = answered.get(answer.image_id)
        if earlier is None and (stored := await self._vectors.answer(answer.image_id)) is not None:
            try:
                earlier = Answer.decode(stored.value.encode())
            except UnreadableRecord:  # of another release
                return True
        return earlier is not None and _code(earlier) != InvalidEvent.code

    def event_of(self, record: Record) -> ImageReceived:
        raise UnreadableRecord("an answer is not answered")

    async def check_stores(self) -> None:
        await self._vectors.ping()


def _code(answer: Answer) -> str | None:
    """The code of an error."""
    return answer.body.code if isinstance(answer.body, Problem) else None
