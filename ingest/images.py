"""The routes that accept images and return their answers: /learn, /recognize, /detect and /results/{image_id}."""

import time

import structlog
from aiohttp import web
from pydantic import ValidationError

from ingest.problems import json_response
from ingest.service import SERVICE, Service, access_of, normalised_name
from ingest.uploads import Upload, read_upload
from ingest.waiting import LEFT, requested_wait_s, wait_for_answer
from schemas.errors import Expired, InvalidRequest, MissingField, NotFound, TooMuchInFlight, Unavailable
from schemas.http_bodies import WorkingBody
from schemas.ids import is_image_id, original_keys
from schemas.object_metadata import ObjectMetadata
from schemas.options import Options
from schemas.records import OPTIONS, Answer, ImageReceived, Purpose
from stream.answers import ANSWER_KEPT_S
from stream.erase.redaction import redact
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

LONGEST_KEY = 255
LANES = {"interactive": IMAGES_RECEIVED, "bulk": IMAGES_RECEIVED_BULK}


@routes.post("/learn")
async def learn(request: web.Request) -> web.Response:
    access_of(request, "learn")
    return await _accept_image(request, "learn")


@routes.post("/recognize")
async def recognize(request: web.Request) -> web.Response:
    return await _accept_image(request, "recognize")


@routes.post("/detect")
async def detect(request: web.Request) -> web.Response:
    return await _accept_image(request, "detect")


@routes.get("/results/{image_id}")
async def result(request: web.Request) -> web.Response:
    """The answer; 202 while the image is being worked on, 404 for an unknown image, 410 after the answer expired."""
    access, service = access_of(request, "recognize"), request.app[SERVICE]
    image_id = request.match_info["image_id"]
    unknown = NotFound(f"there is no image {image_id}", image_id=image_id)
    expired = Expired(
        f"the answer of {image_id} was kept for a day and is gone: send the image again", image_id=image_id
    )
    if not is_image_id(image_id):
        raise unknown
    recent = service.replies.recent_answer(image_id)
    if recent is not None and access.allows(recent.directory):
        return await _new_answer_response(service, recent)
    stored = await service.vectors.answer(image_id)
    if stored is not None:
        answer = Answer.decode(stored.value.encode())
        if not access.allows(answer.directory):
            raise unknown
        if stored.expires_at < time.time():
            raise expired
        return _answer_response(service, answer)
    for key in original_keys(image_id):
        kept = await service.objects.metadata(key)
        if kept is None:
            continue
        metadata = ObjectMetadata.decode(kept)
        if access.allows(metadata.directory):
            if time.time() - (metadata.received_at or 0) / 1000 > ANSWER_KEPT_S:
                raise expired
            return _working_response(image_id)
    raise unknown


async def _accept_image(request: web.Request, purpose: Purpose) -> web.Response:
    access, service = access_of(request, "recognize"), request.app[SERVICE]
    wait_s = requested_wait_s(request)
    if wait_s and service.replies.in_flight >= service.limits.max_in_flight:
        seconds = service.replies.seconds_until_free()
        raise TooMuchInFlight(
            f"{service.limits.max_in_flight} requests wait already: try again in {seconds} s", retry_after=seconds
        )
    lane = request.query.get("lane", "interactive")
    if lane not in LANES:
        raise InvalidRequest(f"lane: one of {', '.join(LANES)}", field="lane")
    topic = LANES[lane]
    if wait_s:
        service.flow.check_topic(topic)
    if wait_s and topic == IMAGES_RECEIVED:  # a bulk request may wait for any time
        service.backpressure.check()
    reserved = service.uploads.reserve(request.content_length)
    try:
        upload = await read_upload(request, service.limits.max_upload)
        fields = upload.fields
        if fields.pop("lane", lane) != lane:  # the lane is needed before the form is read
            raise InvalidRequest(f"lane is a part of the address: /{purpose}?lane=bulk", field="lane")
        person = _required_name(fields, "person") if purpose == "learn" else None
        directory = fields.pop("directory", None) or access.directory
        if directory is None and purpose != "detect":
            raise MissingField("the field 'directory' is missing: curl -F directory=acme", field="directory")
        directory = normalised_name(directory, "directory") if directory is not None else None
        if directory is not None:
            access.require_directory(directory)
        options = _parse_options(fields, purpose)
        key = request.headers.get("Idempotency-Key")
        if key is not None and not 0 < len(key) <= LONGEST_KEY:
            raise InvalidRequest(f"an Idempotency-Key has 1 to {LONGEST_KEY} characters")
        if len(request.headers.getall("Idempotency-Key", [])) > 1:
            raise InvalidRequest("there are two Idempotency-Keys: send one a request")
        received = await service.acceptor.make_event(upload, purpose, directory, person, options, key)
        if key is None:
            return await _store_and_wait(request, received, upload, topic, wait_s)
        async with service.acceptor.lock_of(received.image_id):
            earlier = await service.acceptor.earlier_answer(received, service.replies.recent_answer(received.image_id))
            if earlier is not None:
                return _answer_response(service, earlier)
            return await _store_and_wait(request, received, upload, topic, wait_s)
    finally:
        service.uploads.give_back(reserved)


async def _store_and_wait(
    request: web.Request, received: ImageReceived, upload: Upload, topic: str, wait_s: float
) -> web.Response:
    """Stores the image, appends its event, then waits for the answer."""
    service = request.app[SERVICE]
    if not wait_s:
        await service.acceptor.store(received, upload.data, topic)
        return _working_response(received.image_id)
    service.flow.check(received, topic)
    future = service.replies.expect(received.image_id)
    try:
        await service.acceptor.store(received, upload.data, topic)
        upload.data = b""
        answer = await wait_for_answer(request, future, wait_s)
        if answer is not None or not request[LEFT].done():
            service.flow.note_wait(received, topic, answered=answer is not None)
        if answer is None:
            return _working_response(received.image_id)
        log.info("answered", image_id=received.image_id, status=answer.status)
        # The answer to a learn names only the person of this request, so a concurrent erasure reveals nothing.
        return (
            _answer_response(service, answer)
            if received.purpose == "learn"
            else await _new_answer_response(service, answer)
        )
    finally:
        service.replies.forget(received.image_id, future)


async def _new_answer_response(service: Service, answer: Answer) -> web.Response:
    """The response for an answer that may not be stored yet. The erasures are read first, so that people whom another
    replica has just erased are redacted.
    """
    try:
        await service.erasures.refresh()
    except Unavailable:  # the answer exists, and can be read when the log is available again
        return _working_response(answer.image_id)
    return _answer_response(service, answer)


def _answer_response(service: Service, answer: Answer) -> web.Response:
    answer = redact(answer, service.erasures)
    return json_response(answer.status, answer.body)


def _working_response(image_id: str) -> web.Response:
    location = f"/results/{image_id}"
    body = WorkingBody(status="working", image_id=image_id, location=location)
    return json_response(202, body, {"Location": location, "Retry-After": "1"})


def _required_name(fields: dict[str, str], field: str) -> str:
    text = fields.pop(field, "")
    if not text:
        raise MissingField(f"the field '{field}' is missing: curl -F {field}=…", field=field)
    return normalised_name(text, field)


def _parse_options(fields: dict[str, str], purpose: Purpose) -> Options:
    """The remaining fields as options. Raises InvalidRequest for one that is unknown or out of bounds."""
    unknown = sorted(fields.keys() - OPTIONS[purpose])
    if unknown:
        raise InvalidRequest(
            f"unknown field '{unknown[0]}': /{purpose} knows {', '.join(sorted(OPTIONS[purpose]))}", field=unknown[0]
        )
    try:
        return Options.from_texts(fields)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_input=False)[0]
        field = str(error["loc"][0])
        raise InvalidRequest(f"{field}: {error['msg']}", field=field) from None
