"""Clients of other systems send with every codec, and in transactions: the short form of bench.soak.foreign."""

from pathlib import Path

import pytest

from bench.soak.foreign import soak
from bench.soak.foreign_programs import python_programs
from bench.stores import temporary_stores


async def test_each_committed_event_has_one_effect_and_an_aborted_one_has_none(
    services: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long form is `make soak-foreign`, with other clients, kills, and the lag as others see it."""
    async with temporary_stores("test", services) as stores:
        wrong = await soak(
            stores,
            tmp_path / "data",
            python_programs(),
            400,
            counts={"ingest": 0, "process": 1, "sink": 1},
            kill_every_s=3600,
            lag_of=lambda servers, prefix: {},
        )
    assert wrong == []
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    ((sent, _, committed, aborted, answered),) = [map(int, line[1:]) for line in table if line[:1] == ["all"]]
    assert sent == 400
    assert answered == committed == sent - aborted
    assert aborted > 0
