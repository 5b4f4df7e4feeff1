"""Sends a plan with kafka-python; see __init__.py."""

import json
import sys
from itertools import groupby
from typing import Any

from kafka import KafkaProducer


def main(servers: str, codec: str, name: str) -> None:
    settings = {"bootstrap_servers": servers, "compression_type": codec, "acks": "all", "linger_ms": 5}
    plain, transactional = KafkaProducer(**settings), KafkaProducer(transactional_id=name, **settings)
    transactional.init_transactions()
    sent = []

    def send(producer: KafkaProducer, line: dict[str, Any]) -> None:
        sent.append(producer.send(line["topic"], line["value"].encode(), line["key"].encode()))

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
    for future in sent:
        future.get(timeout=60)  # raises what went wrong
    plain.close()
    transactional.close()
    print(len(sent))


if __name__ == "__main__":
    main(*sys.argv[1:])
