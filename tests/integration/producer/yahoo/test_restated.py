"""Restated history and clock changes, through the real yfinance client."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from local.yahoo.market import new_york
from producer.source import ActionKind, Kind
from shared.candles import Candle, midnight_ms
from tests.new_york import day_of
from tests.polled_market import DAY, Market, at

pytestmark = pytest.mark.integration

EVE = DAY - timedelta(days=1)
BOTH = ("AAPL", "MSFT")
INTERVALS = ("1m", "1h", "1d")


def published_on(market: Market, day: date, interval: str) -> dict[str, list[Candle]]:
    return {symbol: market.newest_as_of(symbol, at(18, day=day), interval) for symbol in BOTH}


@pytest.mark.parametrize("interval", INTERVALS)
def test_after_a_split_its_window_is_published_again_and_its_neighbour_s_is_not(
    market: Market, interval: str
) -> None:
    listings = market.stand_in.server.listings
    for symbol in BOTH:
        listings[symbol] = new_york(symbol, DAY, price=listings[symbol].price, days=260)
    listings["AAPL"].splits.append((at(9, 30), 4, 1))
    before = published_on(market, EVE, interval)
    market.clock.now_ms = at(16, 5)
    got = market.resume(before, *BOTH, interval=interval)
    split = [publication for publication in got if publication.candle.symbol == "AAPL"]
    again, new = split[:160], split[160:]
    assert {publication.kind for publication in again} == {Kind.RESCALED}
    assert {publication.actions[0].value for publication in again} == {"4:1"}
    truth = listings["AAPL"].closed(interval, market.clock.now_ms)[-len(split) :]
    assert [publication.candle.close for publication in split] == [bar.close for bar in truth]
    assert [publication.candle.volume for publication in split] == [bar.volume for bar in truth]
    assert {publication.kind for publication in new} == {Kind.CLOSED}
    assert [action.kind for action in new[0].actions] == [ActionKind.SPLIT]
    assert all(publication.candle.open_ms <= before["AAPL"][-1].open_ms for publication in again)
    neighbour = [publication for publication in got if publication.candle.symbol == "MSFT"]
    assert len(neighbour) == len(new)
    assert all(
        publication.kind is Kind.CLOSED and not publication.actions for publication in neighbour
    )


@pytest.mark.parametrize("interval", INTERVALS)
def test_after_a_dividend_no_price_moves_though_yahoo_restates_its_adjusted_ones(
    market: Market, interval: str
) -> None:
    market.stand_in.server.listings["AAPL"].dividends.append((at(9, 30), 2.5))
    before = published_on(market, EVE, interval)
    market.clock.now_ms = at(16, 5)
    got = market.resume(before, *BOTH, interval=interval)
    assert {publication.kind for publication in got} == {Kind.CLOSED}
    [announced] = [publication for publication in got if publication.actions]
    opened = midnight_ms(DAY) if interval == "1d" else at(9, 30)
    assert (announced.candle.symbol, announced.candle.open_ms) == ("AAPL", opened)
    assert [(action.kind, action.value) for action in announced.actions] == [
        (ActionKind.DIVIDEND, "2.5")
    ]
    for symbol in BOTH:
        candles = [publication.candle for publication in got if publication.candle.symbol == symbol]
        truth = market.truth(symbol, interval)[-len(candles) :]
        assert [candle.close for candle in candles] == [bar.close for bar in truth]


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("sunday", [date(2026, 3, 8), date(2026, 11, 1)])
def test_the_clocks_change_over_the_weekend(market: Market, sunday: date, interval: str) -> None:
    """On Monday the session begins an hour earlier, or later, by UTC."""
    friday, monday = sunday - timedelta(days=2), sunday + timedelta(days=1)
    listings = market.stand_in.server.listings
    for symbol in BOTH:
        listings[symbol] = new_york(symbol, monday, price=listings[symbol].price, days=14)
    before = published_on(market, friday, interval)
    market.clock.now_ms = at(16, 5, day=monday)
    got = market.resume(before, *BOTH, interval=interval)
    assert {publication.kind for publication in got} == {Kind.CLOSED}
    opening_ms = at(9, 30, day=monday)
    assert (opening_ms - at(9, 30, day=friday)) % 86_400_000 in {3_600_000, 82_800_000}
    for symbol in BOTH:
        candles = [publication.candle for publication in got if publication.candle.symbol == symbol]
        truth = [
            bar
            for bar in listings[symbol].closed(interval, market.clock.now_ms)
            if day_of(bar.start_ms) == monday
        ]
        first_ms = midnight_ms(monday) if interval == "1d" else opening_ms
        assert candles[0].open_ms == first_ms
        assert candles[-1].close_ms == at(16, day=monday)
        assert [(candle.close_ms, candle.close) for candle in candles] == [
            (bar.end_ms, bar.close) for bar in truth
        ]
