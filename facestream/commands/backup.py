"""`facestream backup`: writes a backup of an embedded installation, while it is in use."""

import argparse
import sys
from pathlib import Path
from typing import Any

from facestream.admin.backup import write_backup
from facestream.admin.embedded_files import embedded_files
from facestream.flags import STORES, add_settings, argument_type, parse_path, settings_from
from facestream.progress import MEGA
from facestream.runtime.data_folder import require_whole
from facestream.terminal import log_warnings_only

DESCRIPTION = """\
Write a backup of an embedded installation: people, pictures, vectors, answers, API keys, models of your own, and
the images that wait. The service may run and goes on meanwhile.

  facestream backup /mnt/backup/facestream
  facestream restore /mnt/backup/facestream

Everything that was acknowledged before the backup began is in it. An earlier backup in FOLDER is replaced when the new
one is complete; until then it stays as it is. A backup that was interrupted cannot be restored by mistake. The backup
has pictures of people: keep it as safe as the data folder. It does not have the settings, nor the models of
`facestream weights get`.

Kafka, S3 and Cassandra have tools of their own for backups: see docs/operations.md.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "backup",
        help="write a backup of an embedded installation",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=argument_type("FOLDER", parse_path), help="a new folder, or an earlier backup"
    )
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    settings = settings_from(arguments)
    require_whole(settings.data)
    folder: Path = arguments.folder
    head = write_backup(embedded_files(settings), folder)
    print(f"{head.objects:,} objects, {head.size / MEGA:,.1f} MB in all, are in {folder}", file=sys.stderr)
    return 0
