"""What the worker does to a batch of messages, without Kafka: decode, step, forecast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.candles import Candle, InvalidCandle, RejectReason, decode_candle
from shared.forecaster import Due, Models, forecast, length_of
from shared.forecasts import Forecast, is_sound
from shared.window import Push, Window
from stream_app.state import SymbolState

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
    state: SymbolState, candle: Candle, partition: int, offset: int, lengths: Sequence[int]
) -> tuple[SymbolState, Outcome]:
    """Advance one symbol by one closed candle. Pure; raises nothing for a valid candle.

    A newer candle and a correction of the newest one owe a forecast once the window holds the
    first of the ``lengths`` of the interval's model; it is made of the longest that is held.
    """
    if state.has_applied(partition, offset):
        return state, Outcome(None)
    moves = state.moves_to(partition)
    window, push = state.window.push(candle)
    # the changelog of another partition may go to another worker, who needs a whole record
    tail = len(window) if moves else _tail(state, candle, push, len(window))
    order, offsets = state.noting(partition, offset)
    if push not in {Push.APPENDED, Push.REPLACED_NEWEST}:
        kept = SymbolState(window, order, offsets, state.close_ms, state.last_close, tail)
        return kept, Outcome(push, moves=moves)
    moved = SymbolState(window, order, offsets, candle.close_ms, candle.close, tail)
    due = None
    if length := length_of(lengths, len(window)):
        due = Due(
            candle.symbol, candle.interval, candle.close_ms, candle.close, window.newest(length)
        )
    is_gap = push is Push.APPENDED and len(state.window) > 0 and candle.open_ms > state.close_ms
    return moved, Outcome(push, due, is_gap, moves)


def _tail(before: SymbolState, candle: Candle, push: Push, length: int) -> int:
    """Return how many of the newest candles the last whole record lacks after a push."""
    if push in {Push.DUPLICATE, Push.TOO_OLD}:
        return before.tail
    if push is not Push.APPENDED and before.touches_whole(candle.open_ms):
        return length
    grown = push in {Push.APPENDED, Push.INSERTED}
    return min(before.tail + grown, length)


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
    messages: Sequence[Incoming],
    stored: Callable[[bytes], bytes | None],
    models: Models,
    capacity: int,
    now_ms: int,
) -> BatchResult:
    """Apply a batch in order and forecast all that is due by few model calls.

    Args:
        messages: in the order of their offsets within each partition.
        stored: the table's look-up, key to state.
        models: those that are served, by interval.
        capacity: most candles in a stored window; never fewer than the interval's model reads.
        now_ms: the current time, UTC; whether a candle is in the future is for the broker's clock
            to say, which stamped its message.
    """
    result = BatchResult()
    states: dict[bytes, SymbolState] = {}
    changed: dict[bytes, int] = {}  # table key -> partition
    due: list[tuple[int, Due]] = []
    for i, message in enumerate(messages):
        try:
            candle = decode_candle(message.key, message.value, message.appended_ms)
        except InvalidCandle as error:
            result.rejected.append((i, error))
            continue
        key = table_key(candle)
        lengths = models.of(candle.interval).lengths(candle.interval)
        state = states.get(key) or _load(stored(key), max(capacity, lengths[-1]))
        moved, outcome = step(state, candle, message.partition, message.offset, lengths)
        if outcome.push is Push.TOO_OLD:
            result.rejected.append((i, _too_old(candle, state.window)))
        if outcome.due is not None:
            due.append((i, outcome.due))
        result.outcomes[outcome.label] += 1
        result.gaps += outcome.gap
        if outcome.moves:
            result.moved.append((key.decode(), message.partition))
        states[key] = moved
        if moved is not state:
            changed[key] = message.partition
    made = forecast(models, [owed for _, owed in due], now_ms)
    for (i, _), forecasted in zip(due, made, strict=True):
        if is_sound(forecasted):
            result.forecasts.append((i, forecasted))
        else:
            result.rejected.append((i, _no_forecast(forecasted)))
    for key, partition in changed.items():
        written, record_key, record = states[key].to_write(key)
        result.states[key] = (partition, written.encode())
        result.records.setdefault(partition, []).append((record_key, record))
    return result


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
