"""`python -m bench.speed`: what this machine makes of a fixed list of photos, bare and through HTTP."""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from bench.serving import Serving
from bench.speed import bare as bench_bare
from bench.speed import report as bench_report
from bench.speed.http import Load, learn, load
from bench.speed.photos import Photos, default_folder, gather
from bench.speed.report import Measured, Single
from facestream.config import Settings
from facestream.flags import add_settings, settings_from
from facestream.progress import progress_bar

DESCRIPTION = """\
Measure this machine on a fixed, named list of photos, in one run:

  bare    a loop in this process: decode, passes, detect, merge, cut, embed, one image at a time and in batches of 4 and 8,
          before and after the service is measured, never at the same time
  HTTP    the same photos through a `facestream up` of its own, with its data in a folder that is deleted afterwards: a few people
          are learned, then POST /recognize with 1, 8 and 32 requests at once

It says what the service adds to the models: the median latency at 1 against the bare one (at most 5 ms more are wanted), the
throughput at 8 against the best bare one (at least 0.85), errors, CPU of the client, memory of the service with its children.

  python -m bench.speed                                  about five minutes on two cores
  python -m bench.speed --requests 480 --json bench.json
  python -m bench.speed --dtype float32
  python -m bench.speed --memory                         and 2,000 requests more, to see whether memory stays

Run it on a machine that does nothing else. It ends with 1 when something that is wanted is missed.
"""
BATCHES, CONCURRENCIES = (1, 4, 8), (1, 8, 32)
LISTS_AT_ONCE = 2  # in a row: at its ends fewer requests are under way
MEMORY_REQUESTS, MEMORY_CONCURRENCY, MEMORY_SAMPLES_EVERY = 2_000, 8, 20


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.speed", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="default: photos, which `make photos` fills")
    parser.add_argument(
        "--requests",
        type=int,
        default=120,
        metavar="N",
        help="images of each measurement, rounded up to whole lists (default: 120)",
    )
    parser.add_argument("--memory", action="store_true", help="also see whether memory stays over 2,000 requests")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    add_settings(parser, ["data", "weights", "device", "dtype", "max_pixels"])
    return run(parser.parse_args())


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    settings.data.mkdir(parents=True, exist_ok=True)
    # On the disk where the data of a service would be: elsewhere an fsync may cost nothing.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=settings.data) as scratch:
        photos = gather(arguments.photos or default_folder(), Path(scratch))
        measured = _measure(settings, photos, Path(scratch), max(1, arguments.requests), memory=arguments.memory)
    values = bench_report.figures(measured)
    print(bench_report.text(values))
    if arguments.json:
        arguments.json.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for measured_load in (*measured.loads.values(), *([measured.memory] if measured.memory else [])):
        for error in measured_load.errors[:5]:
            print(f"error at {measured_load.concurrency}: {error}", file=sys.stderr)
    return 1 if bench_report.misses(values) else 0


def _measure(settings: Settings, photos: Photos, scratch: Path, requests: int, *, memory: bool) -> Measured:
    rounds = -(-requests // len(photos.listed))
    networks = bench_bare.load(settings)

    def bare(batch: int) -> bench_bare.Timing:
        with progress_bar(f"bare, batch {batch}", len(photos.listed)) as done:
            return bench_bare.run(networks, photos.listed, batch, settings.max_pixels, done)

    bench_bare.run(networks, photos.listed, 1, settings.max_pixels, lambda _: None)  # the first calls set up kernels
    single = Single(
        bench_bare.detector_ms(networks),
        bench_bare.faces_ms(networks, mirror=False),
        bench_bare.faces_ms(networks, mirror=True),
    )
    timings = {batch: bench_bare.Timing(batch) for batch in BATCHES}
    loads = {concurrency: Load(concurrency) for concurrency in CONCURRENCIES}
    of_memory: Load | None = None
    with Serving(
        scratch / "data", settings.weights_folder.resolve(), device=settings.device, dtype=networks.dtype
    ) as serving:
        asyncio.run(learn(serving.url, photos.learned))

        def through_http(concurrency: int, count: int, sample_every: int = 0) -> Load:
            with progress_bar(f"HTTP, {concurrency} at once", count) as done:
                return asyncio.run(load(serving, photos.repeated(count), concurrency, done, sample_every))

        for concurrency in (1, max(CONCURRENCIES)):  # warm, one at a time and together
            asyncio.run(load(serving, photos.listed, concurrency, lambda _: None))
        for _ in range(rounds):  # by turns: a machine's speed drifts, and it is the ratios that count
            for batch, timing in timings.items():
                timing.add(bare(batch))
            for concurrency, measured in loads.items():
                lists = 1 if concurrency == 1 else LISTS_AT_ONCE
                measured.add(through_http(concurrency, lists * len(photos.listed)))
        if memory:
            of_memory = through_http(MEMORY_CONCURRENCY, MEMORY_REQUESTS, MEMORY_SAMPLES_EVERY)
    return Measured(networks.dtype, len(photos.listed), photos.phone, single, timings, loads, of_memory)


if __name__ == "__main__":
    sys.exit(main())
