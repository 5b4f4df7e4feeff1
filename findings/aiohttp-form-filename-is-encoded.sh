#!/usr/bin/env bash
# aiohttp 3.14.5: the filename of a form upload arrives percent-encoded, even at aiohttp's own server.
#
# One would guess: client and server of one library agree, and the server reads the name that the client was given.
#
# Seen: the server reads the encoded name. FormData(quote_fields=False) sends it as it is.
#
#   default:            M%C3%BCller%201.jpg
#   quote_fields=False: Müller 1.jpg
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiohttp==3.14.5
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio

from aiohttp import ClientSession, FormData, web

NAME = "Müller 1.jpg"


async def filename(request):
    part = await (await request.multipart()).next()
    return web.Response(text=part.filename)


async def main():
    app = web.Application()
    app.router.add_post("/", filename)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://127.0.0.1:%d/" % runner.addresses[0][1]
    seen = []
    async with ClientSession() as session:
        for form in (FormData(), FormData(quote_fields=False)):
            form.add_field("file", b"picture", filename=NAME)
            async with session.post(url, data=form) as response:
                seen.append(await response.text())
    await runner.cleanup()
    return seen


default, unquoted = asyncio.run(main())
print("default:           ", default)
print("quote_fields=False:", unquoted)
assert default == "M%C3%BCller%201.jpg"
assert unquoted == NAME
PYTHON
