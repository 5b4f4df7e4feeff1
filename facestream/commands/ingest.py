"""`facestream ingest`: the HTTP service as a separate process."""

import argparse
from typing import Any

from facestream.flags import STORES, add_settings, settings_from

DESCRIPTION = """\
Serve HTTP: accept uploads, store them, append their events, and answer from the stream of results. Start as
many as the traffic needs, behind any load balancer: each gets its own answers.
"""
SETTINGS = (*STORES, "listen", "watch", "open", "max_upload", "max_in_flight", "max_age", "upload_memory")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "ingest", help="one role of a distributed system: the HTTP service", description=DESCRIPTION
    )
    add_settings(parser, SETTINGS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.runtime.run_roles import run_roles  # slow imports, which other commands do not need

    return run_roles(settings_from(arguments), ("ingest",), lambda url: None)
