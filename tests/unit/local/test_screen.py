"""What a person is shown, as text."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from local.accounting import Latency, Summary
from local.screen import (
    Addresses,
    Frame,
    LineScreen,
    Rate,
    close_time,
    counts,
    price,
    render,
    to_try,
)
from shared.forecasts import Forecast, Horizon

MIDNIGHT_MS = 951_782_400_000  # 2000-02-29T00:00Z
ADDRESSES = Addresses(
    "127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3", "http://127.0.0.1:4", "/logs"
)


def horizon(step: int) -> Horizon:
    quantiles = {"0.05": 2_999.5, "0.5": 3_100.25, "0.95": 3_200.0}
    return Horizon(
        step=step, due_ms=0, predicted_close=3_100.25, quantiles=quantiles, volatility=0.01
    )


def forecast(symbol: str) -> Forecast:
    return Forecast(
        id=symbol, symbol=symbol, interval="1d", as_of_ms=MIDNIGHT_MS, last_close=3_000.0,
        model_version="lstm-1", made_at_ms=0, horizons=(horizon(1), horizon(5)),
    )  # fmt: skip


def frame(*forecasts: Forecast, missing: int = 0, dead: int = 0, p50: int | None = 5) -> Frame:
    latency = Latency(p50, p50, p50)
    return Frame("candles flow", forecasts, Summary(1234, 56, dead, missing, latency), 50.4, 9.0)


def shown(what: Frame, width: int = 140) -> str:
    output = io.StringIO()
    console = Console(file=output, width=width)
    console.print(render(what, ADDRESSES, console))
    return output.getvalue()


def test_shows_forecasts_with_their_interval() -> None:
    text = shown(frame(forecast("AAPL"), forecast("MSFT")))
    assert "90 % interval" in text
    assert text.count("2,999.50 … 3,200.00") == 4
    for expected in ("AAPL", "MSFT", "2000-02-28", "3,000.00", "3,100.25", "+1", "+5", "lstm-1"):
        assert expected in text


def test_a_narrow_terminal_shows_fewer_horizons_but_all_of_each() -> None:
    text = shown(frame(forecast("AAPL")), width=72)
    assert text.count("2,999.50 … 3,200.00") == 1
    assert "3,000.00" in text
    assert "+5" not in text


def test_shows_where_everything_is() -> None:
    text = shown(frame())
    assert "No forecast yet" in text
    for expected in (
        "http://127.0.0.1:2/docs",
        "http://127.0.0.1:3/metrics",
        "127.0.0.1:1",
        "/logs",
    ):
        assert expected in text


def test_counts_tell_trouble_only_when_there_is_some() -> None:
    assert counts(frame()) == (
        "candles 1,234 (50/s) · forecasts 56 (9/s) · latency p50 5 ms, p95 5 ms, p99 5 ms"
    )
    assert counts(frame(missing=7, dead=8, p50=None)) == (
        "candles 1,234 (50/s) · forecasts 56 (9/s) · waiting 7 · dead letters 8"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(64_321.5, "64,321.50"), (10.0, "10.00"), (1.2345, "1.2345"), (0.0000123456, "1.23e-05")],
)
def test_prices_keep_digits_that_tell(value: float, shown: str) -> None:
    assert price(value) == shown


def test_midnight_is_the_end_of_the_day_before() -> None:
    assert close_time(MIDNIGHT_MS) == "2000-02-28"
    assert close_time(MIDNIGHT_MS + 60_000) == "2000-02-29 00:01"


def test_rate_looks_at_the_last_seconds() -> None:
    rate = Rate()
    assert rate.update(100.0, 0) == 0.0
    assert rate.update(101.0, 50) == 50.0
    for second in range(102, 120):
        latest = rate.update(float(second), 50 + 10 * (second - 101))
    assert latest == pytest.approx(10.0)


def test_lines_come_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    dead = 0
    with LineScreen() as screen:
        for tenth in range(101):
            screen.show(frame(dead=dead), tenth / 10)
            if tenth % 50 == 0:
                dead += 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 3


def test_what_does_not_change_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with LineScreen() as screen:
        for second in range(60):
            screen.show(frame(), float(second))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_commands_to_try_have_the_addresses_of_the_run() -> None:
    curl, tail, _ = to_try(ADDRESSES)
    assert curl == "curl http://127.0.0.1:2/v1/forecasts"
    assert tail.endswith("candlecast tail --bootstrap 127.0.0.1:1")
    _, tail, _ = to_try(replace(ADDRESSES, kafka="127.0.0.1:9092"))
    assert tail.endswith("candlecast tail")
