"""facestream next to face_recognition (dlib) on the same photos: images/s and faces/s, on one core and on all.

    python -m bench.speed.against_dlib [--photos FOLDER] --python ENV/bin/python

face_recognition is no dependency of ours. It gets an environment of its own, which needs a C++ compiler and takes
minutes:

    python -m venv .cache/dlib
    .cache/dlib/bin/pip install "setuptools<81" cmake face_recognition

Its detector is the default one (HOG on the doubled image), its vectors one pass; ours are the shipped ones, with the
mirrored chip, in the bare loop of `facestream bench`, without HTTP, log and stores, as its are. They never run at once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench.speed import bare as bench_bare
from bench.speed.photos import Photos, default_folder, gather
from facestream.config import Settings
from facestream.progress import progress_bar

WORKER = Path(__file__).with_name("dlib_worker.py")
TIME_LIMIT_S = 3600


def dlib(python: Path, photos: list[Path], processes: int, rounds: int) -> tuple[int, int, float]:
    """Images, faces, seconds."""
    command = [str(python), str(WORKER), str(processes), str(rounds), *map(str, photos)]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIME_LIMIT_S, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["images"], result["faces"], result["seconds"]


def ours(
    networks: bench_bare.Networks, photos: Photos, threads: int, rounds: int, max_pixels: int
) -> tuple[int, int, float]:
    """Images, faces, seconds."""
    torch.set_num_threads(threads)
    bench_bare.run(networks, photos.listed, 1, max_pixels, lambda _: None)
    with progress_bar(f"facestream, {threads} threads", len(photos.listed) * rounds) as done:
        timing = bench_bare.run(networks, photos.listed * rounds, 1, max_pixels, done)
    return timing.count, timing.faces, timing.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="default: as facestream bench")
    parser.add_argument(
        "--python", type=Path, default=Path(".cache/dlib/bin/python"), help="default: .cache/dlib/bin/python"
    )
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=3, help="so often over the list")
    chosen = parser.parse_args()
    if not chosen.python.exists():
        parser.error(f"{chosen.python} is not there: see --help for how face_recognition is installed")

    settings = Settings(weights=chosen.weights, dtype=chosen.dtype)
    networks = bench_bare.load(settings)
    cores = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photos = gather(chosen.photos or default_folder(), Path(folder))
        paths = []
        for index, (name, data) in enumerate(photos.listed):
            paths.append(Path(folder) / f"{index}-{Path(name).name}")
            paths[-1].write_bytes(data)
        for count in sorted({1, cores}):
            name = f"face_recognition, {count} process{'es' * (count > 1)}"
            rows.append((name, dlib(chosen.python, paths, count, chosen.rounds)))
        for count in sorted({1, cores}):
            name = f"facestream, {count} thread{'s' * (count > 1)}, {networks.dtype}"
            rows.append((name, ours(networks, photos, count, chosen.rounds, settings.max_pixels)))
    print(f"{len(photos.listed)} photos, {chosen.rounds} times\n{'':36}{'faces':>8}{'images/s':>10}{'faces/s':>9}")
    for name, (images, faces, seconds) in rows:
        print(f"{name:36}{faces // chosen.rounds:8}{images / seconds:10.2f}{faces / seconds:9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
