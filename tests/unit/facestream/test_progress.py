"""What long work says on a pipe."""

import pytest

from facestream import progress
from facestream.progress import progress_bar


@pytest.mark.parametrize(
    ("between_s", "always", "said"),
    [
        (0.0, True, ["3 of 8", "8 of 8"]),
        (0.0, False, ["3 of 8", "8 of 8"]),
        (60.0, True, ["8 of 8"]),
        (60.0, False, []),
    ],
    ids=["long", "long, not always", "short", "short, not always"],
)
def test_a_line_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, between_s: float, always: bool, said: list[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", between_s)
    with progress_bar("crops", 8, always=always) as done:
        done(3)
        done(5)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(",")[0] for line in err.splitlines()] == [f"crops: {it}" for it in said]
