from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.forecasts import MAX_FORECAST_BYTES, Forecast, InvalidForecast
from tests.candles import walk
from tests.poison import POISON, forecast_of
from tests.unit.api.stream.test_market import forecasts_of


def test_what_our_own_code_makes_is_read() -> None:
    for made in forecasts_of(walk(20)):
        assert Forecast.decode(made.encode()) == made


@pytest.mark.parametrize("name", POISON)
def test_a_forecast_that_means_nothing_is_refused(name: str) -> None:
    value, fault = POISON[name]
    with pytest.raises(InvalidForecast, match=fault) as refused:
        Forecast.decode(value)
    assert len(str(refused.value)) < 400


def test_a_message_is_measured_before_it_is_parsed() -> None:
    padded = forecast_of() | {"more": "x" * MAX_FORECAST_BYTES}
    with pytest.raises(InvalidForecast, match=f"at most {MAX_FORECAST_BYTES} bytes"):
        Forecast.decode(json.dumps(padded).encode())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(forecast_of())), anything, min_size=1))
def test_no_fields_crash_the_codec(changes: dict[str, Any]) -> None:
    value = json.dumps(forecast_of() | changes).encode("utf-8", "surrogatepass")
    try:
        decoded = Forecast.decode(value)
    except InvalidForecast:
        return
    assert decoded.last_close > 0
    assert all(horizon.step >= 1 for horizon in decoded.horizons)
