"""`facestream restore`: replaces an embedded installation by a backup."""

import argparse
import sys
from pathlib import Path
from typing import Any

from facestream.admin.backup import read_backup
from facestream.admin.embedded_files import embedded_files
from facestream.admin.restore import restore_backup
from facestream.flags import STORES, add_settings, argument_type, parse_path, settings_from
from facestream.runtime.data_folder import data_folder_lock
from facestream.terminal import confirm, log_warnings_only

DESCRIPTION = """\
Replace an embedded installation by a backup of `facestream backup`. Stop the service first. The people and pictures
that the data folder has now are deleted; its models stay.

Nobody who was erased comes back: everything that the data folder knows to be erased is deleted from what is restored.
If the data folder or its log.db is lost, or is not the one that served last, use --erasures to name a place that knows
later erasures: a later backup, or a log.db that was saved.

A person who was erased after the backup, and then learned again, is missing: the backup has only the erased faces.
API keys are those of the backup: revoke again those that were revoked since.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "restore",
        help="replace an embedded installation by a backup",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=argument_type("FOLDER", parse_path), help="the backup")
    parser.add_argument(
        "--erasures",
        metavar="BACKUP|FILE",
        type=argument_type("--erasures", parse_path),
        action="append",
        default=[],
        help="a later backup, or a log.db: what was erased there is erased here too; may be given several times",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before what is there is replaced")
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    settings = settings_from(arguments)
    source: Path = arguments.folder
    target = embedded_files(settings)
    if target.exist() and not arguments.yes:
        read_backup(source)  # nobody is asked about a folder that is no backup
        what = f"the people and pictures of {target.log.parent}"
        if not confirm(f"Replace {what}?", f"restore replaces {what}"):
            return 1
    with data_folder_lock(settings.data):
        restored = restore_backup(settings, source, arguments.erasures)
    print(f"{source} is restored; faces that were erased since and are left out: {restored.erased}", file=sys.stderr)
    if not restored.had_log:
        known = ", ".join(map(str, arguments.erasures))
        print(
            f"people who were erased after {restored.made_at:%Y-%m-%d %H:%M %Z} are back"
            + (f", except those whose erasure {known} knows" if known else "")
            + ": send these DELETE requests again, or restore again with --erasures",
            file=sys.stderr,
        )
    return 0
