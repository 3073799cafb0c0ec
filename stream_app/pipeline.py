"""What the worker does to a batch of messages, without Kafka: decode, step, score, forecast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.candles import Candle, InvalidCandle, RejectReason, decode_candle
from shared.forecaster import Calibrated, Distribution, Due, Models, distributions, messages
from shared.forecasts import Forecast
from shared.score_messages import Encoded
from shared.window import Push, Window
from stream_app.ledger import layout_of
from stream_app.scoring import Raw, Series, Task, settle
from stream_app.state import STALE, Event, SymbolState, effect

REDELIVERED: Final = "redelivered"

Record = tuple[bytes, bytes]  # key, value


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a candle did: ``push`` is None for a message that was applied before."""

    push: Push | None
    due: Due | None = None
    gap: bool = False
    moves: bool = False  # the symbol's candles came from another partition before

    @property
    def label(self) -> str:
        """The value of the metric's ``outcome`` label."""
        return REDELIVERED if self.push is None else self.push.value


def step(
    state: SymbolState, candle: Candle, partition: int, offset: int, needed: int
) -> tuple[SymbolState, Outcome]:
    """Advance one symbol's window by one closed candle. Pure; raises nothing for a valid candle.

    What the candle settles follows for a whole batch at once, see ``stream_app.scoring``.

    A newer candle and a correction of the newest one owe a forecast once the window holds the
    ``needed`` candles of the interval's model.
    """
    if state.has_applied(partition, offset):
        return state, Outcome(None)
    moves = state.moves_to(partition)
    window, push = state.window.push(candle)
    # the changelog of another partition may go to another worker, who needs a whole record
    tail = STALE if moves else state.tail
    order, offsets = state.noting(partition, offset)
    if push is not Push.APPENDED and push is not Push.REPLACED_NEWEST:
        kept = SymbolState(
            window, order, offsets, state.close_ms, state.last_close, tail, state.ledger
        )
        return kept, Outcome(push, moves=moves)
    moved = SymbolState(window, order, offsets, candle.close_ms, candle.close, tail, state.ledger)
    due = None
    if len(window) >= needed:
        due = Due(
            candle.symbol, candle.interval, candle.close_ms, candle.close, window.newest(needed)
        )
    is_gap = push is Push.APPENDED and len(state.window) > 0 and candle.open_ms > state.close_ms
    return moved, Outcome(push, due, is_gap, moves)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came from the candles topic."""

    key: bytes | None
    value: bytes | None
    partition: int
    offset: int
    appended_ms: int  # when the broker appended it, by the broker's clock, UTC


@dataclass(slots=True)
class BatchResult:
    """What is owed for a batch: indices refer to the batch's messages."""

    forecasts: list[tuple[int, Forecast]] = field(default_factory=list)
    scores: list[tuple[int, Encoded]] = field(default_factory=list)
    rejected: list[tuple[int, InvalidCandle]] = field(default_factory=list)
    states: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)  # -> partition, state
    records: dict[int, list[Record]] = field(default_factory=dict)  # partition -> for the changelog
    outcomes: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    moved: list[tuple[str, int]] = field(default_factory=list)  # series, partition it moved to


def table_key(candle: Candle) -> bytes:
    """Return the key of a candle's state in the table."""
    return f"{candle.symbol}|{candle.interval}".encode()


def advance(
    incoming: Sequence[Incoming],
    stored: Callable[[bytes], bytes | None],
    models: Models,
    capacity: int,
    now_ms: int,
) -> BatchResult:
    """Apply a batch in order, score what it settles, forecast all that is due by few model calls.

    Args:
        incoming: messages in the order of their offsets within each partition.
        stored: the table's look-up, key to state.
        models: those that are served, by interval.
        capacity: most candles in a stored window, at least what the models need.
        now_ms: the current time, UTC; whether a candle is in the future is for the broker's clock
            to say, which stamped its message.
    """
    result = BatchResult()
    batch: dict[bytes, _Batch] = {}
    owed: list[Task] = []
    for i, message in enumerate(incoming):
        try:
            candle = decode_candle(message.key, message.value, message.appended_ms)
        except InvalidCandle as error:
            result.rejected.append((i, error))
            continue
        key = table_key(candle)
        one = batch.get(key)
        if one is None:
            one = batch[key] = _Batch(_load(stored(key), capacity))
        needed = models.of(candle.interval).window_length
        moved, outcome = step(one.state, candle, message.partition, message.offset, needed)
        if outcome.push is Push.TOO_OLD:
            result.rejected.append((i, _too_old(candle, one.state.window)))
        result.outcomes[outcome.label] += 1
        result.gaps += outcome.gap
        if outcome.moves:
            result.moved.append((key.decode(), message.partition))
        if outcome.push is not None:
            task = Task(
                i, candle, outcome.push, outcome.due, effect(moved.window, outcome.push, candle)
            )
            one.note(moved, message.partition, task)
            if outcome.due is not None:
                owed.append(task)
    _finish(result, {key: one for key, one in batch.items() if one.orders}, owed, models, now_ms)
    return result


def _finish(
    result: BatchResult,
    batch: dict[bytes, _Batch],
    owed: list[Task],
    models: Models,
    now_ms: int,
) -> None:
    """Score and forecast what a batch's candles have changed, and add what is to be written."""
    due = [task.due for task in owed if task.due is not None]
    made = distributions(models, due)
    for task, raw in zip(owed, made, strict=True):
        task.raw = _raw(raw)
    settle([one.series for one in batch.values()], now_ms)
    calibrated = [
        Calibrated(owing, raw, task.calibrated, task.id)
        for task, owing, raw in zip(owed, due, made, strict=True)
        if task.calibrated is not None
    ]
    for task, forecast in zip(owed, messages(calibrated, now_ms), strict=True):
        if task.entry is not None:
            result.forecasts.append((task.index, forecast))
        else:
            result.rejected.append((task.index, _no_forecast(forecast)))
    for key, one in batch.items():
        written, record_key, record = one.to_write(key)
        result.states[key] = (one.partition, written.encode())
        result.records.setdefault(one.partition, []).append((record_key, record))
        result.scores += [
            (task.index, task.scores) for task in one.series.tasks if task.scores is not None
        ]
    result.scores.sort(key=_index_of)


class _Batch:
    """What a batch does to one series."""

    def __init__(self, before: SymbolState) -> None:
        self._before = before
        self.state = before
        self.partition = 0
        self.orders: list[int] = []
        self.series = Series(before.ledger, before.last_close)

    def note(self, state: SymbolState, partition: int, task: Task) -> None:
        """Take the state after a message, and what is to be scored and forecast at it."""
        self.state = state
        self.partition = partition
        self.orders.append(state.order)
        self.series.tasks.append(task)

    def to_write(self, key: bytes) -> tuple[SymbolState, bytes, bytes]:
        """Return the state after the batch, and the key and value of the record to write."""
        events = [
            Event(order, task.record, task.entry or b"")
            for order, task in zip(self.orders, self.series.tasks, strict=True)
        ]
        before = self._before if self._before.order >= 0 else None
        return self.state.with_ledger(self.series.ledger).to_write(key, before, events)


def _raw(made: Distribution) -> Raw:
    model = made.forecaster
    layout = layout_of(model.model_version, tuple(model.horizons), tuple(model.quantile_levels))
    return Raw(layout, made.log_return, made.volatility)


def _index_of(scored: tuple[int, Encoded]) -> int:
    return scored[0]


def _load(stored: bytes | None, capacity: int) -> SymbolState:
    if stored is None:
        return SymbolState(Window(capacity))
    return SymbolState.decode(stored, capacity)


def _no_forecast(forecast: Forecast) -> InvalidCandle:
    return InvalidCandle(
        RejectReason.NO_FORECAST,
        f"{forecast.symbol} {forecast.interval}: the candle is in the window, but the model "
        f"{forecast.model_version} gives no finite prices for it: a window without a move, or "
        "with prices that are far apart",
    )


def _too_old(candle: Candle, window: Window) -> InvalidCandle:
    return InvalidCandle(
        RejectReason.OLDER_THAN_WINDOW,
        f"{candle.symbol} {candle.interval}: candle of {candle.open_ms} is older than the window "
        f"(from {window.first_open_ms})",
    )
