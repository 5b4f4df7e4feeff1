"""The records of the topic `erasures`."""

from schemas.event import EventRecord, Milliseconds
from schemas.origins import Cut


class Erasure(EventRecord):
    """`erasures`: what was erased. The key is its digest (schemas/erasures.py). `partition` and `offset` are those of
    the erase command in `faces.embedded`.

    It covers images whose origin is below `cut`, records of the partition before the command, and rows whose version is
    at most `at`. `done`: the command was carried out, and has erased so many `faces` and `images`. `cut` is None when
    nothing that came before it can be in a topic any more. Before that, `kept_until` has the offsets at which the
    topics behind must begin. In a record of an older version `done` and `cut` are None. `first_record`: the offset in
    this topic of the first record about the command, if this is a later one.
    """

    at: Milliseconds
    partition: int
    offset: int
    log: str = ""
    cut: Cut | None = None
    kept_until: dict[str, list[int]] | None = None
    done: bool | None = None
    faces: int = 0
    images: int = 0
    first_record: int | None = None


class LogIdentity(EventRecord):
    """`erasures`, under the key `log`: the id of this log. Another log has other offsets: those of an erasure with
    another `log` mean nothing here.
    """

    id: str
