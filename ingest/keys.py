"""API keys, stored as hashes, and what each key allows in which directory.

A key reads `fs_<key id>_<secret>`. The secret has 256 random bits, so one round of SHA-256 is enough to store it
safely.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from backends.vectors import ApiKey, VectorReader
from schemas.errors import Forbidden, Unauthorized

SCOPES = ("recognize", "learn", "admin")  # each includes those before it
REFRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may do. `directory` None means every directory."""

    scope: str = "admin"
    directory: str | None = None

    def require_scope(self, scope: str) -> None:
        if SCOPES.index(self.scope) < SCOPES.index(scope):
            raise Forbidden(
                f"this key has the scope '{self.scope}', this needs '{scope}': facestream keys create --scope {scope}"
            )

    def allows(self, directory: str | None) -> bool:
        return self.directory is None or self.directory == directory

    def require_directory(self, directory: str | None) -> None:
        if not self.allows(directory):
            raise Forbidden("this key is for another directory")


def create_key(scope: str, directory: str | None) -> tuple[str, ApiKey]:
    """A new key: the text for its owner, and what is stored."""
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    return f"fs_{key_id}_{secret}", ApiKey(key_id, _hash(secret), scope, directory, time.time())


class KeyChecker:
    """Checks the keys of requests. A new or revoked key takes effect within two seconds."""

    def __init__(self, vectors: VectorReader) -> None:
        self._vectors = vectors
        self._keys: dict[str, ApiKey] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def check(self, text: str | None) -> Access:
        """The access of a key. Raises Unauthorized. If the store has no keys, everybody may do everything; the service
        then listens only on loopback, unless FACESTREAM_OPEN is set.
        """
        if time.monotonic() - self._read_at > REFRESH_S:
            async with self._reading:
                if time.monotonic() - self._read_at > REFRESH_S:
                    self._keys = {key.key_id: key for key in await self._vectors.api_keys()}
                    self._read_at = time.monotonic()
        if not self._keys:
            return Access()
        if not text:
            raise Unauthorized("an API key is needed: send it as the header x-api-key")
        prefix, _, rest = text.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id)
        if prefix != "fs" or key is None or not hmac.compare_digest(key.secret_hash, _hash(secret)):
            raise Unauthorized("this API key is not known, or was revoked")
        return Access(key.scope, key.directory)


def _hash(secret: str) -> str:
    # A header may have any bytes. aiohttp decodes those that are not UTF-8 as lone surrogates.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
