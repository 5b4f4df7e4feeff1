"""Sends a plan with kafka-python; see __init__.py."""

import sys
from typing import Any

from kafka import KafkaProducer

from bench.soak.foreign_clients.sending import send_plan


def main(servers: str, codec: str, name: str) -> None:
    settings = {"bootstrap_servers": servers, "compression_type": codec, "acks": "all", "linger_ms": 5}
    plain, transactional = KafkaProducer(**settings), KafkaProducer(transactional_id=name, **settings)
    sent = []

    def send(producer: KafkaProducer, line: dict[str, Any]) -> None:
        sent.append(producer.send(line["topic"], line["value"].encode(), line["key"].encode()))

    send_plan(plain, transactional, send)
    for future in sent:
        future.get(timeout=60)  # raises what went wrong
    plain.close()
    transactional.close()
    print(len(sent))


if __name__ == "__main__":
    main(*sys.argv[1:])
