"""Measures the vector store and the gallery against a bare client.

    eval "$(make -s services)"; python -m bench.speed.cassandra [URL]

In a temporary keyspace it measures in turn: writing faces, compared with cassandra-driver with the same settings and as
many requests in flight; loading a gallery, compared with reading its rows with the driver's numpy parser; and matching,
compared with one matrix product. Required: at least 80 % of the rows a second, at most 1.5 times the time of the bare
read and 1.2 times the memory of the raw vectors, and at most 1.3 times the time of the product. Each figure is the
median of some rounds.
"""

import argparse
import asyncio
import gc
import multiprocessing
import os
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.protocol import NumpyProtocolHandler, ProtocolHandler

from backends.cassandra import schema as schema
from backends.cassandra import vectors as store
from backends.cassandra.client import IN_FLIGHT
from backends.cassandra.connect import OPTIONS, PORT, cluster_of
from backends.urls import server_of
from backends.vectors import Face, FaceVector
from bench.stores import drop_keyspace
from facestream.progress import progress_bar
from sink.match.galleries import Galleries
from sink.match.gallery import Gallery

WRITTEN, LOADED, RESIDENT, MATCHED = 0.8, 1.5, 1.2, 1.3  # required
FACES_PER_WRITE = 500  # as the sink writes them under load
BATCHES = (1, 8, 64)  # probes
GENERATION, DIMENSION, TOP = "bench", 128, 5


class BareRatio(NamedTuple):
    """One measurement, bare and through facestream, and the requirement for the ratio."""

    label: str
    bare: str
    ours: str
    ratio: float
    required: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        return self.ratio >= self.required if self.at_least else self.ratio <= self.required


def make_faces(directory: str, count: int, per_person: int) -> list[FaceVector]:
    """Faces with cosines of .8 to the same person's faces and .6 to others', which is typical of dlib's embedder."""
    random = np.random.default_rng(1)
    people = -(-count // per_person)
    centers = 1.2 + random.standard_normal((people, DIMENSION))
    vectors = centers.repeat(per_person, 0)[:count] + 0.75 * random.standard_normal((count, DIMENSION))
    faces = []
    for number, vector in enumerate(vectors.astype(np.float32)):
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{directory}/{number}"))
        face = Face(f"person {number // per_person:06}", name, name, f"{name}#0", 1_700_000_000_000 + number)
        faces.append(FaceVector(directory, GENERATION, face, vector))
    return faces


async def measure_writing(vectors: store.CassandraVectors, session: Session, count: int, rounds: int) -> BareRatio:
    """Measures the faces written per second."""
    insert = session.prepare(store._PUT_FACE.cql.format(keyspace=session.keyspace))
    insert.is_idempotent = True
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    with progress_bar("writing", 2 * count * rounds) as tell:
        for number in range(rounds):
            faces = make_faces(f"bare {number}", count, 10)
            rows = [store._row(it) for it in faces]
            gc.collect()  # so that neither side has to collect the other's garbage
            begin = time.perf_counter()
            await asyncio.to_thread(execute_concurrent_with_args, session, insert, rows, concurrency=IN_FLIGHT)
            rates["bare"].append(count / (time.perf_counter() - begin))
            tell(count)
            faces = make_faces(f"ours {number}", count, 10)
            gc.collect()
            begin = time.perf_counter()
            for first in range(0, count, FACES_PER_WRITE):
                await vectors.put_faces(faces[first : first + FACES_PER_WRITE])
            rates["ours"].append(count / (time.perf_counter() - begin))
            tell(count)
    bare, ours = (statistics.median(rates[it]) for it in ("bare", "ours"))
    return BareRatio("faces written a second", f"{bare:,.0f}", f"{ours:,.0f}", ours / bare, WRITTEN, at_least=True)


def read_bare(session: Session, directory: str) -> None:
    query = session.prepare(store._GALLERY.cql.format(keyspace=session.keyspace))
    session.client_protocol_handler = NumpyProtocolHandler
    for bucket in schema.BUCKETS:
        for _ in session.execute(query, (directory, GENERATION, bucket)):
            pass
    session.client_protocol_handler = ProtocolHandler


async def measure_loading(
    vectors: store.CassandraVectors, session: Session, directory: str, faces: int, rounds: int
) -> BareRatio:
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    with progress_bar("loading", 2 * rounds) as tell:
        for _ in range(rounds):
            gc.collect()
            begin = time.perf_counter()
            await asyncio.to_thread(read_bare, session, directory)
            seconds["bare"].append(time.perf_counter() - begin)
            tell(1)
            gc.collect()
            begin = time.perf_counter()
            gallery = await Galleries(vectors, 1 << 40).get(directory, GENERATION, DIMENSION)
            seconds["ours"].append(time.perf_counter() - begin)
            tell(1)
            if gallery.faces != faces:
                raise AssertionError(f"{gallery.faces} of {faces} faces were loaded")
    bare, ours = (statistics.median(seconds[it]) for it in ("bare", "ours"))
    return BareRatio(f"loading {faces:,} faces, s", f"{bare:.2f}", f"{ours:.2f}", ours / bare, LOADED)


def memory_growth(url: str, directory: str, before: str) -> tuple[int, int]:
    """The bytes by which this process grows when it loads a gallery: at most, and at the end.

    before: a directory whose gallery is loaded first, to warm up.
    """

    async def sizes() -> tuple[int, int]:
        vectors = store.CassandraVectors(url)
        await Galleries(vectors, 1 << 40).get(before, GENERATION, DIMENSION)
        gc.collect()
        _reset_peak()
        begin = _status("VmRSS")
        gallery = await Galleries(vectors, 1 << 40).get(directory, GENERATION, DIMENSION)
        sizes = _status("VmHWM") - begin, _status("VmRSS") - begin
        await vectors.close()
        del gallery  # kept until the measurement is done
        return sizes

    return asyncio.run(sizes())


def _status(name: str) -> int:
    """A value of /proc/self/status in bytes: the current (VmRSS) or highest (VmHWM) memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure_memory(url: str, directory: str, before: str, faces: int) -> list[BareRatio]:
    raw = faces * DIMENSION * 4
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        highest, in_the_end = processes.apply(memory_growth, (url, directory, before))
    return [
        BareRatio(f"memory {what}, MB", f"{raw / 1e6:.1f}", f"{size / 1e6:.1f}", size / raw, RESIDENT)
        for what, size in (("while loading", highest), ("of the loaded gallery", in_the_end))
    ]


def measure_matching(gallery: Gallery, faces: Sequence[FaceVector], rounds: int) -> list[BareRatio]:
    """Measures matching. Half of the probes are of people in the gallery, half are of strangers."""
    matrix = np.stack([it.vector for it in faces])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    random = np.random.default_rng(2)
    lines = []
    with progress_bar("matching", 20 * rounds * len(BATCHES)) as tell:
        for count in BATCHES:
            probes = (1.2 + random.standard_normal((count, DIMENSION))).astype(np.float32)
            known = random.choice(len(faces), -(-count // 2))
            probes[::2] = [faces[row].vector + 0.5 * random.standard_normal(DIMENSION) for row in known]
            units = probes / np.linalg.norm(probes, axis=1, keepdims=True)
            bare, ours = [], []
            for _ in range(20 * rounds):
                begin = time.perf_counter()
                units @ matrix.T
                middle = time.perf_counter()
                gallery.match(probes, TOP)
                bare.append(middle - begin)
                ours.append(time.perf_counter() - middle)
                tell(1)
            bare_ms, ours_ms = 1e3 * statistics.median(bare), 1e3 * statistics.median(ours)
            lines.append(
                BareRatio(
                    f"{count} probe{'s' * (count > 1)}, ms",
                    f"{bare_ms:.2f}",
                    f"{ours_ms:.2f}",
                    ours_ms / bare_ms,
                    MATCHED,
                )
            )
    return lines


async def measure_all(url: str, session: Session, chosen: argparse.Namespace) -> list[BareRatio]:
    vectors = store.CassandraVectors(url)
    try:
        lines = [await measure_writing(vectors, session, chosen.written, chosen.rounds)]
        faces = make_faces("gallery", chosen.faces, chosen.per_person)
        with progress_bar("writing the gallery", len(faces)) as tell:
            for first in range(0, len(faces), 5_000):
                await vectors.put_faces(faces[first : first + 5_000])
                tell(len(faces[first : first + 5_000]))
        lines.append(await measure_loading(vectors, session, "gallery", len(faces), chosen.rounds))
        lines += await asyncio.to_thread(measure_memory, url, "gallery", "ours 0", len(faces))
        gallery = await Galleries(vectors, 1 << 40).get("gallery", GENERATION, DIMENSION)
        return lines + measure_matching(gallery, faces, chosen.rounds)
    finally:
        await vectors.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default=os.environ.get("FACESTREAM_VECTORS"))
    parser.add_argument("--faces", type=int, default=100_000, help="in the gallery")
    parser.add_argument("--per-person", type=int, default=10, help="faces of each person in the gallery")
    parser.add_argument("--written", type=int, default=10_000, help="faces written in one round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    if not chosen.url:
        parser.error("no URL, and FACESTREAM_VECTORS is not set")
    keyspace = f"bench_{uuid.uuid4().hex}"
    url = f"{chosen.url.partition('?')[0].rpartition('/')[0]}/{keyspace}"
    with cluster_of(server_of(url, setting=store.SETTING, default_port=PORT, options=OPTIONS)) as cluster:
        session = cluster.connect()
        schema.create(session, keyspace, 1)
        session.set_keyspace(keyspace)
        try:
            lines = asyncio.run(measure_all(url, session, chosen))
        finally:
            drop_keyspace(url, keyspace)
    print(f"\n{'':32}{'bare':>12}{'facestream':>12}{'ratio':>8}   wanted")
    for it in lines:
        sign, verdict = "≥" if it.at_least else "≤", "" if it.is_met else "   MISSED"
        print(f"{it.label:32}{it.bare:>12}{it.ours:>12}{it.ratio:8.2f}   {sign} {it.required}{verdict}")
    return 0 if all(it.is_met for it in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
