"""Everything that is used of aiokafka beyond its documented interface.

Its private members are reached only through the functions of this file. Besides them, this folder uses these parts,
which have public names but no documentation:

- AIOKafkaClient: `bootstrap`, `cluster`, `close`, `coordinator_lookup`, `force_metadata_update`, `get_random_node`,
  `send`, `set_topics` (group.py, topics.py), and ConnectionGroup and CoordinationType (group.py, fetch_sessions.py);
- the requests of aiokafka.protocol: join, sync, heartbeat, leave and commit (group.py), metadata (topics.py), and fetch
  with its `build` (fetch_sessions.py);
- the batches of a fetch response, the last member of each of its partitions (batches.py, fetch_sessions.py), and
  DefaultRecordBatch and `calc_crc32c` of aiokafka.record (batches.py);
- ConsumerProtocol and StickyPartitionAssignor of aiokafka.coordinator (group.py);
- `for_code` and `retriable` of aiokafka.errors (connect.py, group.py, topics.py).

Any release of aiokafka may change them: pyproject.toml bounds its version, and
tests/unit/backends/test_private_parts.py says what has changed.
"""

import asyncio
from typing import Any

from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.protocol.fetch import FetchRequest


def client_of(consumer: AIOKafkaConsumer) -> AIOKafkaClient:
    """The client that the consumer sends its requests with, through `client.send`."""
    return consumer._client


def fetcher_has_ended(consumer: AIOKafkaConsumer) -> bool:
    """Whether the task that fetches for the consumer has ended: then getmany waits for ever."""
    return bool(consumer._fetcher.error_future.done())


async def close_connections(consumer: AIOKafkaConsumer) -> None:
    """Closes the connections of a consumer whose stop() has failed."""
    await consumer._client.close()


def fetch_arguments(request: FetchRequest) -> dict[str, Any]:
    """The arguments that the request was made with."""
    return {
        "max_wait_time": request._max_wait_ms,
        "min_bytes": request._min_bytes,
        "max_bytes": request._max_bytes,
        "isolation_level": request._isolation_level,
        "topics": request.topics,
        "rack_id": request._rack_id,
    }


async def drop_unsent(producer: AIOKafkaProducer) -> None:
    """Stops the producer's sending and drops unsent records, so that stop() does not wait for them."""
    sending = producer._sender.sender_task
    sending.cancel()
    await asyncio.wait([sending])
    producer._message_accumulator._batches.clear()
    producer._message_accumulator._pending_batches.clear()
