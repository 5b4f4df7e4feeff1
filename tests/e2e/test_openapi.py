"""A running service answers the example requests of the OpenAPI document as the document says."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema

from schemas import openapi
from tests.e2e.conftest import Client

TEXT = openapi.FILE.read_text()
DOCUMENT: dict[str, Any] = json.loads(TEXT)
ONLY_DOCUMENTED = json.loads(TEXT.replace('"additionalProperties": true', '"additionalProperties": false'))


class Caller:
    """Sends the example of an operation, and compares the response with the document. `known` replaces the examples of
    path parameters.
    """

    def __init__(self, client: Client, photo: bytes) -> None:
        self.client, self.photo = client, photo
        self.known: dict[str, str] = {}

    async def send(self, method: str, path: str) -> tuple[int, Any]:
        operation = DOCUMENT["paths"][path][method]
        address, headers = path, {}
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                value = self.known.get(parameter["name"], parameter["example"])
                address = address.replace(f"{{{parameter['name']}}}", value)
            elif parameter["in"] == "header" and "example" in parameter:
                headers[parameter["name"]] = parameter["example"]
        form = None
        if "requestBody" in operation:
            example = operation["requestBody"]["content"]["multipart/form-data"]["example"]
            form = aiohttp.FormData({name: str(value) for name, value in example.items()})
            form.add_field("file", self.photo, filename="photo.jpg")
        url = self.client.url + address
        async with self.client.session.request(method, url, data=form, headers=headers) as response:
            said = operation["responses"][str(response.status)]
            assert response.content_type in said["content"], (method, path, response.content_type)
            data = await response.read()
        schema = said["content"][response.content_type].get("schema")
        if schema is None:
            assert data
            return response.status, data
        body = json.loads(data)
        jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(body)
        if "allOf" not in schema:
            strict = schema | {"components": ONLY_DOCUMENTED["components"]}
            jsonschema.Draft202012Validator(strict).validate(body)
        return response.status, body


async def test_every_operation_answers_as_the_document_says(client: Client, photos: Path) -> None:
    caller = Caller(client, (photos / "obama.jpg").read_bytes())
    left = {(method, path) for path, item in DOCUMENT["paths"].items() for method in item}

    async def good(method: str, path: str) -> Any:
        left.discard((method, path))
        status, body = await caller.send(method, path)
        assert status < 300, (method, path, body)
        return body

    for method, path in sorted(left):
        if method != "post" and "_id" in path:  # nothing has the ids of the examples
            assert (await caller.send(method, path))[0] == 404, path
    learned = await good("post", "/learn")
    caller.known = {"image_id": learned["image_id"], "face_id": learned["persons"][0]["face_id"]}
    recognized = await good("post", "/recognize")
    assert recognized["persons"][0]["id"] == learned["persons"][0]["id"]
    await good("post", "/detect")
    for method, path in sorted(left):
        if method == "get":
            await good(method, path)
    await good("delete", "/images/{image_id}")
    assert (await caller.send("get", "/results/{image_id}"))[0] == 409
    again = await good("post", "/learn")
    caller.known = {"image_id": again["image_id"], "face_id": again["persons"][0]["face_id"]}
    await good("delete", "/faces/{face_id}")
    for path in ("/directories/{directory}/persons/{person}", "/directories/{directory}"):
        await good("delete", path)
    assert not left
