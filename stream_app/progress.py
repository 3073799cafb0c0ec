"""Liveness: consumer lag, and how long work has waited without a commit; time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.status import Health, since


@dataclass(slots=True)
class _Partition:
    end: int  # offset that the next message will get
    committed: int  # offset of the next message to take after a restart
    moved_s: float  # when ``committed`` last moved, or when there was last nothing to do
    noted_s: float  # when the broker last answered


@dataclass(slots=True)
class Progress:
    """Follows the partitions of the candles topic that this worker has.

    The committed offset is what counts: a race in Faust's recovery can stop the commits for
    good while messages still flow (faust#596).
    """

    stall_s: float
    silent_since_ms: int | None = None  # UTC; None while the broker answers
    _partitions: dict[int, _Partition] = field(default_factory=dict)

    def note_silence(self, now_ms: int) -> None:
        """Take that the broker does not answer: the offsets are of the past from then on."""
        if self.silent_since_ms is None:
            self.silent_since_ms = now_ms

    def assign(self, partitions: set[int]) -> None:
        """Take that the broker answers; forget the partitions that went to another worker."""
        self.silent_since_ms = None
        self._partitions = {n: held for n, held in self._partitions.items() if n in partitions}

    def note(self, partition: int, *, end: int, committed: int, now_s: float) -> None:
        """Take the offsets of a partition as they are at ``now_s`` (monotonic seconds)."""
        held = self._partitions.get(partition)
        if held is None:
            self._partitions[partition] = _Partition(end, committed, now_s, now_s)
            return
        if committed != held.committed or committed >= end:
            held.moved_s = now_s
        held.end, held.committed, held.noted_s = end, committed, now_s

    def lags(self) -> dict[int, int]:
        """Return for each partition how many messages are not committed yet."""
        return {n: max(0, held.end - held.committed) for n, held in self._partitions.items()}

    def age_s(self) -> float:
        """Return for how long the slowest partition has had work and committed none of it.

        It stands still while the broker does not answer: a restart would not help then.
        """
        ages_s = (held.noted_s - held.moved_s for held in self._partitions.values())
        return max(ages_s, default=0.0)

    def health(self) -> Health:
        """Fail when work waits and nothing progresses."""
        age_s = self.age_s()
        lag = sum(self.lags().values())
        detail = f"lag {lag}, oldest uncommitted work waits for {age_s:.1f} s"
        if self.silent_since_ms is not None:
            detail = f"Kafka does not answer {since(self.silent_since_ms)}; before: {detail}"
        return Health(age_s < self.stall_s, detail)
