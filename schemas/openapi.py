"""The HTTP interface as an OpenAPI 3.1 document: routes, parameters, security, answers and errors. It is generated from
the models; a test sends its examples to a running service.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from schemas import errors, examples
from schemas.answers import AnswerPart, DetectedBody, ErasedBody, LearnedBody, Problem, RecognizedBody, problem
from schemas.errors import FacestreamError
from schemas.http_bodies import (
    DEFAULT_PAGE,
    LARGEST_PAGE,
    DirectoriesBody,
    ErasingBody,
    FacesBody,
    HealthBody,
    PersonsBody,
    ReadinessBody,
    WorkingBody,
)
from schemas.media import FORMATS, MEDIA_TYPES
from schemas.names import LONGEST_NAME
from schemas.options import Options
from schemas.records import OPTIONS, Purpose

FILE = Path(__file__).with_name("openapi.json")
REFERENCE = "#/components/schemas/{model}"
BODIES: tuple[type[AnswerPart], ...] = (
    LearnedBody,
    RecognizedBody,
    DetectedBody,
    ErasedBody,
    Problem,
    WorkingBody,
    ErasingBody,
    DirectoriesBody,
    PersonsBody,
    FacesBody,
    HealthBody,
    ReadinessBody,
)
Errors = tuple[type[FacestreamError], ...]
Responses = Mapping[str, tuple[str, type[AnswerPart], AnswerPart | None]]  # description, model, example by status

WITH_KEY: Errors = (errors.Unauthorized, errors.Forbidden, FacestreamError, errors.Unavailable)
OF_IMAGES: Errors = (
    errors.Erased,
    errors.ForbiddenSource,
    errors.TooManyPixels,
    errors.UnreadableImage,
    errors.ObjectMissing,
    errors.UnreadableRecord,
    errors.ProcessingFailed,
    errors.GenerationRetired,
)
OF_PORTRAITS: Errors = (errors.NoFace, errors.NotOneFace, errors.FaceTooSmall)
OF_UPLOADS: Errors = (
    errors.InvalidRequest,
    errors.MissingField,
    errors.UploadStalled,
    errors.UploadTooLarge,
    errors.NotAnImage,
    errors.UnsupportedEncoding,
    errors.IdempotencyKeyReused,
    errors.TooMuchInFlight,
    errors.NoProcessor,
    errors.HeldBack,
    errors.StorageFull,
)
OF_ERASING: Errors = (errors.InvalidRequest, errors.StorageFull, errors.ProcessingFailed, errors.UnreadableRecord)


def document() -> dict[str, Any]:
    _, schemas = models_json_schema([(model, "validation") for model in BODIES], ref_template=REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {"title": "facestream", "version": "1", "description": "Learn and recognize people in images."},
        "security": [{"apiKey": []}, {"bearer": []}, {}],
        "paths": _image_paths() | _listing_paths() | _service_paths(),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "A key of `facestream keys create`. Without any key, everybody may do everything.",
                },
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same key as a bearer token."},
            },
        },
    }


def _image_paths() -> dict[str, Any]:
    learned = {"200": ("The same picture of this person was learned before", LearnedBody, examples.LEARNED)}
    learned["201"] = ("Learned: the next recognize in this directory finds the face", LearnedBody, examples.LEARNED)
    recognized = {"200": ("All faces of the photo", RecognizedBody, examples.RECOGNIZED)}
    detected = {"200": ("All faces of the photo", DetectedBody, examples.DETECTED)}
    image_id = _path("image_id", examples.IMAGE_ID)
    stored = {
        "description": "The answer that the request would have received",
        "content": _json_of(_any_of(LearnedBody, RecognizedBody, DetectedBody), recognized=examples.RECOGNIZED),
    }
    result = _operation("result", "The answer to an image; it is kept for a day", "images", [image_id], {})
    result["responses"] = {"200": stored, "201": stored, "202": _working()} | _problems(
        *WITH_KEY, *OF_IMAGES, *errors.REFUSALS_OF_EVENTS, errors.NotFound, errors.Expired
    )
    return {
        "/learn": {"post": _upload("learn", "Learn the person in a portrait", learned, OF_PORTRAITS)},
        "/recognize": {"post": _upload("recognize", "Recognize everybody in a photo", recognized)},
        "/detect": {"post": _upload("detect", "Find the faces in a photo", detected)},
        "/results/{image_id}": {"get": result},
        "/files/{image_id}.{ext}": {
            "get": _picture("file", "The picture of an image, as it was uploaded", [image_id, _path("ext", "jpg")])
        },
        "/images/{image_id}": {"delete": _erase("image", "Erase an image and the face learned from it", [image_id])},
        "/faces/{face_id}.jpg": {
            "get": _picture("face", "The crop of a learned face", [_path("face_id", examples.FACE_ID)])
        },
        "/faces/{face_id}": {
            "delete": _erase("face", "Erase a learned face with its image", [_path("face_id", examples.FACE_ID)])
        },
    }


def _listing_paths() -> dict[str, Any]:
    directory, person = _path("directory", examples.DIRECTORY), _path("person", examples.PERSON)
    limit = {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": DEFAULT_PAGE}
    after = {"type": "string", "default": ""}
    page = [_query("after", after, "the `next` of the page before"), _query("limit", limit, "people a page")]
    directories = {"200": ("The directories that the key may see", DirectoriesBody, None)}
    persons = {"200": ("A page of people", PersonsBody, None)}
    faces = {"200": ("The learned faces of a person", FacesBody, None)}
    return {
        "/directories": {"get": _operation("directories", "All directories", "people", [], directories, WITH_KEY)},
        "/directories/{directory}": {
            "delete": _erase("directory", "Erase everybody in a directory, and all its pictures", [directory])
        },
        "/directories/{directory}/persons": {
            "get": _operation(
                "persons",
                "The people of a directory",
                "people",
                [directory, *page],
                persons,
                (*WITH_KEY, errors.InvalidRequest),
            )
        },
        "/directories/{directory}/persons/{person}": {
            "delete": _erase("person", "Erase a person with all faces and images", [directory, person])
        },
        "/directories/{directory}/persons/{person}/faces": {
            "get": _operation(
                "faces",
                "The learned faces of a person",
                "people",
                [directory, person],
                faces,
                (*WITH_KEY, errors.InvalidRequest, errors.NotFound),
            )
        },
    }


def _service_paths() -> dict[str, Any]:
    health = {"200": ("The process answers", HealthBody, None)}
    ready = {
        "200": ("Models are loaded, groups joined, stores reachable", ReadinessBody, None),
        "503": ("Something is not ready", ReadinessBody, None),
    }
    paths = {
        "/healthz": _operation("healthz", "Whether the process answers", "service", [], health),
        "/readyz": _operation("readyz", "Whether it can work", "service", [], ready),
        "/metrics": _text("metrics", "Metrics in the text format of Prometheus", "text/plain"),
        "/openapi.json": _text("openapi", "This document", "application/json"),
        "/docs": _text("docs", "This document as a page", "text/html"),
        "/docs/{file}": _text("docsFile", "The files that the page loads", "text/javascript", "text/css"),
    }
    for path, operation in paths.items():
        if path == "/metrics":
            operation["responses"] |= _problems(*WITH_KEY)
        else:
            operation["security"] = []
    paths["/docs/{file}"]["parameters"] = [_path("file", "swagger-ui.css")]
    paths["/docs/{file}"]["responses"] |= _problems(errors.NotFound)
    return {path: {"get": operation} for path, operation in paths.items()}


def _operation(
    name: str,
    summary: str,
    tag: str,
    parameters: list[dict[str, Any]],
    bodies: Responses,
    raised: Errors = (),
) -> dict[str, Any]:
    responses = {
        status: {
            "description": description,
            "content": _json_of(_schema(model), **({"example": example} if example else {})),
        }
        for status, (description, model, example) in bodies.items()
    }
    return {
        "operationId": name,
        "summary": summary,
        "tags": [tag],
        "parameters": parameters,
        "responses": responses | _problems(*raised),
    }


def _upload(
    purpose: Purpose,
    summary: str,
    bodies: Responses,
    further: Errors = (),
) -> dict[str, Any]:
    lanes = {"type": "string", "enum": ["interactive", "bulk"], "default": "interactive"}
    parameters = [
        _query("lane", lanes, "bulk: requests of the interactive lane are processed first"),
        _header("Prefer", "`wait=N`: seconds until 202, 30 by default; `respond-async`: 202 at once", "wait=30"),
        _header("Idempotency-Key", "A request with the same key and the same content has one effect", None),
    ]
    of_purpose = further if purpose == "detect" else (*further, errors.NoSink)
    raised = (*WITH_KEY, *OF_UPLOADS, *OF_IMAGES, *of_purpose)
    operation = _operation(purpose, summary, "images", parameters, bodies, raised)
    operation["responses"]["202"] = _working()
    options = Options.model_json_schema()["properties"]
    members: dict[str, Any] = {
        "file": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": FORMATS,
        },
        "directory": {"type": "string", "maxLength": LONGEST_NAME, "description": "default: the directory of the key"},
    }
    example: dict[str, Any] = {"directory": examples.DIRECTORY}
    if purpose == "learn":
        members["person"] = {"type": "string", "maxLength": LONGEST_NAME}
        example |= {"person": examples.PERSON, "face": "largest"}
    if purpose == "recognize":
        example |= {"top": 1}
    schema = {
        "type": "object",
        "required": ["file", "person"] if purpose == "learn" else ["file"],
        "properties": members | {name: options[name] for name in sorted(OPTIONS[purpose])},
    }
    content = {"multipart/form-data": {"schema": schema, "example": example}}
    operation["requestBody"] = {
        "required": True,
        "description": "All fields but the file may stand in the query instead.",
        "content": content,
    }
    return operation


def _erase(name: str, summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    bodies: Responses = {
        "200": ("Everything has been deleted", ErasedBody, examples.ERASED),
        "202": ("It is being deleted: send the request again", ErasingBody, None),
    }
    raised = (*WITH_KEY, *OF_ERASING, errors.NotFound)
    return _operation(f"erase{name.title()}", summary, "erase", parameters, bodies, raised)


def _picture(name: str, summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    operation = _operation(name, summary, "images", parameters, {}, (*WITH_KEY, errors.NotFound))
    operation["responses"]["200"] = {
        "description": "The picture",
        "content": {media_type: {} for media_type in (*MEDIA_TYPES, "application/octet-stream")},
    }
    return operation


def _text(name: str, summary: str, *media_types: str) -> dict[str, Any]:
    operation = _operation(name, summary, "service", [], {})
    operation["responses"]["200"] = {"description": summary, "content": {it: {} for it in media_types}}
    return operation


def _working() -> dict[str, Any]:
    headers = {
        "Location": {"schema": {"type": "string"}, "description": "where the answer will be"},
        "Retry-After": {"schema": {"type": "string"}, "description": "seconds"},
    }
    return {
        "description": "The image is being worked on",
        "headers": headers,
        "content": _json_of(_schema(WorkingBody)),
    }


def _problems(*raised: type[FacestreamError]) -> dict[str, Any]:
    """The responses to errors, by status: each says which codes it may have."""
    by_status: dict[str, list[type[FacestreamError]]] = {}
    for error in dict.fromkeys(raised):
        by_status.setdefault(str(error.status), []).append(error)
    return {
        status: {
            "description": ", ".join(f"`{error.code}`" for error in of_status),
            "content": {
                "application/problem+json": {
                    "schema": {
                        "allOf": [
                            _schema(Problem),
                            {"properties": {"code": {"enum": [error.code for error in of_status]}}},
                        ]
                    },
                    "examples": {
                        error.code: {"value": problem(error("what was wrong, and what to do")).members()}
                        for error in of_status
                    },
                }
            },
        }
        for status, of_status in sorted(by_status.items())
    }


def _json_of(schema: dict[str, Any], **shown: AnswerPart) -> dict[str, Any]:
    named = {"examples": {name: {"value": body.members()} for name, body in shown.items()}} if shown else {}
    return {"application/json": {"schema": schema} | named}


def _any_of(*models: type[AnswerPart]) -> dict[str, Any]:
    return {"anyOf": [_schema(model) for model in models]}


def _schema(model: type[AnswerPart]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def _path(name: str, example: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, description: str, example: str | None) -> dict[str, Any]:
    shown = {"example": example} if example else {}
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description} | shown
