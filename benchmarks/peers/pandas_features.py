"""Features of the default bundle written in pandas, as in a notebook: one window at a time.

Of daily candles: where there is a time of day, the features of its slots are not these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

GARMAN_KLASS: Final = 2 * np.log(2) - 1
DAY_MS: Final = 86_400_000
SLOTS: Final = (
    "slot-ahead-1",
    "slot-ahead-5",
    "slot-ahead-10",
    "slot-before-1",
    "slot-before-5",
    "slot-before-22",
)
Rows = Sequence[Mapping[str, Any]]
_Lags = tuple[int, int]


def compute(rows: Rows, features: Sequence[str], steps: int) -> pd.DataFrame:
    """Return the features of the newest steps of a window of candles, oldest first."""
    frame = pd.DataFrame(list(rows))
    table = _volatility(frame).join(_levels(frame)).join(_times(frame))
    return table.loc[:, list(features)].tail(steps)


def _variance(frame: pd.DataFrame) -> Any:
    gap = np.log((frame["open"] / frame["close"].shift(1)).fillna(1.0))
    body = np.log(frame["close"] / frame["open"])
    spread = np.log(frame["high"] / frame["low"])
    return (gap**2 + 0.5 * spread**2 - GARMAN_KLASS * body**2).clip(lower=0)


def _volatility(frame: pd.DataFrame) -> pd.DataFrame:
    variance = _variance(frame)
    month = variance.rolling(22).mean().clip(lower=1e-10)
    level = variance.rolling(120).mean().clip(lower=1e-10)
    returns: Any = np.log(frame["close"] / frame["close"].shift(1))
    moves = returns.abs().rolling(120).mean()
    ranges: Any = np.sqrt(variance).rolling(120).mean().clip(lower=1e-5)
    quarters = {
        "quarter-volatility-1": ((61, 64), (122, 129)),
        "quarter-volatility-5": ((57, 64), (114, 129)),
        "quarter-volatility-10": ((49, 64), (114, 129)),
    }
    week = np.maximum(variance.rolling(5).mean(), month * 0.01)
    return pd.DataFrame(
        {
            "log-return": returns,
            "range-volatility-1": np.log(np.maximum(variance, month * 0.01)) / 2,
            "range-volatility-5": np.log(week) / 2,
            "range-volatility-22": np.log(month) / 2,
            "range-volatility-120": np.log(level) / 2,
            "scaled-return": returns / np.sqrt(month),
            "scaled-gap": np.log(frame["open"] / frame["close"].shift(1)) / np.sqrt(month),
            "return-range-ratio": np.log((moves / ranges).clip(lower=0.2)),
            **{name: _quarter(variance, level, *lags) for name, lags in quarters.items()},
            "range-volatility-480": np.log(max(variance.tail(480).mean(), 1e-10)) / 2,
            **dict.fromkeys(SLOTS, np.log(level.iloc[-1]) / 2),
            **_habits(frame["close"], np.sqrt(variance.tail(480))),
        }
    )


def _habits(close: pd.Series[float], volatility: pd.Series[float]) -> dict[str, float]:
    unit = max(float(volatility.mean()), 1e-5)
    moves = {}
    for span in (1, 5, 10):
        before = close.shift(span)
        ratio = 2 * (close - before) / (close + before)  # nearly the logarithm, as the graph has it
        moves[span] = ratio.abs().tail(480).mean()
    capped = np.minimum(volatility.to_numpy(), 4 * unit)
    apart = capped - capped.mean()
    swing = (apart**2).mean() + (0.1 * unit) ** 2
    spread = max(float(np.sqrt((volatility**2).mean())), 1e-5) / unit
    returns = np.diff(np.log(close.to_numpy()))[-480:]
    return {
        **{f"move-ratio-{n}": np.log(max(m / (unit * n**0.5), 0.2)) for n, m in moves.items()},
        "still-share": float((close.diff().iloc[1:].tail(480) == 0).mean()),
        "volatility-spread": float(np.log(np.clip(spread, 1.0, 10.0))),
        **{
            f"volatility-memory-{n}": (apart[n:] * apart[:-n]).sum() / len(apart) / swing
            for n in (1, 10)
        },
        "drift-480": float(returns.sum() / len(returns) ** 0.5 / unit),
    }


def _quarter(
    variance: pd.Series[float], level: pd.Series[float], last: _Lags, before: _Lags
) -> pd.Series[float]:
    newer, older = (variance.rolling(b - a + 1).max().shift(a) for a, b in (last, before))
    event: Any = np.maximum(np.minimum(newer, older), level * 0.05)
    logarithm: pd.Series[float] = np.log(event) / 2
    return logarithm


def _levels(frame: pd.DataFrame) -> pd.DataFrame:
    close = frame["close"]
    change = close.diff()
    gains, losses = change.clip(lower=0).rolling(14).mean(), (-change.clip(upper=0)).rolling(14)
    turnover = close * frame["volume"]
    share = (turnover / turnover.rolling(22).mean()).clip(lower=0.02)
    return pd.DataFrame(
        {
            "sma-ratio": close / close.rolling(20).mean() - 1,
            "rsi": 100 * gains / (gains + losses.mean()),
            "log-volume": np.log(share),
        }
    )


def _times(frame: pd.DataFrame) -> pd.DataFrame:
    spacing = frame["open_ms"].diff()
    shortest = spacing.rolling(22).min()
    return pd.DataFrame(
        {
            "gap-length": np.log(spacing / shortest),
            "usual-gap": np.log(spacing.rolling(120).mean() / shortest),
            "interval": np.log(shortest / DAY_MS),
            "slots-known": 0.0,
        }
    )
