"""`python -m bench.speed`: measures this machine on a fixed list of photos, in a bare loop and through HTTP."""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from bench.photos import add_photos_argument
from bench.serving import Serving
from bench.speed import bare, report
from bench.speed.http import Load, learn, recognize_all
from bench.speed.photos import Photos, select_photos
from bench.speed.report import Measurements, PartTimes
from facestream.config import Settings
from facestream.flags import add_settings, settings_from
from facestream.progress import progress_bar

DESCRIPTION = """\
Measure this machine on a fixed selection of the photos in a folder, in one run:

  bare    a loop in this process: decode, passes, detect, merge, cut, embed, one image at a time and in batches
          of 4 and 8, in turn with the service, never at the same time
  HTTP    the same photos through a `facestream up` of its own, with its data in a folder that is deleted
          afterwards: a few people are learned, then POST /recognize with 1, 8 and 32 requests at a time

It shows what the service adds to the models: the median latency at concurrency 1 (required: at most 5 ms above
the bare loop), the throughput at 8 (required: at least 0.85 of the best bare loop), errors, CPU of the client, and
memory of the service with its children.

  python -m bench.speed                                  about five minutes on two cores
  python -m bench.speed --requests 480 --json bench.json
  python -m bench.speed --dtype float32
  python -m bench.speed --memory                         2,000 requests more, to see whether memory grows

Run it on a machine that does nothing else. Exit code 1: a requirement is missed.
"""
BATCHES, CONCURRENCIES = (1, 4, 8), (1, 8, 32)
LISTS_PER_ROUND = 2  # at concurrency 8 and 32, because at both ends of a series fewer requests are in flight
MEMORY_REQUESTS, MEMORY_CONCURRENCY, REQUESTS_PER_SAMPLE = 2_000, 8, 20


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.speed", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photos_argument(parser, "photos, at any depth")
    parser.add_argument(
        "--requests",
        type=int,
        default=120,
        metavar="N",
        help="images in each measurement, rounded up to whole lists (default: 120)",
    )
    parser.add_argument("--memory", action="store_true", help="also measure whether memory grows over 2,000 requests")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    add_settings(parser, ["data", "weights", "device", "dtype", "max_pixels"])
    return run(parser.parse_args())


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    settings.data.mkdir(parents=True, exist_ok=True)
    # on the disk where a service keeps its data: on other disks an fsync may cost nothing
    with tempfile.TemporaryDirectory(prefix="bench-", dir=settings.data) as scratch:
        photos = select_photos(arguments.photos)
        measurements = _measure(settings, photos, Path(scratch), max(1, arguments.requests), memory=arguments.memory)
    figures = report.figures_of(measurements)
    print(report.format_tables(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for it in (*measurements.loads.values(), *([measurements.memory] if measurements.memory else [])):
        for error in it.errors[:5]:
            print(f"error at concurrency {it.concurrency}: {error}", file=sys.stderr)
    return 1 if report.find_misses(figures) else 0


def _measure(settings: Settings, photos: Photos, scratch: Path, requests: int, *, memory: bool) -> Measurements:
    rounds = -(-requests // len(photos.listed))
    networks = bare.load_networks(settings)

    def run_bare(batch: int) -> bare.Timing:
        with progress_bar(f"bare, batch {batch}", len(photos.listed)) as done:
            return bare.run(networks, photos.listed, batch, settings.max_pixels, done)

    bare.run(networks, photos.listed, 1, settings.max_pixels, lambda _: None)  # the first calls set up kernels
    parts = PartTimes(
        bare.detector_ms(networks),
        bare.faces_ms(networks, mirror=False),
        bare.faces_ms(networks, mirror=True),
    )
    timings = {batch: bare.Timing(batch) for batch in BATCHES}
    loads = {concurrency: Load(concurrency) for concurrency in CONCURRENCIES}
    of_memory: Load | None = None
    with Serving(
        scratch / "data", settings.weights_folder.resolve(), device=settings.device, dtype=networks.dtype
    ) as serving:
        asyncio.run(learn(serving.url, photos.learned))

        def through_http(concurrency: int, count: int, sample_every: int = 0) -> Load:
            with progress_bar(f"HTTP, {concurrency} at once", count) as done:
                return asyncio.run(recognize_all(serving, photos.repeated(count), concurrency, done, sample_every))

        for concurrency in (1, max(CONCURRENCIES)):  # warm up, one request at a time and many
            asyncio.run(recognize_all(serving, photos.listed, concurrency, lambda _: None))
        for _ in range(rounds):  # in turn, because a machine's speed drifts and the ratios matter
            for batch, timing in timings.items():
                timing.add(run_bare(batch))
            for concurrency, total in loads.items():
                lists = 1 if concurrency == 1 else LISTS_PER_ROUND
                total.add(through_http(concurrency, lists * len(photos.listed)))
        if memory:
            of_memory = through_http(MEMORY_CONCURRENCY, MEMORY_REQUESTS, REQUESTS_PER_SAMPLE)
    return Measurements(networks.dtype, len(photos.listed), photos.phone, parts, timings, loads, of_memory)


if __name__ == "__main__":
    sys.exit(main())
