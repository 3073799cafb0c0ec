"""What the worker does to a batch of messages, without Kafka: decode, step, score, forecast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final

from shared.candles import Candle, InvalidCandle, RejectReason, decode_candle
from shared.drift import Report, drifts
from shared.feature_drift import is_sampled
from shared.forecaster import (
    Calibrated,
    ContextOf,
    Distribution,
    Due,
    Models,
    distributions,
    length_of,
    longest,
    messages,
    without_context,
)
from shared.forecasts import Forecast
from shared.score_messages import Encoded
from shared.window import Push, Window
from stream_app.ledger import layout_of
from stream_app.rules import Rules, is_close, is_regular, overlaps, too_many
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
    cut_ms: int | None = None  # opening of the candles that it took the place of, from there on

    @property
    def label(self) -> str:
        """The value of the metric's ``outcome`` label."""
        return REDELIVERED if self.push is None else self.push.value


def step(
    state: SymbolState,
    candle: Candle,
    partition: int,
    offset: int,
    models: Models | None,
    context_of: ContextOf = without_context,
) -> tuple[SymbolState, Outcome]:
    """Advance one symbol's window by one closed candle. Pure; raises nothing for a valid candle.

    What the candle settles follows for a whole batch at once, see ``stream_app.scoring``.

    A newer candle and a correction of the newest one owe a forecast once the window holds the
    candles that a model of the series needs; without ``models`` nothing is owed.
    """
    if state.has_applied(partition, offset):
        return state, Outcome(None)
    moves = state.moves_to(partition)
    before = make_way(state, candle)
    window, push = (state.window, Push.OVERLAPS) if before is None else before.push(candle)
    # the changelog of another partition may go to another worker, who needs a whole record
    cut_ms = None
    if before is not None and before is not state.window:
        cut_ms = state.window.next_open_ms(before.last_open_ms or 0) if before.records else 0
    tail = STALE if moves or cut_ms is not None else state.tail
    order, offsets = state.noting(partition, offset)
    if push is not Push.APPENDED and push is not Push.REPLACED_NEWEST:
        kept = SymbolState(
            window, order, offsets, state.close_ms, state.last_close, tail, state.ledger
        )
        return kept, Outcome(push, moves=moves, cut_ms=cut_ms)
    moved = SymbolState(window, order, offsets, candle.close_ms, candle.close, tail, state.ledger)
    due = None if models is None else _due(candle, window, models, context_of)
    is_gap = push is Push.APPENDED and len(state.window) > 0 and candle.open_ms > state.close_ms
    return moved, Outcome(push, due, is_gap, moves, cut_ms)


def _due(candle: Candle, window: Window, models: Models, context_of: ContextOf) -> Due | None:
    """Return what is owed after a candle; None while the window is too short for every model.

    A forecast is made of the longest of the model's windows that is held, and of what was known of
    the model's context when the candle closed.
    """
    model = models.of(candle.interval, candle.symbol, len(window))
    length = length_of(model.lengths(candle.interval), len(window))
    if not length:
        return None
    newest = window.newest(length)
    context = context_of(model.context, candle.close_ms) if model.context else None
    return Due(candle.symbol, candle.interval, candle.close_ms, candle.close, newest, context)


def make_way(state: SymbolState, candle: Candle) -> Window | None:
    """Return the window that a candle is pushed into: without those that it wins over.

    Candles of a series do not overlap. Of two that do a regular one wins over one that is not,
    else the one that was first.

    Returns:
        The state's own window, or a shorter one; None when the candle gives way.
    """
    window, newest_ms = state.window, state.window.last_open_ms
    if newest_ms is None or candle.open_ms == newest_ms:
        return window
    if candle.open_ms >= state.close_ms:
        is_dense = is_close(newest_ms, candle.open_ms, candle.interval)
        regular = is_regular(candle.open_ms, candle.close_ms, candle.interval)
        return None if is_dense and not regular else window
    if candle.open_ms > newest_ms:
        collides = overlaps(newest_ms, state.close_ms, candle.open_ms, candle.interval)
        covered_ms = newest_ms
    else:
        covered_ms = window.next_open_ms(candle.open_ms) or newest_ms
        collides = overlaps(candle.open_ms, candle.close_ms, covered_ms, candle.interval)
    if not collides:
        return window
    loses = is_regular(newest_ms, state.close_ms, candle.interval)
    if loses or candle.close_ms <= newest_ms:  # only the newest candle's length is known
        return None
    return (
        window.before(covered_ms)
        if is_regular(candle.open_ms, candle.close_ms, candle.interval)
        else None
    )


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
    drifts: dict[bytes, Report] = field(default_factory=dict)  # of the series that were scored
    drifts_began: list[bytes] = field(default_factory=list)
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
    *,
    rules: Rules | None = None,
    held_series: int = 0,
    context_of: ContextOf = without_context,
) -> BatchResult:
    """Apply a batch in order, score what it settles, forecast all that is due by few model calls.

    Args:
        incoming: messages in the order of their offsets within each partition.
        stored: the table's look-up, key to state.
        models: those that are served, by interval and symbol.
        capacity: most candles in a stored window; never fewer than a model of the interval reads.
        now_ms: the current time, UTC; whether a candle is in the future is for the broker's clock
            to say, which stamped its message.
        rules: of the series that are taken; by default all.
        held_series: number of series in the table.
        context_of: the look-up of what models read beside a series's own candles.
    """
    result = BatchResult()
    held = _States(
        stored, cache(partial(_capacity, models, capacity)), rules or Rules(), held_series
    )
    owed: list[Task] = []
    for i, message in enumerate(incoming):
        try:
            candle = decode_candle(message.key, message.value, message.appended_ms)
            key, entry = held.of(candle)
        except InvalidCandle as error:
            result.rejected.append((i, error))
            continue
        moved, outcome = step(
            entry.state, candle, message.partition, message.offset, models, context_of
        )
        if outcome.push in _REFUSED:
            result.rejected.append((i, _REFUSED[outcome.push](candle, entry.state)))
        result.outcomes[outcome.label] += 1
        result.gaps += outcome.gap
        if outcome.moves:
            result.moved.append((key.decode(), message.partition))
        if outcome.push is not None:
            record = effect(moved.window, outcome.push, candle)
            task = Task(i, candle, outcome.push, outcome.due, record, outcome.cut_ms)
            entry.note(moved, message.partition, task)
            if outcome.due is not None:
                owed.append(task)
    changed = {key: entry for key, entry in held.batch.items() if entry.orders}
    _finish(result, changed, owed, models, now_ms)
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
    settle([entry.series for entry in batch.values()], now_ms)
    calibrated = [
        Calibrated(owing, raw, task.calibrated, task.id, _bins(task, raw))
        for task, owing, raw in zip(owed, due, made, strict=True)
        if task.calibrated is not None
    ]
    for task, forecast in zip(owed, messages(calibrated, now_ms), strict=True):
        if task.entry is not None:
            result.forecasts.append((task.index, forecast))
        else:
            result.rejected.append((task.index, _no_forecast(forecast)))
    for key, entry in batch.items():
        written, record_key, record = entry.to_write(key)
        result.states[key] = (entry.partition, written.encode())
        result.records.setdefault(entry.partition, []).append((record_key, record))
        result.scores += [(task.index, task.scores) for task in entry.series.tasks if task.scores]
        if entry.series.drift is not None:
            result.drifts[key] = entry.series.drift
            if entry.begins_to_drift:
                result.drifts_began.append(key)
    result.scores.sort(key=_index_of)


def _bins(task: Task, raw: Distribution) -> str | None:
    """Return the bins of the features of one window in some, chosen by its forecast's id."""
    return raw.bins(task.candle.interval) if is_sampled(task.id) else None


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

    @property
    def begins_to_drift(self) -> bool:
        """True when the series drifts and did not before the batch."""
        return drifts(self.series.ledger.drift()) and not drifts(self._before.ledger.drift())

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


def _capacity(models: Models, least: int, interval: str) -> int:
    """Return the most candles in a stored window of an interval."""
    return max(least, longest(models.all(), (interval,)))


class _States:
    """The states of the series in a batch, and whether there is room for another."""

    def __init__(
        self,
        stored: Callable[[bytes], bytes | None],
        capacity_of: Callable[[str], int],
        rules: Rules,
        series: int,
    ) -> None:
        self.batch: dict[bytes, _Batch] = {}
        self._stored = stored
        self._capacity_of = capacity_of
        self._rules = rules
        self._series = series

    def of(self, candle: Candle) -> tuple[bytes, _Batch]:
        """Return the key of a candle's series and its batch; raises ``InvalidCandle``."""
        self._rules.check(candle)
        key = table_key(candle)
        if key not in self.batch:
            self.batch[key] = _Batch(self._state(key, candle))
        return key, self.batch[key]

    def _state(self, key: bytes, candle: Candle) -> SymbolState:
        stored = self._stored(key)
        capacity = self._capacity_of(candle.interval)
        if stored is not None:
            return SymbolState.decode(stored, capacity)
        if self._series >= self._rules.max_series:
            raise too_many(candle, self._rules.max_series)
        self._series += 1
        return SymbolState(Window(capacity))


def _no_forecast(forecast: Forecast) -> InvalidCandle:
    return InvalidCandle(
        RejectReason.NO_FORECAST,
        f"{forecast.symbol} {forecast.interval}: the candle is in the window, but the model "
        f"{forecast.model_version} gives no finite prices for it: a window without a move, or "
        "with prices that are far apart",
    )


def _overlapping(candle: Candle, state: SymbolState) -> InvalidCandle:
    return InvalidCandle(
        RejectReason.OVERLAPS,
        f"{candle.symbol} {candle.interval}: the candle of {candle.open_ms} to {candle.close_ms} "
        f"overlaps another; the newest is of {state.window.last_open_ms} to {state.close_ms}",
    )


def _too_old(candle: Candle, state: SymbolState) -> InvalidCandle:
    return InvalidCandle(
        RejectReason.OLDER_THAN_WINDOW,
        f"{candle.symbol} {candle.interval}: candle of {candle.open_ms} is older than the window "
        f"(from {state.window.first_open_ms})",
    )


_REFUSED: Final[dict[Push | None, Callable[[Candle, SymbolState], InvalidCandle]]] = {
    Push.TOO_OLD: _too_old,
    Push.OVERLAPS: _overlapping,
}
"""What becomes a dead letter for what it does to its window."""
