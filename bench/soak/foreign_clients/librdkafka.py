"""Sends a plan with librdkafka (confluent-kafka); see __init__.py."""

import sys
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from bench.soak.foreign_clients.sending import send_plan

acknowledged = 0


def count(error: KafkaError | None, message: Message) -> None:
    global acknowledged
    if error is not None:
        raise SystemExit(f"{message.key()!r} was not sent: {error}")
    acknowledged += 1


def send(producer: Producer, line: dict[str, Any]) -> None:
    while True:
        try:
            producer.produce(line["topic"], line["value"], line["key"], on_delivery=count)
            break
        except BufferError:  # its queue is full
            producer.poll(0.1)
    producer.poll(0)


def main(servers: str, codec: str, name: str) -> None:
    settings = {"bootstrap.servers": servers, "compression.type": codec, "enable.idempotence": True}
    plain, transactional = Producer(settings), Producer(settings | {"transactional.id": name})
    send_plan(plain, transactional, send)
    print(acknowledged)


if __name__ == "__main__":
    main(*sys.argv[1:])
