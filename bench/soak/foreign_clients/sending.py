"""What the programs in Python share: the libraries' producers have the same methods for transactions."""

import json
import sys
from collections.abc import Callable
from itertools import groupby
from typing import Any


def send_plan(plain: Any, transactional: Any, send: Callable[[Any, dict[str, Any]], None]) -> None:
    """Sends the plan from standard input. send: takes one of the two producers and a record of the plan."""
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
