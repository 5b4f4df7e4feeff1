"""Compares facestream with face_recognition (dlib) on the same photos: images/s and faces/s, on one core and on all.

    python -m bench.speed.against_dlib [PHOTOS] --python ENV/bin/python

face_recognition is not a dependency of facestream. It is installed in a separate environment, which needs a C++
compiler and takes minutes:

    python -m venv .cache/dlib
    .cache/dlib/bin/pip install "setuptools<81" cmake face_recognition

face_recognition runs with its default detector (HOG on the doubled image) and one pass for a vector; facestream with
the shipped models, the mirrored chip included, in the bare loop of bench/speed/bare.py. The two never run at the same
time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench.photos import add_photos_argument
from bench.speed import bare
from bench.speed.photos import Photos, select_photos
from facestream.config import Settings
from facestream.progress import progress_bar

WORKER = Path(__file__).with_name("dlib_worker.py")
TIME_LIMIT_S = 3600


def run_dlib(python: Path, photos: list[Path], processes: int, rounds: int) -> tuple[int, int, float]:
    """Images, faces, seconds."""
    command = [str(python), str(WORKER), str(processes), str(rounds), *map(str, photos)]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIME_LIMIT_S, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["images"], result["faces"], result["seconds"]


def run_facestream(
    networks: bare.ShippedNetworks, photos: Photos, threads: int, rounds: int, max_pixels: int
) -> tuple[int, int, float]:
    """Images, faces, seconds."""
    torch.set_num_threads(threads)
    bare.run(networks, photos.listed, 1, max_pixels, lambda _: None)
    with progress_bar(f"facestream, {threads} threads", len(photos.listed) * rounds) as done:
        timing = bare.run(networks, photos.listed * rounds, 1, max_pixels, done)
    return timing.count, timing.faces, timing.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos_argument(parser, "photos, at any depth")
    parser.add_argument(
        "--python", type=Path, default=Path(".cache/dlib/bin/python"), help="default: .cache/dlib/bin/python"
    )
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=3, help="how many times the list is processed")
    chosen = parser.parse_args()
    if not chosen.python.exists():
        parser.error(f"{chosen.python} does not exist: see --help for how face_recognition is installed")

    settings = Settings(weights=chosen.weights, dtype=chosen.dtype)
    networks = bare.load_networks(settings)
    cores = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photos = select_photos(chosen.photos)
        paths = []
        for index, (name, data) in enumerate(photos.listed):
            paths.append(Path(folder) / f"{index}-{Path(name).name}")
            paths[-1].write_bytes(data)
        for count in sorted({1, cores}):
            name = f"face_recognition, {count} process{'es' * (count > 1)}"
            rows.append((name, run_dlib(chosen.python, paths, count, chosen.rounds)))
        for count in sorted({1, cores}):
            name = f"facestream, {count} thread{'s' * (count > 1)}, {networks.dtype}"
            rows.append((name, run_facestream(networks, photos, count, chosen.rounds, settings.max_pixels)))
    print(f"{len(photos.listed)} photos, {chosen.rounds} times\n{'':36}{'faces':>8}{'images/s':>10}{'faces/s':>9}")
    for name, (images, faces, seconds) in rows:
        print(f"{name:36}{faces // chosen.rounds:8}{images / seconds:10.2f}{faces / seconds:9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
