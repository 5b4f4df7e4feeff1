"""Official SDKs of CloudEvents send events, in every way that they can: `make interop`.

    eval "$(make -s services)"; python -m bench.interop

The SDKs of Go, Java and JavaScript write the events through their bindings for Kafka: in binary and structured mode,
with data as an object, as bytes and as text, with every media type of JSON and without one, with extensions. Each
record must be read as the event that was meant, whoever wrote it, and each event must be answered. There may be no dead
letter. The processor is one without models. tests/unit/schemas/test_cloudevents_sdk.py does the same with Python's SDK.
"""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from backends.log import Record
from backends.open import open_log
from bench.clients import verdict
from bench.cluster import STAND_IN, Cluster
from bench.interop.cases import make_cases, table_of, wrong_answers, wrong_records
from bench.interop.sdks import sdk_programs
from bench.programs import Program, send_with
from bench.soak.faults import unfinished_work
from bench.soak.foreign import Addresses, put_pictures, write_galleries
from bench.soak.foreign_checks import read_answers
from bench.stores import temporary_stores
from scripts.services_process import ServiceFailed
from stream.topic_reading import read_topic
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK

COUNTS = {"ingest": 0, "process": 1, "sink": 1}


async def read_received(url: str) -> list[Record]:
    records: list[Record] = []
    log = open_log(url)
    try:
        for topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK):
            await read_topic(log, topic, records.extend)
    finally:
        await log.close()
    return records


async def interop(stores: dict[str, str], data: Path, programs: Mapping[str, Program]) -> list[str]:
    """Has each program send its events. Returns what is wrong."""
    to = Addresses(stores)
    cases = {sdk: make_cases(sdk, to.bucket, to.prefix) for sdk in programs}
    sent = [case for of_one in cases.values() for case in of_one]
    async with Cluster(stores, data, data, COUNTS, processor=STAND_IN):
        await asyncio.to_thread(put_pictures, stores)
        await write_galleries(stores["vectors"])
        for sdk, program in programs.items():
            await send_with(program, [to.servers], [json.dumps(case.event) for case in cases[sdk]])
        wrong = await unfinished_work(stores)
        wrong += wrong_records(sent, await read_received(stores["log"]))
        wrong += wrong_answers(sent, await read_answers(stores["log"]))
    print(table_of(sent))
    return wrong


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:

        async def run() -> list[str]:
            programs = await asyncio.to_thread(sdk_programs)
            async with temporary_stores("interop") as stores:
                return await interop(stores, Path(folder) / "data", programs)

        try:
            wrong = asyncio.run(run())
        except ServiceFailed as error:
            wrong = [str(error)]
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
