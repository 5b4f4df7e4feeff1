"""An HTTP client that measures a service and uses little CPU: bodies are made in advance, and connections are kept
alive.

The client's CPU is measured too, to separate it from the service's.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from bench.serving import ServiceFailed, Serving

DIRECTORY = "bench"
ANSWER_S = 120.0
BOUNDARY = "facestream-bench-7c1f0b52"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Prefer": f"wait={ANSWER_S:.0f}"}


@dataclass
class Load:
    """The measurements of many requests at one concurrency."""

    concurrency: int
    latencies: list[tuple[str, float]] = field(default_factory=list)  # photo and seconds, of answered requests
    faces: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    rss: list[tuple[int, int]] = field(default_factory=list)  # requests so far, bytes

    @property
    def count(self) -> int:
        return len(self.latencies)

    def add(self, other: "Load") -> None:
        """Adds a later measurement at the same concurrency."""
        self.latencies += other.latencies
        self.faces += other.faces
        self.errors += other.errors
        self.seconds += other.seconds
        self.client_cpu_s += other.client_cpu_s
        self.server_cpu_s += other.server_cpu_s
        self.rss += other.rss


def multipart(fields: dict[str, str], filename: str, data: bytes) -> bytes:
    """The body of an upload, for HEADERS."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return ("".join(parts) + file).encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


async def learn(url: str, people: dict[str, bytes]) -> None:
    """Learns one picture of each person. Raises ServiceFailed.

    A picture without a face is skipped, unless no picture has one.
    """
    learned = 0
    async with _session(url, 1) as session:
        for person, data in people.items():
            body = multipart({"directory": DIRECTORY, "person": person, "face": "largest"}, "portrait", data)
            async with session.post("/learn", data=body, headers=HEADERS) as response:
                if response.status not in (200, 201, 422):
                    raise ServiceFailed(f"learning {person} ended with {response.status}: {await response.text()}")
                learned += response.status != 422
    if not learned:
        raise ServiceFailed("none of the pictures to learn has a face: measure with other photos")


async def recognize_all(
    serving: Serving,
    photos: Sequence[tuple[str, bytes]],
    concurrency: int,
    done: Callable[[int], None],
    sample_every: int = 0,
) -> Load:
    """Recognizes the photos in their order, `concurrency` at a time.

    done: is called for each answer. sample_every: requests between two samples of the memory, each of which takes a few
    milliseconds; 0 samples only at the end.
    """
    bodies = {
        name: multipart({"directory": DIRECTORY}, name.rpartition("/")[2], data) for name, data in dict(photos).items()
    }
    measured, left = Load(concurrency), iter([name for name, _ in photos])
    answered = 0
    async with _session(serving.url, concurrency) as session:

        async def client() -> None:
            nonlocal answered
            for name in left:
                began = time.perf_counter()
                try:
                    async with session.post("/recognize", data=bodies[name], headers=HEADERS) as response:
                        status, answer = response.status, await response.read()
                except (aiohttp.ClientError, TimeoutError) as error:
                    measured.errors.append(f"{name}: {type(error).__name__} {error}")
                    continue
                seconds = time.perf_counter() - began
                if status == 200:
                    measured.latencies.append((name, seconds))
                    measured.faces += answer.count(
                        b'"detection_score"'
                    )  # one per face; parsing the JSON would use more CPU
                else:
                    measured.errors.append(f"{name}: {status} {answer[:200].decode(errors='replace')}")
                answered += 1
                if sample_every and answered % sample_every == 0:
                    measured.rss.append((answered, serving.rss()))
                done(1)

        cpu, server_cpu, began = time.process_time(), serving.cpu_s(), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        measured.seconds = time.perf_counter() - began
        measured.client_cpu_s, measured.server_cpu_s = time.process_time() - cpu, serving.cpu_s() - server_cpu
    measured.rss.append((answered, serving.rss()))
    return measured


def _session(url: str, concurrency: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        url, connector=aiohttp.TCPConnector(limit=concurrency), timeout=aiohttp.ClientTimeout(total=ANSWER_S)
    )
