"""The routes that describe the service: the OpenAPI document, and Swagger UI to read it with. They need no key, because
they reveal nothing about stored data. The page loads nothing from other hosts, and runs only scripts that are served
here.
"""

from pathlib import Path

from aiohttp import web
from openapi_ui_bundles.swagger_ui import static_path

from schemas.errors import NotFound
from schemas.openapi import FILE

routes = web.RouteTableDef()

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>facestream</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", deepLinking: true});\n'
FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
HEADERS = {
    # Swagger UI sets style attributes and has its icons as data URLs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.FileResponse:
    return web.FileResponse(FILE, headers={"Content-Type": "application/json"})


@routes.get("/docs")
async def docs(request: web.Request) -> web.Response:
    """The document as a page."""
    return web.Response(text=PAGE, content_type="text/html", headers=HEADERS)


@routes.get("/docs/{file}")
async def docs_file(request: web.Request) -> web.StreamResponse:
    """A file of the page."""
    name = request.match_info["file"]
    if name == "start.js":
        return web.Response(text=START, content_type="text/javascript", headers=HEADERS)
    if name not in FILES:
        raise NotFound(f"there is no {request.path}")
    return web.FileResponse(Path(static_path, name), headers=HEADERS | {"Content-Type": FILES[name]})
