#!/usr/bin/env bash
# minio 7.2.20: get_object() decompresses an object that was stored with `Content-Encoding: gzip`.
#
# One would guess: read() gives the bytes of the object, as many as Content-Length and stat_object() say.
#
# Seen: read() gives other bytes, here far more of them, which match neither the size nor the ETag.
#
#   size: 53, read: 6000
#
# The server below answers as S3 does: it sends the stored bytes and the stored Content-Encoding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check minio==7.2.20 urllib3==2.8.0
"$folder/venv/bin/python" - <<'PYTHON'
import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from minio import Minio

TEXT = b"hello " * 1000
STORED = gzip.compress(TEXT, mtime=0)


class Server(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(STORED)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("ETag", f'"{hashlib.md5(STORED).hexdigest()}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(STORED)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Minio(f"127.0.0.1:{server.server_port}", "key", "secret-key", secure=False, region="us-east-1")
size = client.stat_object("bucket", "object").size
response = client.get_object("bucket", "object")
data = response.read()
print(f"size: {size}, read: {len(data)}")
assert size == len(STORED)
assert data == TEXT
PYTHON
