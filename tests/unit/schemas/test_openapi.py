"""The OpenAPI document equals the committed one, is valid, and has all routes, fields and errors.
tests/e2e/test_openapi.py tests that a service answers accordingly.
"""

import json
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
from aiohttp import web

from ingest.app import create_app
from ingest.service import OPEN_PATHS, Service
from schemas import errors, generate, openapi
from schemas.errors import FacestreamError
from schemas.options import Options
from schemas.records import OPTIONS

DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi.document()))
OPERATIONS = {
    (method.upper(), path): operation for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
}
# what ends a process, or a command of the command line, is no answer over HTTP
NOT_ANSWERED = {
    "OffsetGone",
    "Fenced",
    "TopicMismatch",
    "WeightsInvalid",
    "ConfigurationError",
    "MissingRight",
    "StoreDamaged",
}
# they answer methods and headers that the document does not have
UNDOCUMENTED = {"MethodNotAllowed", "ExpectationFailed"}


def routes() -> dict[tuple[str, str], web.AbstractRoute]:
    app = create_app(cast(Service, SimpleNamespace(checks={}, flow=SimpleNamespace(degraded=dict))))
    return {
        (route.method, route.resource.canonical): route
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


def test_the_committed_document_is_up_to_date() -> None:
    assert openapi.FILE.read_text() == generate.text(openapi.document()), "run python -m schemas.generate"


def test_it_has_every_route_and_no_other() -> None:
    assert set(OPERATIONS) == set(routes())


def test_it_says_which_routes_need_no_key() -> None:
    assert {path for (_, path), it in OPERATIONS.items() if it.get("security") == []} == set(OPEN_PATHS)


def test_names_of_operations_are_unique() -> None:
    names = [it["operationId"] for it in OPERATIONS.values()]
    assert len(names) == len(set(names))


def test_it_has_every_error_with_its_code() -> None:
    defined = {it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, FacestreamError)}
    codes = {
        (status, code)
        for operation in OPERATIONS.values()
        for status, response in operation["responses"].items()
        for code in response.get("content", {}).get("application/problem+json", {}).get("examples", {})
    }
    assert codes == {(str(it.status), it.code) for it in defined if it.__name__ not in NOT_ANSWERED | UNDOCUMENTED}


@pytest.mark.parametrize("purpose", OPTIONS)
def test_an_upload_has_the_options_of_its_purpose(purpose: Any) -> None:
    content = OPERATIONS["POST", f"/{purpose}"]["requestBody"]["content"]["multipart/form-data"]
    members = content["schema"]["properties"]
    assert set(members) & set(Options.model_fields) == OPTIONS[purpose]
    assert set(content["example"]) <= set(members)


def test_path_parameters_are_those_of_the_path() -> None:
    for (_, path), operation in OPERATIONS.items():
        names = [it["name"] for it in operation["parameters"] if it["in"] == "path"]
        assert [f"{{{name}}}" in path for name in names] == [True] * path.count("{"), path
        assert all("example" in it for it in operation["parameters"] if it["in"] == "path"), path


def test_examples_fit_their_schemas() -> None:
    checked = 0
    for operation in OPERATIONS.values():
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                for example in content.get("examples", {}).values():
                    schema = content["schema"] | {"components": DOCUMENT["components"]}
                    jsonschema.Draft202012Validator(schema).validate(example["value"])
                    checked += 1
    assert checked > 100
