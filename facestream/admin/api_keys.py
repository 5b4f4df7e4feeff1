"""Creates API keys."""

from backends.vectors import VectorStore
from ingest.keys import create_key


async def new_key(vectors: VectorStore, scope: str, directory: str | None) -> str:
    """Creates and stores a key; returns its text for the owner. Raises Unavailable."""
    text, key = create_key(scope, directory)
    await vectors.put_api_key(key)
    return text
