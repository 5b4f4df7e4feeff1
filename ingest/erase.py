"""The routes that erase people, faces, images and directories. They answer 200 once everything has been deleted (rule
6 of docs/architecture.md).
"""

import structlog
from aiohttp import web

from backends.log import NewRecord
from ingest.problems import json_response
from ingest.service import SERVICE, access_of, normalised_name
from ingest.waiting import requested_wait_s, wait_for_answer
from schemas.answers import ErasedBody, ErasedCounts
from schemas.erasures import (
    AnyErasure,
    DirectoryErasure,
    FaceErasure,
    ImageErasure,
    PersonErasure,
    erase_command,
)
from schemas.errors import NotFound
from schemas.http_bodies import ErasingBody
from schemas.ids import crop_key, is_image_id, learned_face_id, new_image_id, original_keys
from schemas.object_metadata import ObjectMetadata
from stream.erase.cuts import make_cut
from stream.topics import FACES_EMBEDDED

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()


@routes.delete("/directories/{directory}")
async def directory(request: web.Request) -> web.Response:
    """Erases everybody in a directory, and all its pictures."""
    name = normalised_name(request.match_info["directory"], "directory")
    access_of(request, "admin").require_directory(name)
    return await _erase(request, DirectoryErasure(name))


@routes.delete("/directories/{directory}/persons/{person}")
async def person(request: web.Request) -> web.Response:
    """Erases all faces of a person with their images, including images that are still being processed."""
    name = normalised_name(request.match_info["directory"], "directory")
    access_of(request, "learn").require_directory(name)
    person_name = normalised_name(request.match_info["person"], "person")
    return await _erase(request, PersonErasure(name, person_name))


@routes.delete("/faces/{face_id}")
async def face(request: web.Request) -> web.Response:
    """Erases a learned face with its image."""
    face_id = request.match_info["face_id"]
    metadata = await _metadata(request, face_id, (crop_key(face_id),))
    assert metadata.directory is not None
    assert metadata.person is not None
    assert metadata.image_id is not None
    return await _erase(request, FaceErasure(metadata.directory, metadata.person, face_id, metadata.image_id))


@routes.delete("/images/{image_id}")
async def image(request: web.Request) -> web.Response:
    """Erases an image, and the face that was learned from it or is still to be learned."""
    image_id = request.match_info["image_id"]
    metadata = await _metadata(request, image_id, original_keys(image_id))
    if metadata.directory is None:  # a detect request: only its picture and its answer exist
        service = request.app[SERVICE]
        async with service.reserve.released():
            await service.objects.delete(original_keys(image_id))
            await service.vectors.delete_answers([image_id])
        body = ErasedBody(status="OK", directory=None, person=None, erased=ErasedCounts(faces=0, images=1))
        return json_response(200, body)
    if metadata.person is None:
        return await _erase(request, ImageErasure(metadata.directory, image_id))
    face_id = learned_face_id(image_id)
    return await _erase(request, FaceErasure(metadata.directory, metadata.person, face_id, image_id))


async def _metadata(request: web.Request, identifier: str, keys: tuple[str, ...]) -> ObjectMetadata:
    """The metadata of the first object that is there and that the caller may see. Raises NotFound."""
    access, service = access_of(request, "learn"), request.app[SERVICE]
    if is_image_id(identifier):
        for key in keys:
            stored = await service.objects.metadata(key)
            if stored is not None and access.allows((metadata := ObjectMetadata.decode(stored)).directory):
                return metadata
    raise NotFound(f"there is no {request.path}")


async def _erase(request: web.Request, erasure: AnyErasure) -> web.Response:
    async with request.app[SERVICE].reserve.released():
        return await _append_and_wait(request, erasure)


async def _append_and_wait(request: web.Request, erasure: AnyErasure) -> web.Response:
    """Appends the command to the directory's partition, and waits until it is carried out and this replica knows about
    the erasure.
    """
    service, wait_s = request.app[SERVICE], requested_wait_s(request)
    cut = await make_cut(service.log)
    command = erase_command(erasure, new_image_id(), cut, service.replies.reply_to)
    future = service.replies.expect(command.image_id)
    try:
        await service.log.append([NewRecord(FACES_EMBEDDED, command.image_id, command.encode(), command.directory)])
        log.info("erase requested", image_id=command.image_id, handler=request.match_info.handler.__name__)
        answer = await wait_for_answer(request, future, wait_s)
        if answer is None:
            detail = "send the request again: it answers 200 once all is erased"
            return json_response(202, ErasingBody(status="working", detail=detail))
        await service.erasures.refresh()
        return json_response(answer.status, answer.body)
    finally:
        service.replies.forget(command.image_id, future)
