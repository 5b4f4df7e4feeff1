"""A consumer that delegates to another one, so that a test can override parts. Without pytest, for child processes."""

from collections.abc import Collection, Mapping

from backends.log import CommittedOffset, Consumer, Record, TopicPartition, UnreadableBatch


class DelegatingConsumer(Consumer):
    def __init__(self, inner: Consumer) -> None:
        self.inner = inner

    @property
    def epoch(self) -> int:  # type: ignore[override]  # the port's attribute, passed on
        return self.inner.epoch

    @property
    def assignment(self) -> Mapping[TopicPartition, CommittedOffset]:  # type: ignore[override]  # the same
        return self.inner.assignment

    @property
    def unreadable(self) -> Mapping[TopicPartition, UnreadableBatch]:  # type: ignore[override]  # the same
        return self.inner.unreadable

    async def poll(
        self,
        max_records: int,
        timeout_s: float,
        *,
        topics: Collection[str] | None = None,
        paused: Collection[TopicPartition] = (),
    ) -> list[Record]:
        return await self.inner.poll(max_records, timeout_s, topics=topics, paused=paused)

    def next_offsets(self) -> Mapping[TopicPartition, int]:
        return self.inner.next_offsets()

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        await self.inner.commit(offsets)

    def holds_partitions(self) -> bool:
        return self.inner.holds_partitions()

    async def close(self) -> None:
        await self.inner.close()
