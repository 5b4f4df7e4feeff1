"""Member names of processes are unique at any time, and the name of an ended process is used again."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from facestream.runtime.member import member_name

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from facestream.runtime.member import member_name
with member_name(Path(sys.argv[1]), sys.argv[2]) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(data: Path, role: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has a name, and that name."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data), role],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_running_processes_have_different_names_and_a_killed_ones_name_is_used_again(tmp_path: Path) -> None:
    with holding(tmp_path, "sink") as (first, one), holding(tmp_path, "sink") as (_, two):
        assert one
        assert two
        with member_name(tmp_path, "sink") as three:
            assert len({one, two, three}) == 3
        first.kill()
        first.wait()
        with member_name(tmp_path, "sink") as again, member_name(tmp_path, "sink") as other:
            assert again == one
            assert other == three


def test_a_name_is_the_same_at_the_next_start(tmp_path: Path) -> None:
    with member_name(tmp_path / "data", "sink") as before:
        pass
    with member_name(tmp_path / "data", "sink") as after:
        assert after == before


def test_roles_that_share_a_group_have_different_names(tmp_path: Path) -> None:
    """A processor beside `facestream up`."""
    with ExitStack() as stack:
        names = {
            stack.enter_context(member_name(tmp_path, role)) for role in ("ingest-process-sink", "process", "sink")
        }
    assert len(names) == 3
