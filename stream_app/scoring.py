"""Settles what was forecast, calibrates what is forecast now: many series at once, without Kafka.

A batch may hold several candles of a series, and each calibration follows from the scores before.
So a batch goes round by round: the first candle of each series, then the second. Within a round
all series share each call of numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from shared import calibration, drift
from shared.candles import Candle
from shared.forecaster import Due, prices_of
from shared.forecasts import HIGH_PRICE, LOW_PRICE, forecast_id
from shared.score_messages import (
    Encoded,
    mean_pinball,
    qlike,
    scores_id,
    transforms,
)
from shared.window import Push
from stream_app.ledger import Layout, Ledger, layouts_in, rows_of, settled_by

_SETTLING: Final = (Push.APPENDED, Push.REPLACED, Push.REPLACED_NEWEST)
"""What a candle does to its window when it settles horizons."""


@dataclass(slots=True)
class Raw:
    """The model's distribution for a due window."""

    layout: Layout
    log_return: NDArray[np.floating[Any]]  # (H, Q); an entry holds 32 bits, as graphs give
    volatility: NDArray[np.floating[Any]]  # (H,)


@dataclass(slots=True)
class Task:
    """A candle that was applied to its series, and what it gives."""

    index: int  # of its message in the batch
    candle: Candle
    push: Push
    due: Due | None
    record: bytes  # what it changed of the window
    cut_ms: int | None = None  # opening of the candles that it took the place of, from there on
    raw: Raw | None = None
    scores: Encoded | None = None
    id: str = ""  # of its forecast
    calibrated: NDArray[np.float64] | None = None  # log returns, (H, Q)
    entry: bytes | None = None


@dataclass(slots=True)
class Series:
    """One series in a batch: its ledger, which moves on, and its candles in order."""

    ledger: Ledger
    last_close: float  # before the batch
    drift: drift.Report | None = None  # after the newest candle of the batch that settled anything
    tasks: list[Task] = field(default_factory=list)


@dataclass(slots=True)
class _Settled:
    """A horizon whose candle is here."""

    owner: int  # place of its series in the round
    horizon: int  # place of its step in the layout
    step: int
    learns: bool  # corrections are scored and teach nothing
    entry: bytes


@dataclass(slots=True)
class _Learned:
    """What the series of a round have learned, by their place in it."""

    calibration: dict[int, NDArray[np.float32]]  # (H, W)
    drift: dict[int, NDArray[np.float32]]  # (drift.WIDTH,)


def settle(series: Sequence[Series], now_ms: int) -> None:
    """Score what the candles of a batch settle, and calibrate what is forecast at them.

    Args:
        series: each once; their tasks get scores, ids, calibrated quantiles and entries, their
            ledgers move on.
        now_ms: the current time, UTC.
    """
    longest = max((len(holder.tasks) for holder in series), default=0)
    for number in range(longest):
        now = [holder for holder in series if number < len(holder.tasks)]
        _round(now, [holder.tasks[number] for holder in now], now_ms)


def _round(series: list[Series], tasks: list[Task], now_ms: int) -> None:
    for holder, task in zip(series, tasks, strict=True):
        if task.cut_ms is not None:
            holder.ledger = holder.ledger.before(task.cut_ms)
    _settle(series, tasks, now_ms)
    for holder, task in zip(series, tasks, strict=True):
        _follow(holder, task)
    due: dict[int, tuple[Layout, list[Series], list[Task]]] = {}
    for holder, task in zip(series, tasks, strict=True):
        if task.raw is not None:
            layout = task.raw.layout
            holder.ledger = holder.ledger.using(layout)
            _, owners, owed = due.setdefault(layout.number, (layout, [], []))
            owners.append(holder)
            owed.append(task)
    for layout, owners, owed in due.values():
        _calibrate(layout, owners, owed)
    for holder, task in zip(series, tasks, strict=True):
        holder.ledger = holder.ledger.noting(task.push, task.candle.open_ms, task.entry)


def _settle(series: list[Series], tasks: list[Task], now_ms: int) -> None:
    by_layout: dict[int, tuple[Layout, list[_Settled]]] = {}
    for owner, (holder, task) in enumerate(zip(series, tasks, strict=True)):
        _add_settled(by_layout, owner, holder.ledger, task)
    scored: dict[int, list[dict[str, Any]]] = {}
    learned = _Learned({}, {})
    for layout, group in by_layout.values():
        _score(layout, group, series, tasks, scored, learned)
    for owner, state in learned.calibration.items():
        ledger = series[owner].ledger
        drifted = learned.drift.get(owner)
        after = state.tobytes() + (ledger.drift() if drifted is None else drifted).tobytes()
        series[owner].ledger = ledger.learned(after, ledger.variance)
    for owner, horizons in scored.items():
        holder = series[owner]
        holder.drift = drift.report(holder.ledger.drift())
        tasks[owner].scores = _message(tasks[owner], horizons, holder.drift, now_ms)


def is_correction(task: Task) -> bool:
    """Tell whether a candle takes the place of another, whose horizons were scored before."""
    return task.push is not Push.APPENDED or task.cut_ms is not None


def _add_settled(
    by_layout: dict[int, tuple[Layout, list[_Settled]]], owner: int, ledger: Ledger, task: Task
) -> None:
    """Add the horizons that a candle settles, before the ledger has moved on to it."""
    push = task.push
    if not ledger.entries or push not in _SETTLING:
        return
    learns = not is_correction(task)
    back = -1  # a new candle comes one behind the newest entry
    if push is not Push.APPENDED:
        found = ledger.back_of(task.candle.open_ms)
        if found is None:
            return
        back = found
    entries, size = ledger.entries, ledger.entry_bytes
    end = len(entries) - (back + 1) * size
    for step, at, layout in settled_by(ledger.layouts):
        start = end - step * size
        if start >= 0 and entries.startswith(layout.mark, start):
            entry = entries[start : start + layout.size]
            _, group = by_layout.setdefault(layout.number, (layout, []))
            group.append(_Settled(owner, at, step, learns, entry))


def _score(
    layout: Layout,
    group: list[_Settled],
    series: list[Series],
    tasks: list[Task],
    scored: dict[int, list[dict[str, Any]]],
    learned: _Learned,
) -> None:
    """Score settled horizons of a layout, and learn from them."""
    grid = layout.grid
    rows = rows_of(layout, [settled.entry for settled in group])
    horizon = np.array([settled.horizon for settled in group])
    step = np.array([settled.step for settled in group])
    every = np.arange(len(group))
    last = rows["last_close"]
    close = np.array([tasks[settled.owner].candle.close for settled in group])
    outcome = np.log(close / last)
    raw = rows["raw"][every, horizon].astype(np.float64)  # (N, Q)
    sigma = rows["sigma"].astype(np.float64)
    calibrated = calibration.quantiles(grid, raw, rows["calibrated"][every, horizon])
    baseline = calibration.baseline_quantiles(
        grid, rows["baseline"][every, horizon], sigma, horizon
    )
    median = raw[:, grid.median]
    as_of = rows["open_ms"] + rows["lasts_ms"].astype(np.int64)
    quantile = np.stack([calibrated, raw, baseline])  # (3, N, Q)
    pinball = mean_pinball(grid.level, outcome, quantile)
    placed = transforms(grid.level, outcome, quantile[:2])
    columns = (
        as_of,
        last,
        last * np.exp(median),
        outcome - median,
        outcome,
        *pinball,
        qlike(outcome, rows["volatility"][every, horizon], step),
        *placed,
    )
    identities = rows["id"].tobytes().hex()
    made: list[dict[str, Any]] = []
    held = layout.ends.inside(outcome, quantile[:2])
    for at, (settled, *values) in enumerate(
        zip(group, *(column.tolist() for column in columns), *held, strict=True)
    ):
        made.append(
            {
                "forecast_id": identities[32 * at : 32 * at + 32],
                "step": settled.step,
                "as_of_ms": values[0],
                "model_version": layout.model_version,
                "last_close": values[1],
                "predicted_close": values[2],
                "error": values[3],
                "persistence_error": values[4],
                "pinball": values[5],
                "raw_pinball": values[6],
                "baseline_pinball": values[7],
                "qlike": values[8],
                "pit": values[9],
                "raw_pit": values[10],
                "inside": values[11],
                "raw_inside": values[12],
                "correction": None,
            }
        )
        scored.setdefault(settled.owner, []).append(made[-1])
    _learn(layout, group, series, (horizon, outcome, raw, sigma), learned, made)


def _learn(
    layout: Layout,
    group: list[_Settled],
    series: list[Series],
    given: tuple[NDArray[Any], ...],
    learned: _Learned,
    made: list[dict[str, Any]],
) -> None:
    """Learn from settled horizons, and note in what was made of each how it corrects the next."""
    grid, states = layout.grid, learned.calibration
    at = [
        place
        for place, settled in enumerate(group)
        if settled.learns and layouts_in(series[settled.owner].ledger.layouts)[0].grid is grid
    ]
    if not at:
        return
    owners = [group[place].owner for place in at]
    for owner in owners:
        if owner not in states:
            states[owner] = series[owner].ledger.state().copy()
    horizons = [group[place].horizon for place in at]
    state = np.stack([states[o][h] for o, h in zip(owners, horizons, strict=True)])
    horizon, outcome, raw, sigma = (array[at] for array in given)
    after = calibration.learn(grid, state, horizon, outcome, raw, sigma)
    corrections = grid.corrections(after)
    for entry, owner, place, row, correction in zip(
        at, owners, horizons, after, corrections, strict=True
    ):
        states[owner][place] = row
        made[entry]["correction"] = orjson.Fragment(correction)
    settled = calibration.settled(state).tolist()
    rows = [
        row
        for row, owner in enumerate(owners)
        if horizons[row] == 0
        and settled[row] % grid.steps[0] == 0  # others overlap
        and layouts_in(series[owner].ledger.layouts)[0] is layout
    ]
    if rows:
        held = np.stack([series[owners[row]].ledger.drift() for row in rows])
        moved = drift.after(grid.levels, held, outcome[rows], raw[rows])
        learned.drift |= {owners[row]: state for row, state in zip(rows, moved, strict=True)}


def _message(
    task: Task, horizons: list[dict[str, Any]], drifted: drift.Report, now_ms: int
) -> Encoded:
    """Return the message about a candle; its fields are those of ``Scores``."""
    candle = task.candle
    if len(horizons) > 1:
        horizons.sort(key=_step_of)
    settled = "".join([horizon["forecast_id"] for horizon in horizons]).encode()
    identity = scores_id(candle.symbol, candle.interval, candle.open_ms, candle.close, settled)
    body = {
        "id": identity,
        "symbol": candle.symbol,
        "interval": candle.interval,
        "open_ms": candle.open_ms,
        "close_ms": candle.close_ms,
        "close": candle.close,
        "corrected": is_correction(task),
        "made_at_ms": now_ms,
        "horizons": horizons,
        "drift": drifted,
    }
    # an encoder's result holds on to a buffer of 4 kB
    return Encoded(identity, now_ms, bytes(memoryview(orjson.dumps(body))))


def _step_of(horizon: dict[str, Any]) -> int:
    step: int = horizon["step"]
    return step


def _follow(holder: Series, task: Task) -> None:
    """Move the baseline's variance on by a new candle; begin it with the first full window."""
    variance = holder.ledger.variance
    if task.push is Push.APPENDED:
        if variance > 0 and holder.last_close > 0:
            move = math.log(task.candle.close / holder.last_close)
            variance = calibration.next_variance(variance, move)
        holder.last_close = task.candle.close
    elif task.push is Push.REPLACED_NEWEST:
        holder.last_close = task.candle.close
    if variance <= 0 and task.due is not None:
        variance = calibration.first_variance(task.due.window.ohlcv()[:, 3].tolist())
    if variance != holder.ledger.variance:
        holder.ledger = holder.ledger.learned(holder.ledger.calibration, variance)


def _calibrate(layout: Layout, series: list[Series], tasks: list[Task]) -> None:
    """Calibrate the forecasts made at these candles, and make their entries."""
    grid = layout.grid
    held = b"".join([holder.ledger.calibration for holder in series])
    numbers = np.frombuffer(held, dtype=np.float32).reshape(len(series), -1)
    states = numbers[:, : -drift.WIDTH].reshape(len(series), *grid.shape)
    raws = [task.raw for task in tasks if task.raw is not None]
    dues = [task.due for task in tasks if task.due is not None]
    raw = np.stack([distribution.log_return for distribution in raws]).astype(np.float32)
    codes = calibration.calibrate(grid, states, raw)
    calibrated = calibration.quantiles(grid, raw, codes)
    rows = np.zeros(len(tasks), dtype=layout.dtype)
    rows["layout"] = layout.number
    rows["open_ms"] = [task.candle.open_ms for task in tasks]
    rows["lasts_ms"] = [task.candle.close_ms - task.candle.open_ms for task in tasks]
    rows["last_close"] = [task.candle.close for task in tasks]
    rows["sigma"] = np.sqrt([holder.ledger.variance for holder in series])
    rows["volatility"] = [distribution.volatility for distribution in raws]
    rows["raw"] = raw
    rows["calibrated"] = codes
    rows["baseline"] = calibration.baseline_codes(grid, states)
    coded = codes.tobytes()
    share = len(coded) // len(tasks)
    for at, (task, due) in enumerate(zip(tasks, dues, strict=True)):
        task.calibrated = calibrated[at]
        task.id = forecast_id(
            due.symbol, due.interval, due.as_of_ms,
            due.content + coded[at * share : (at + 1) * share], layout.model_version,
        )  # fmt: skip
    identities = b"".join([bytes.fromhex(task.id) for task in tasks])
    rows["id"] = np.frombuffer(identities, dtype="V16")
    entries, size = rows.tobytes(), layout.dtype.itemsize
    sound = _are_prices(rows["last_close"], raw) & _are_prices(rows["last_close"], calibrated)
    is_sound = (sound & (rows["volatility"] < np.inf).all(axis=1)).tolist()
    for at, task in enumerate(tasks):
        if is_sound[at]:  # a window without a move may give NaN
            task.entry = entries[at * size : (at + 1) * size]


def _are_prices(last_close: NDArray[np.float64], log_return: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell whether each forecast's quantiles are prices well within what a message may hold."""
    prices = prices_of(last_close, log_return)
    within = (prices >= LOW_PRICE) & (prices <= HIGH_PRICE)
    return np.asarray(within.all(axis=(1, 2)))
