"""The offset that may be committed in a partition, whatever the order in which its records are done."""

from hypothesis import given
from hypothesis import strategies as st

from stream.partition_progress import PartitionProgress
from stream.suspects import Suspects


def progress() -> PartitionProgress:
    return PartitionProgress(next_offset=5, committed_offset=5)


# Offsets have holes where compaction was; records are done in any order.
OFFSETS = st.lists(st.integers(5, 60), unique=True, min_size=1, max_size=20).map(sorted)


@given(data=st.data(), offsets=OFFSETS)
def test_a_commit_covers_exactly_the_records_done_without_a_gap(data: st.DataObject, offsets: list[int]) -> None:
    it = progress()
    polled: list[int] = []
    done: set[int] = set()
    left = list(offsets)
    while left or len(done) < len(polled):
        if left and (len(done) == len(polled) or data.draw(st.booleans())):
            polled.append(left.pop(0))
            it.add_polled(polled[-1])
        else:
            offset = data.draw(st.sampled_from([each for each in polled if each not in done]))
            done.add(offset)
            it.mark_done(offset)
        undone = [each for each in polled if each not in done]
        contiguous = [each for each in polled if not undone or each < undone[0]]
        assert it.next_offset == (contiguous[-1] + 1 if contiguous else 5)
        assert [it.is_first(each) for each in undone] == [each == undone[0] for each in undone]
    assert it.next_offset == offsets[-1] + 1


def test_nothing_is_committed_before_anything_is_done() -> None:
    it = progress()
    it.add_polled(5)
    it.add_polled(6)
    assert it.next_offset == 5
    it.mark_done(6)
    assert it.next_offset == 5
    it.mark_done(5)
    assert it.next_offset == 7


def test_suspects_are_the_first_records_that_were_there_when_the_epoch_began() -> None:
    it = Suspects(end_offset=10, remaining=3)
    assert [offset for offset in (5, 7, 8, 9, 10) if it.claim(offset)] == [5, 7, 8]
    it = Suspects(end_offset=7, remaining=3)
    assert [offset for offset in (5, 6, 7, 8) if it.claim(offset)] == [5, 6]


def test_after_a_clean_stop_no_record_is_a_suspect() -> None:
    assert not Suspects(end_offset=0, remaining=3).claim(5)
