"""`facestream up`: all roles in one process."""

import argparse
from typing import Any

from facestream.flags import add_settings, settings_from
from facestream.runtime.data_folder import data_folder_lock

DESCRIPTION = """\
Serve everything in one process: the HTTP service, a processor and a sink. By default the log and the stores are
files in the data folder; --log, --objects and --vectors choose Kafka, S3 and Cassandra, in any mix. SIGTERM or
Ctrl-C drains: every accepted image is answered, or is stored in the log.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("up", help="serve everything in one process", description=DESCRIPTION)
    add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    # slow imports, which other commands do not need
    from facestream.admin.restored_files import discard_staged
    from facestream.runtime.run_roles import run_roles
    from facestream.runtime.serve import ALL

    settings = settings_from(arguments)
    with data_folder_lock(settings.data) as announce:
        discard_staged(settings)
        return run_roles(settings, ALL, announce)
