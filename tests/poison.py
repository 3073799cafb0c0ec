"""Forecasts and scores that no code of ours makes, each with the fault that should be named."""

from __future__ import annotations

import json
from typing import Any, Final


def horizon_of(step: object = 1, **changes: Any) -> dict[str, Any]:
    """Return the fields of a valid horizon, some of them changed."""
    return {
        "step": step,
        "due_ms": 1_262_736_000_000,
        "predicted_close": 100.0,
        "quantiles": {"0.05": 90.0, "0.5": 100.0, "0.95": 110.0},
        "volatility": 0.01,
    } | changes


def forecast_of(*horizons: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the fields of a valid forecast of AAPL's fourth daily candle, some changed."""
    return {
        "id": "poison",
        "symbol": "AAPL",
        "interval": "1d",
        "as_of_ms": 1_262_649_600_000,
        "last_close": 100.0,
        "model_version": "stub-1",
        "made_at_ms": 1_262_649_600_007,
        "horizons": horizons or (horizon_of(),),
    } | changes


def _sent(*horizons: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(forecast_of(*horizons, **changes)).encode()


def _levels(**prices: float) -> dict[str, Any]:
    return horizon_of(quantiles={name.replace("_", "."): at for name, at in prices.items()})


POISON: Final[dict[str, tuple[bytes | None, str]]] = {
    "nothing": (None, "got nothing"),
    "empty": (b"", "got nothing"),
    "not JSON": (b"\xff{", "JSON"),
    "deep": (b"[" * 10_000, "JSON|an object"),
    "last close of 0": (_sent(last_close=0), "last_close: expected"),
    "negative last close": (_sent(last_close=-1.0), "last_close: expected"),
    "infinite last close": (_sent(last_close=float("inf")), "last_close|JSON"),
    "last close near 0": (_sent(last_close=1e-300), "last_close: expected"),
    "huge last close": (_sent(last_close=1e300), "last_close: expected"),
    "predicted close of 0": (_sent(horizon_of(predicted_close=0)), "predicted_close: expected"),
    "NaN": (_sent(horizon_of(predicted_close=float("nan"))), "predicted_close|JSON"),
    "no horizons": (_sent(horizons=[]), "horizons: expected"),
    "step of 0": (_sent(horizon_of(0)), "step: expected"),
    "negative step": (_sent(horizon_of(-9999)), "step: expected"),
    "endless step": (_sent(horizon_of(1 << 40)), "step: expected"),
    "step twice": (_sent(horizon_of(1), horizon_of(1)), "horizons: expected a step above 1"),
    "falling steps": (_sent(horizon_of(5), horizon_of(1)), "horizons: expected a step above 5"),
    "too many steps": (_sent(*map(horizon_of, range(1, 70))), "horizons: expected"),
    "no quantiles": (_sent(horizon_of(quantiles={})), "quantiles: expected"),
    "no median": (_sent(_levels(**{"0_05": 90.0, "0_95": 110.0})), "the level 0.5"),
    "level of 0": (_sent(_levels(**{"0": 90.0, "0_5": 100.0})), "levels between 0 and 1"),
    "level of 1": (_sent(_levels(**{"0_5": 90.0, "1": 100.0})), "levels between 0 and 1"),
    "level of words": (_sent(_levels(high=1.0)), "levels between 0 and 1"),
    "level of NaN": (_sent(_levels(nan=1.0)), "levels between 0 and 1"),
    "falling levels": (_sent(_levels(**{"0_5": 1.0, "0_05": 2.0})), "a level above 0.5"),
    "level twice": (_sent(_levels(**{"0_5": 1.0, "0_50": 2.0})), "a level above 0.5"),
    "falling values": (_sent(_levels(**{"0_05": 3.0, "0_5": 2.0})), "at least 3"),
    "quantile of 0": (_sent(_levels(**{"0_05": 0.0, "0_5": 2.0})), "expected"),
    "negative volatility": (_sent(horizon_of(volatility=-1.0)), "volatility: expected"),
    "unknown interval": (_sent(interval="7y"), "expected one of"),
    "symbol that ends with a space": (_sent(symbol="A "), "symbol: expected"),
    "long id": (_sent(id="x" * 9_000), "id: expected"),
    "long model version": (_sent(model_version="x" * 9_000), "model_version: expected"),
    "time before 1900": (_sent(as_of_ms=-3_000_000_000_000), "as_of_ms: expected"),
    "long name of a level": (_sent(_levels(**{"9" * 9_000: 1.0})), "levels between 0 and 1"),
    "long name with a wrong price": (_sent(_levels(**{"9" * 9_000: -1.0})), "expected"),
}


def horizon_score_of(step: object = 1, **changes: Any) -> dict[str, Any]:
    """Return the fields of a valid score of a horizon, some of them changed."""
    return {
        "forecast_id": "poison",
        "step": step,
        "as_of_ms": 1_262_649_600_000,
        "model_version": "stub-1",
        "last_close": 100.0,
        "predicted_close": 100.0,
        "error": 0.01,
        "persistence_error": 0.01,
        "pinball": 0.002,
        "raw_pinball": 0.002,
        "baseline_pinball": 0.003,
        "qlike": -8.0,
        "pit": 0.6,
        "raw_pit": 0.7,
        "inside": {"50": True, "90": True},
        "raw_inside": {"50": False, "90": True},
        "correction": {"settled": 3, "lower": 1.0, "upper": 1.5, "offsets": {"0.05": -0.25}},
    } | changes


def scores_of(*horizons: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the fields of valid scores at AAPL's fifth daily candle, some changed."""
    return {
        "id": "poison",
        "symbol": "AAPL",
        "interval": "1d",
        "open_ms": 1_262_649_600_000,
        "close_ms": 1_262_736_000_000,
        "close": 101.0,
        "corrected": False,
        "made_at_ms": 1_262_736_000_007,
        "horizons": horizons or (horizon_score_of(),),
    } | changes


def _scored(*horizons: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(scores_of(*horizons, **changes)).encode()


def _corrected(**changes: Any) -> bytes:
    return _scored(horizon_score_of(correction=horizon_score_of()["correction"] | changes))


SCORES: Final[dict[str, tuple[bytes | None, str]]] = {
    "nothing": (None, "got nothing"),
    "empty": (b"", "got nothing"),
    "not JSON": (b"\xff{", "JSON"),
    "deep": (b"[" * 10_000, "JSON|an object"),
    "long": (b" " * (1 << 17), "at most 65536 bytes"),
    "close of 0": (_scored(close=0), "close: expected"),
    "infinite close": (_scored(close=float("inf")), "close|JSON"),
    "no horizons": (_scored(horizons=[]), "horizons: expected"),
    "step of 0": (_scored(horizon_score_of(0)), "step: expected"),
    "negative step": (_scored(horizon_score_of(-9999)), "step: expected"),
    "step twice": (_scored(horizon_score_of(1), horizon_score_of(1)), "a step above 1"),
    "falling steps": (_scored(horizon_score_of(5), horizon_score_of(1)), "a step above 5"),
    "too many steps": (_scored(*map(horizon_score_of, range(1, 70))), "horizons: expected"),
    "error of NaN": (_scored(horizon_score_of(error=float("nan"))), "error|JSON"),
    "huge error": (_scored(horizon_score_of(error=-1e300)), "error: expected"),
    "negative pinball": (_scored(horizon_score_of(pinball=-1)), "pinball: expected"),
    "huge pinball": (_scored(horizon_score_of(raw_pinball=1e300)), "raw_pinball: expected"),
    "huge qlike": (_scored(horizon_score_of(qlike=1e300)), "qlike: expected"),
    "PIT above 1": (_scored(horizon_score_of(pit=1.5)), "pit: expected"),
    "PIT of text": (_scored(horizon_score_of(raw_pit="\x1b[2J")), "raw_pit: expected"),
    "unknown central interval": (_scored(horizon_score_of(inside={"7": True})), "among 50, 80"),
    "many central intervals": (
        _scored(horizon_score_of(raw_inside={str(at): True for at in range(3_000)})), "raw_inside",
    ),
    "central interval of a terminal": (
        _scored(horizon_score_of(inside={"\x1b[2J": True})), "among 50, 80",
    ),
    "raw intervals of others": (_scored(horizon_score_of(raw_inside={"50": True})), "raw_inside"),
    "multiplier beyond bounds": (_corrected(upper=1e9), "upper: expected"),
    "offset beyond bounds": (_corrected(offsets={"0.05": -7}), "offsets"),
    "correction of a half candle": (_corrected(settled=0.5), "settled: expected"),
    "forecast of later": (_scored(horizon_score_of(as_of_ms=1_262_736_000_000)), "from before"),
    "unknown interval": (_scored(interval="7y"), "expected one of"),
    "symbol that ends with a space": (_scored(symbol="A "), "symbol: expected"),
    "long id": (_scored(id="x" * 9_000), "id: expected"),
    "long model version": (_scored(horizon_score_of(model_version="x" * 9_000)), "model_version"),
    "time before 1900": (_scored(close_ms=-3_000_000_000_000), "close_ms: expected"),
}  # fmt: skip
