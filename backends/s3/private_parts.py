"""Everything that is used of minio beyond its documented interface.

Besides the class below, that is `check_bucket_name` and `check_object_name` of minio.helpers (objects.py), which have
public names but no documentation.

A release of minio may change them: pyproject.toml bounds its version, and tests/unit/backends/test_private_parts.py
says what has changed.
"""

from minio.sse import Sse


class _IfNoneMatch(Sse):
    def headers(self) -> dict[str, str]:
        return {"If-None-Match": "*"}


def if_none_match() -> Sse:
    """The argument `sse` of put_object that makes it fail with PreconditionFailed if there is an object already.

    The only headers of a caller that put_object sends are metadata and those for encryption, so the condition is passed
    as one of the latter: see docs/decisions/if-none-match-through-minio.md. It has no effect on objects that are put in
    parts.
    """
    return _IfNoneMatch()
