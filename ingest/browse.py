"""The routes that list and return what is stored: files, faces, directories and people."""

import re

from aiohttp import web

from ingest.problems import json_response
from ingest.service import SERVICE, access_of, normalised_name
from ingest.uploads import query_fields
from schemas.errors import InvalidRequest, NotFound, ObjectMissing
from schemas.http_bodies import (
    DEFAULT_PAGE,
    LARGEST_PAGE,
    DirectoriesBody,
    FaceEntry,
    FacesBody,
    PersonEntry,
    PersonsBody,
)
from schemas.ids import crop_key, is_image_id, original_keys
from schemas.media import HEAD_BYTES, sniff
from schemas.object_metadata import ObjectMetadata

routes = web.RouteTableDef()

# A browser must treat an uploaded file only as a picture, never as a page or a script.
FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=300",
}


@routes.get("/files/{image_id}.{ext}")
async def file(request: web.Request) -> web.Response:
    """The original as it was uploaded; its type follows from its content."""
    image_id = request.match_info["image_id"]
    return await _picture(request, image_id, original_keys(image_id), "recognize")


@routes.get("/faces/{face_id}.jpg")
async def face(request: web.Request) -> web.Response:
    """The crop of a learned face."""
    face_id = request.match_info["face_id"]
    return await _picture(request, face_id, (crop_key(face_id),), "learn")


async def _picture(request: web.Request, identifier: str, keys: tuple[str, ...], scope: str) -> web.Response:
    access, service = access_of(request, scope), request.app[SERVICE]
    if is_image_id(identifier):
        for key in keys:
            try:
                stored = await service.objects.get(key)
            except ObjectMissing:
                continue
            if access.allows(ObjectMetadata.decode(stored.metadata).directory):
                media_type = sniff(stored.data[:HEAD_BYTES]) or "application/octet-stream"
                return web.Response(body=stored.data, content_type=media_type, headers=FILE_HEADERS)
    raise NotFound(f"there is no {request.path}")


@routes.get("/directories")
async def directories(request: web.Request) -> web.Response:
    access, service = access_of(request, "learn"), request.app[SERVICE]
    names = await service.vectors.directories(service.generations.active.name)
    return json_response(200, DirectoriesBody(directories=[name for name in names if access.allows(name)]))


@routes.get("/directories/{directory}/persons")
async def persons(request: web.Request) -> web.Response:
    """A page of people with their face counts; `next` is the `after` of the next page, absent on the last."""
    service, directory = request.app[SERVICE], _directory_of(request)
    fields = query_fields(request)
    after, number = fields.get("after", ""), fields.get("limit", str(DEFAULT_PAGE))
    limit = int(number) if re.fullmatch("[0-9]{1,4}", number) else 0
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidRequest(f"limit: a number from 1 to {LARGEST_PAGE}", field="limit")
    page = await service.vectors.persons(directory, service.generations.active.name, after=after, limit=limit + 1)
    entries = [PersonEntry(id=it.person, faces=it.faces) for it in page[:limit]]
    body = PersonsBody(directory=directory, persons=entries)
    return json_response(200, body.model_copy(update={"next": entries[-1].id}) if len(page) > limit else body)


@routes.get("/directories/{directory}/persons/{person}/faces")
async def faces(request: web.Request) -> web.Response:
    service, directory = request.app[SERVICE], _directory_of(request)
    person = normalised_name(request.match_info["person"], "person")
    found = await service.vectors.faces(directory, service.generations.active.name, person)
    if not found:
        raise NotFound(f"directory '{directory}' knows no '{person}'")
    entries = [FaceEntry(face_id=it.face_id, image_id=it.image_id, url=f"/faces/{it.face_id}.jpg") for it in found]
    return json_response(200, FacesBody(directory=directory, person=person, faces=entries))


def _directory_of(request: web.Request) -> str:
    access = access_of(request, "learn")
    directory = normalised_name(request.match_info["directory"], "directory")
    access.require_directory(directory)
    return directory
