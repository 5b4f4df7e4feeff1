"""Sends a plan with librdkafka (confluent-kafka); see __init__.py."""

import json
import sys
from itertools import groupby
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

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
    transactional.init_transactions()
    for transaction, lines in groupby(map(json.loads, sys.stdin), key=lambda it: it["transaction"]):
        if transaction is None:
            for line in lines:
                send(plain, line)
            continue
        transactional.begin_transaction()
        for line in lines:
            send(transactional, line)
        transactional.flush()
        if line["commit"]:
            transactional.commit_transaction()
        else:
            transactional.abort_transaction()
    plain.flush()
    print(acknowledged)


if __name__ == "__main__":
    main(*sys.argv[1:])
