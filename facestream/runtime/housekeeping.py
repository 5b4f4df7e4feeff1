"""Periodic cleaning: retention and compaction of the log, expired answers, pictures that are no longer needed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import structlog

from backends.log import EventLog
from backends.objects import ObjectDeleter
from backends.vectors import EXPIRED_KEPT_S, VectorDeleter
from facestream.runtime.system_state import SystemState
from schemas.errors import FacestreamError
from schemas.ids import crop_key, learned_face_id
from schemas.object_metadata import ObjectMetadata
from stream.erase.erasures import object_keys_of_image
from stream.erase.leftovers import delete_leftovers
from stream.erase.old_cuts import drop_old_cuts
from stream.object_listing import delete_all
from stream.unfinished import UnfinishedImages

log = structlog.get_logger(__name__)

EVERY_S = 600.0
DAY_S = 86_400.0
# After 15 days an image to learn has been learned, or it has failed and its dead letter has been deleted. Images that
# are older than 22 days were checked on an earlier day.
DECIDED_S, LOOKED_AT_S = 15 * DAY_S, 22 * DAY_S


class Housekeeping:
    """Cleans the log and the stores. keep_probes: days. If it is 0, the stage `answers` deletes pictures immediately,
    and the housekeeping deletes those that a crash has left. is_mine: whether this process does the cleaning; of
    several sinks only one does.
    """

    def __init__(
        self,
        log_: EventLog,
        objects: ObjectDeleter,
        vectors: VectorDeleter,
        state: SystemState,
        keep_probes: float,
        *,
        is_mine: Callable[[], bool] = lambda: True,
    ) -> None:
        self._log, self._objects, self._vectors, self._state, self._is_mine = log_, objects, vectors, state, is_mine
        self._daily_at = time.monotonic()
        self._keep_s = max(keep_probes * DAY_S, DAY_S if keep_probes == 0 else 0)

    async def run(self) -> None:
        while True:
            try:
                if self._is_mine():
                    await self.clean()
            except FacestreamError as error:
                log.warning("housekeeping failed", code=error.code, reason=error.message)
            await asyncio.sleep(EVERY_S)

    async def clean(self) -> None:
        await self._log.enforce_retention()
        await self._vectors.sweep_answers(time.time() - EXPIRED_KEPT_S)
        await self._vectors.sweep_erasures()
        unfinished = UnfinishedImages(self._log)
        await delete_all(self._objects, unfinished.without(self._old_probes()))
        if time.monotonic() >= self._daily_at:
            await delete_leftovers(self._log, self._objects, self._state.erasures)
            await drop_old_cuts(self._log, self._state.erasures)
            await delete_all(self._objects, unfinished.without(self._unlearned_images()))
            self._daily_at = time.monotonic() + DAY_S

    async def _old_probes(self) -> AsyncIterator[str]:
        async for info in self._objects.list("probes/", versions=True):
            if info.modified < time.time() - self._keep_s:
                if info.version is not None and await self._objects.metadata(info.key) is not None:
                    continue  # an older version is deleted with the object
                yield info.key

    async def _unlearned_images(self) -> AsyncIterator[str]:
        """The objects of images that should have been learned but were not, because they have no event or have
        failed.
        """
        async for info in self._objects.list("originals/"):
            if DECIDED_S < time.time() - info.modified < LOOKED_AT_S:
                image_id = info.key.removeprefix("originals/")
                if not await self._is_learned(image_id):
                    for key in object_keys_of_image(image_id):
                        yield key

    async def _is_learned(self, image_id: str) -> bool:
        stored = await self._objects.metadata(crop_key(learned_face_id(image_id)))
        if stored is None:
            return False
        crop = ObjectMetadata.decode(stored)
        if crop.directory is None or crop.person is None:
            return True  # its metadata does not say to whom it belongs, so it is kept
        for generation in self._state.generations.live:  # a generation that was activated with --force may lack faces
            faces = await self._vectors.faces(crop.directory, generation.name, crop.person)
            if any(it.image_id == image_id for it in faces):
                return True
        return False
