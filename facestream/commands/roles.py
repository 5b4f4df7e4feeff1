"""`facestream ingest`, `process` and `sink`: each role as a process of its own. Each scales by starting more of it."""

import argparse
from typing import Any

from facestream.flags import add_settings, settings_from

STORES = ("log", "objects", "vectors", "data", "watch")
WORKER = (*STORES, "member")

INGEST = """\
Serve HTTP: take uploads in, store and announce them, answer from the result stream. Start as many as there is traffic
for, behind any load balancer; each waits for its own answers.
"""
PROCESS = """\
Detect and embed faces. Start as many as there are images for, they share the partitions. With --stage detect and
--stage embed the two run apart, each on the hardware that suits it.
"""
SINK = """\
Write learned faces, match probes against the galleries, keep the answers. Each directory is served by one sink; start more for
more directories.
"""


def add_parser(commands: Any) -> None:
    for name, text, settings in (
        ("ingest", INGEST, ("listen", *STORES, "open", "max_upload", "max_in_flight", "max_age", "upload_memory")),
        (
            "process",
            PROCESS,
            (
                *WORKER,
                "stage",
                "weights",
                "device",
                "dtype",
                "max_upload",
                "max_pixels",
                "sources",
                "threads",
                "decoders",
            ),
        ),
        ("sink", SINK, (*WORKER, "keep_probes", "gallery_memory")),
    ):
        parser = commands.add_parser(name, help=f"one role of a distributed system: {name}", description=text)
        add_settings(parser, settings)
        parser.set_defaults(run=run, role=name)


def run(arguments: argparse.Namespace) -> int:
    from facestream.runtime.run_roles import run_roles  # what it needs takes time to import: not for the other commands

    return run_roles(settings_from(arguments), (arguments.role,), lambda url: None)
