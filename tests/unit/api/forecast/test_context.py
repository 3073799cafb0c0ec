"""Forecasts on demand of a model that reads a context: as of each history's close, else without."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from starlette.types import ASGIApp

from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from shared import bundle
from shared.candles import DAY_MS, Candle
from shared.catalogue import catalogue_of
from shared.champions import Champions
from shared.context import ContextSpec, ContextStore
from shared.forecaster import Due, ModelSet, OnnxForecaster, forecast
from shared.window import Window
from tests import bundles
from tests.candles import candle, values_of, walk
from tests.unit.api.client import application, call

SPEC: Final = ContextSpec(symbols=("^GSPC",), interval="1d", length=2)
SPREAD: Final = 0.01
CANDLES: Final = walk(bundles.LENGTH)
CLOSE_MS: Final = CANDLES[-1].close_ms


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> OnnxForecaster:
    """A model whose volatility is higher by the sum of the closes that it is given."""
    folder = bundles.write(tmp_path_factory.mktemp("context") / "bundle", context=SPEC)
    return OnnxForecaster(bundle.load(folder))


@pytest.fixture(scope="module")
def store() -> ContextStore:
    """An index that closed at 1, 2 and 4, and at 8 a day after the candles end."""
    store = ContextStore()
    for at in range(4):
        store.push(candle(bundles.LENGTH - 3 + at, 2.0**at, symbol="^GSPC"))
    return store


@pytest.fixture
def app(reading: OnnxForecaster, store: ContextStore) -> ASGIApp:
    return application(reading, context_of=store.window)


def timed(candles: list[Candle]) -> list[dict[str, Any]]:
    names = ("open", "high", "low", "close", "volume")
    return [
        {**dict(zip(names, values_of(made), strict=True)),
         "open_ms": made.open_ms, "close_ms": made.close_ms}
        for made in candles
    ]  # fmt: skip


def ask(app: ASGIApp, *histories: dict[str, Any]) -> list[dict[str, Any]]:
    answer = call(app, "POST", "/v1/forecasts", json={"histories": histories})
    assert answer.status_code == 200, answer.text
    made: list[dict[str, Any]] = answer.json()["forecasts"]
    return made


def seen(made: dict[str, Any]) -> float:
    """Return the sum of the context's closes that the model was given."""
    return round(float(made["horizons"][0]["volatility"]) - SPREAD, 4)


def test_each_history_with_times_gets_the_context_of_its_close_and_no_later_one(
    app: ASGIApp, reading: OnnxForecaster, store: ContextStore
) -> None:
    daily: dict[str, Any] = {"interval": "1d"}
    later = walk(bundles.LENGTH, first=1)
    now, then, timeless = ask(
        app,
        daily | {"symbol": "AAPL", "candles": timed(CANDLES)},
        daily | {"candles": timed(later)},
        daily | {"candles": [
            {name: value for name, value in of.items() if name not in {"open_ms", "close_ms"}}
            for of in timed(CANDLES)
        ]},
    )  # fmt: skip
    assert [seen(now), seen(then), seen(timeless)] == [2 + 4, 4 + 8, 0]
    assert [made["context_as_of_ms"] for made in (now, then, timeless)] == [
        CLOSE_MS, CLOSE_MS + DAY_MS, None,
    ]  # fmt: skip
    window = Window(bundles.LENGTH)
    for made in CANDLES:
        window, _ = window.push(made)
    due = Due("AAPL", "1d", CLOSE_MS, CANDLES[-1].close, window, store.window(SPEC, CLOSE_MS))
    [worker] = forecast(ModelSet(reading), [due], 0)
    assert now["horizons"][0]["quantiles"] == worker.horizons[0].quantiles
    assert now["horizons"][0]["volatility"] == worker.horizons[0].volatility
    assert now["context_as_of_ms"] == worker.context_as_of_ms


def test_a_series_by_name_gets_the_stream_s_context(
    reading: OnnxForecaster, store: ContextStore
) -> None:
    live = StreamView(Market(), Hub(), connected=True)
    for at, closed in enumerate(CANDLES):
        live.market.add_candle(closed, closed.close_ms, (0, at))
    app = application(reading, live=live, context_of=store.window)
    [made] = ask(app, {"symbol": "AAPL", "interval": "1d"})
    assert (made["context_as_of_ms"], seen(made)) == (CLOSE_MS, 6)


def test_predict_and_an_api_without_a_stream_do_without(
    app: ASGIApp, reading: OnnxForecaster
) -> None:
    plain = [{name: value for name, value in of.items() if "_ms" not in name}
             for of in timed(CANDLES)]  # fmt: skip
    answer = call(app, "POST", "/predict", json={"history": plain}).json()
    assert answer["horizons"][0]["volatility"] == pytest.approx(SPREAD)
    [made] = ask(application(reading), {"interval": "1d", "candles": timed(CANDLES)})
    assert (made["context_as_of_ms"], seen(made)) == (None, 0)


def test_the_card_and_the_list_of_models_name_the_context(app: ASGIApp, tmp_path: Path) -> None:
    card = call(app, "GET", "/v1/model").json()
    assert card["context"] == {"symbols": ["^GSPC"], "interval": "1d", "length": 2}
    assert call(application(), "GET", "/v1/model").json()["context"] is None
    made = bundle.load(bundles.write(tmp_path / "bundle", context=SPEC))
    [listed] = catalogue_of("store", Champions(), (), made).versions
    assert (listed.context, listed.context_interval) == (("^GSPC",), "1d")
