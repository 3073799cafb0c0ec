"""Drift of an interval: its rate of false alarms, what it notices, and which scores count."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from shared import drift
from shared.candles import DAY_MS
from shared.drift import THRESHOLD, Drift
from shared.score_messages import Scores
from tests.streams import Stream
from tests.unit.stream_app.test_scoring import days
from trainer.interval_drift import ALARM, IntervalDrift, ScoredSeries, together

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
SHARE = 0.2

Moves = NDArray[np.float64]


def evidences(moves: Moves) -> Moves:
    """Return the evidence of series after each of their moves, (T, N), forecast as normal."""
    raw = np.tile(NORMAL, (moves.shape[1], 1))
    state = np.tile(drift.start(), (moves.shape[1], 1))
    made = np.empty(moves.shape)
    for at, outcomes in enumerate(moves):
        state = drift.after(LEVELS, state, outcomes, raw)
        made[at] = state[:, : len(drift.ALTERNATIVES)].mean(axis=1)
    return made


def interval(evidence: Moves) -> IntervalDrift:
    """Return what series of some evidence, (N,), say together."""
    made = together(
        (
            Drift(evidence=value, drifting=int(value >= THRESHOLD), shift=0.0, spread=1.0)
            for value in evidence.tolist()
        ),
        SHARE,
    )
    assert made is not None
    return made


def correlated(chance: np.random.Generator, candles: int, series: int) -> Moves:
    """Return standard normal moves, (T, N), of which half is common to all series."""
    common = chance.standard_normal((candles, 1))
    moves: Moves = np.sqrt(0.5) * (common + chance.standard_normal((candles, series)))
    return moves


def test_a_true_model_has_a_false_alarm_in_1_000_candles_at_most() -> None:
    """By Doob's inequality an alarm within n candles has a probability of n/1,000 at most."""
    intervals, series, candles = 300, 5, 200
    chance = np.random.default_rng(18)
    moves = np.hstack([correlated(chance, candles, series) for _ in range(intervals)])
    counted = np.minimum(evidences(moves), ALARM / SHARE)
    merged = counted.reshape(candles, intervals, series).mean(axis=2)
    alarms = int((merged.max(axis=0) >= ALARM).sum())
    print(f"{alarms} of {intervals} intervals had a false alarm within {candles} candles")
    assert alarms <= intervals * candles / ALARM


@pytest.mark.parametrize(("factor", "within"), [(2.0, 25), (1.4, 100), (0.5, 25)])
def test_a_drift_of_all_series_is_noticed(factor: float, within: int) -> None:
    evidence = evidences(factor * correlated(np.random.default_rng(1), within, 20))
    assert not interval(evidence[0]).is_drift
    assert interval(evidence[-1]).is_drift


def test_a_drift_of_fewer_series_than_the_share_is_none_however_strong() -> None:
    chance = np.random.default_rng(2)
    moves = chance.standard_normal((200, 20))
    moves[:, :3] *= 3
    made = interval(evidences(moves)[-1])
    assert made.drifting == 3
    assert not made.is_drift
    moves[:, 3:5] *= 3
    assert interval(evidences(moves)[-1]).is_drift


def scored(symbol: str, count: int) -> list[Scores]:
    stream = Stream()
    stream.take(*days(count, symbol))
    return stream.scores


def test_scores_of_another_model_of_another_interval_and_of_silent_series_do_not_count() -> None:
    [*_, newest] = scored("AAPL", 40)
    series = ScoredSeries()
    for value in (b"no score", b"", None):
        series.take(value)
    assert series.of("1d", "persistence", SHARE) is None
    series.take(newest.encode())
    found = series.of("1d", "persistence", SHARE)
    assert found is not None
    assert newest.drift is not None
    assert (found.series, found.shift) == (1, newest.drift.shift)
    assert series.of("1d", "other", SHARE) is None
    assert series.of("1h", "persistence", SHARE) is None

    late = newest.model_copy(update={"symbol": "MSFT", "close_ms": newest.close_ms + 99 * DAY_MS})
    series.take(late.encode())
    both = series.of("1d", "persistence", SHARE)
    assert both is not None
    assert both.series == 2
    series.take(late.model_copy(update={"close_ms": late.close_ms + 2 * DAY_MS}).encode())
    alone = series.of("1d", "persistence", SHARE)
    assert alone is not None
    assert alone.series == 1


def test_an_older_score_does_not_replace_a_newer_one() -> None:
    older, *_, newest = scored("AAPL", 60)
    series = ScoredSeries()
    series.take(newest.encode())
    series.take(older.encode())
    found = series.of("1d", "persistence", SHARE)
    assert found is not None
    assert newest.drift is not None
    assert found.spread == pytest.approx(newest.drift.spread)
