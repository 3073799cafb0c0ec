"""The polling source with the real yfinance client, against the stand-in of Yahoo."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import pytest
import yfinance

from local.yahoo import Fault
from producer.source import SourceError, UnreachableError
from producer.yahoo.backfill import BackfillSource
from producer.yahoo.bars import Bar
from producer.yahoo.errors import ErrorKind
from producer.yahoo.fetcher import as_candle
from shared.candles import DAY_MS, Candle, midnight_ms
from tests.candles import values_of
from tests.polled_market import DAY, HALF_DAY, Market, assert_same, at

pytestmark = pytest.mark.integration


def test_every_closed_minute_comes_as_the_market_made_it(market: Market) -> None:
    got = market.poll("AAPL", "MSFT", "BTC-USD")
    for symbol in ("AAPL", "MSFT"):
        candles = got[symbol]
        assert_same(candles, market.truth(symbol)[-len(candles) :])
        assert candles[-1].close_ms == at(15, 43)
        assert {candle.source for candle in candles} == {"yfinance"}
        assert len(candles) == 160
    coins = got["BTC-USD"]
    assert coins[-1].close_ms == at(15, 43)
    assert market.polls("ok") == 3  # one request each


def test_a_long_history_is_asked_for_in_parts_that_yahoo_allows(market: Market) -> None:
    """Of minutes Yahoo gives seven days at once: 2,000 of a share lie in more."""
    market.history = 2000
    candles = market.poll("AAPL")["AAPL"]
    assert_same(candles, market.truth("AAPL")[-2000:])
    spans = [
        (int(query["period1"]), int(query["period2"]))
        for _, path, query in market.stand_in.server.requests
        if "AAPL" in path
    ]
    assert len(spans) == 2
    assert spans[0][0] == spans[1][1]  # the older part is asked for second
    assert all(end - start <= 7 * 86_400 for start, end in spans)


def test_a_share_that_is_younger_than_its_history_begins_with_what_there_is(
    market: Market,
) -> None:
    """Yahoo answers a span before the first trade with an error that is none."""
    listing = market.stand_in.server.listings["AAPL"]
    listing.sessions = listing.sessions[-4:-1]
    market.history = 2000
    candles = market.poll("AAPL")["AAPL"]
    assert_same(candles, market.truth("AAPL"))
    assert market.polls("empty") >= 1


def test_a_backfill_passes_over_the_time_before_the_first_trade(market: Market) -> None:
    listing = market.stand_in.server.listings["AAPL"]
    listing.sessions = listing.sessions[-4:-1]
    span = (market.clock.now_ms - 20 * DAY_MS, market.clock.now_ms)
    source = BackfillSource(("AAPL",), market.fetcher("1m"), span)

    async def everything() -> list[Candle]:
        return [publication.candle async for publication in source.candles({})]

    assert_same(asyncio.run(everything()), market.truth("AAPL"))
    assert market.polls("empty") == 2


def test_only_what_comes_after_the_published_candle_is_given(market: Market) -> None:
    published = {"AAPL": at(15, 39), "MSFT": at(15, 42)}
    got = market.poll("AAPL", "MSFT", published=published)
    assert [candle.open_ms for candle in got["AAPL"]] == [at(15, 40), at(15, 41), at(15, 42)]
    assert got["MSFT"] == []
    requests = market.stand_in.server.requests
    [query] = [query for _, path, query in requests if "AAPL" in path]
    assert int(query["period1"]) * 1000 == at(15, 39)


@pytest.mark.parametrize("lists_forming_bar", [True, False])
@pytest.mark.parametrize(
    ("second", "newest"),
    [(5, at(15, 42)), (14, at(15, 42)), (15, at(15, 43)), (59, at(15, 43))],
)
def test_a_forming_candle_and_the_row_of_the_last_trade_are_never_given(
    market: Market, second: int, newest: int, *, lists_forming_bar: bool
) -> None:
    market.stand_in.server.listings["AAPL"].lists_forming_bar = lists_forming_bar
    market.clock.now_ms = at(15, 44, second)
    candles = market.poll("AAPL", published={"AAPL": at(15, 30)})["AAPL"]
    assert_same(
        candles, [bar for bar in market.truth("AAPL") if at(15, 30) < bar.start_ms <= newest]
    )


@pytest.mark.parametrize(
    ("interval", "now_ms", "times"),
    [
        ("1h", at(15, 59), (at(14, 30), at(15, 30))),
        ("1h", at(16, 1), (at(15, 30), at(16, 0))),  # the last hour is cut to a half
        ("1h", at(13, 1, day=HALF_DAY), (at(12, 30, day=HALF_DAY), at(13, 0, day=HALF_DAY))),
        ("5m", at(15, 43, 27), (at(15, 35), at(15, 40))),
        ("30m", at(15, 43, 27), (at(15, 0), at(15, 30))),
        ("90m", at(16, 1), (at(15, 30), at(16, 0))),
    ],
)
def test_intraday_candles_end_with_their_session(
    market: Market, interval: str, now_ms: int, times: tuple[int, int]
) -> None:
    market.clock.now_ms = now_ms
    last = market.poll("AAPL", interval=interval)["AAPL"][-1]
    assert (last.open_ms, last.close_ms) == times
    assert last.interval == interval


@pytest.mark.parametrize(
    ("now_ms", "day", "close_ms"),
    [
        (at(15, 59), date(2026, 8, 4), at(16, 0, day=date(2026, 8, 4))),
        (at(16, 0, 5), date(2026, 8, 4), at(16, 0, day=date(2026, 8, 4))),
        (at(16, 0, 20), DAY, at(16, 0)),
        (at(8, 0, day=HALF_DAY), DAY, at(16, 0)),
        (at(13, 1, day=HALF_DAY), HALF_DAY, at(13, 0, day=HALF_DAY)),
    ],
)
def test_a_day_closes_with_its_session_and_opens_at_its_midnight_utc(
    market: Market, now_ms: int, day: date, close_ms: int
) -> None:
    market.clock.now_ms = now_ms
    candles = market.poll("AAPL", interval="1d")["AAPL"]
    assert (candles[-1].open_ms, candles[-1].close_ms) == (midnight_ms(day), close_ms)
    truth = market.truth("AAPL", "1d")[: len(candles)]
    assert [candle.close for candle in candles] == [bar.close for bar in truth]


def test_a_day_of_a_coin_closes_at_midnight_ms(market: Market) -> None:
    last = market.poll("BTC-USD", interval="1d")["BTC-USD"][-1]
    assert (last.open_ms, last.close_ms) == (midnight_ms(DAY) - DAY_MS, midnight_ms(DAY))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.RATE_LIMIT, ErrorKind.RATE_LIMITED),
        (Fault.NOT_FOUND, ErrorKind.UNKNOWN_SYMBOL),
        (Fault.SERVER_ERROR, ErrorKind.SERVER_ERROR),
        (Fault.NULL, ErrorKind.NO_DATA),
        (Fault.MALFORMED, ErrorKind.MALFORMED),
        (Fault.HTML, ErrorKind.MALFORMED),
        (Fault.SLOW, ErrorKind.TIMEOUT),
        (Fault.RESET, ErrorKind.NETWORK),
    ],
)
def test_a_fault_of_one_symbol_is_counted_by_kind_and_stops_no_neighbour(
    market: Market, fault: Fault, kind: ErrorKind
) -> None:
    """Cold, when the client does not know the symbol's zone yet, and warm; and it heals."""
    published = {"AAPL": at(15, 39), "MSFT": at(15, 39)}
    if fault is Fault.SLOW:
        market.lose_patience()
    for _ in ("cold", "warm"):
        market.stand_in.server.fail("AAPL", fault)
        got = market.poll("AAPL", "MSFT", published=published)
        assert got["AAPL"] == []
        assert len(got["MSFT"]) == 3
        assert market.polls(kind.value) >= 1
        market.stand_in.server.heal("AAPL")
        assert len(market.poll("AAPL", published=published)["AAPL"]) == 3


def test_an_empty_response_is_counted_and_not_an_error(market: Market) -> None:
    market.stand_in.server.fail("AAPL", Fault.EMPTY)
    got = market.poll("AAPL", "MSFT", published={"AAPL": at(15, 39), "MSFT": at(15, 39)})
    assert got["AAPL"] == []
    assert len(got["MSFT"]) == 3
    assert market.polls("empty") == 1


def test_a_429_that_the_client_itself_survives_is_none(market: Market) -> None:
    market.stand_in.server.fail("AAPL", Fault.RATE_LIMIT, times=1)
    assert_both_come(market)


def assert_both_come(market: Market) -> None:
    got = market.poll("AAPL", "MSFT", published={"AAPL": at(15, 39), "MSFT": at(15, 39)})
    assert {symbol: len(candles) for symbol, candles in got.items()} == {"AAPL": 3, "MSFT": 3}


def test_a_rate_limit_on_the_crumb_alone_costs_nothing(market: Market) -> None:
    market.stand_in.server.limits_crumbs = True
    assert_both_come(market)


@pytest.mark.parametrize(
    ("symbol", "interval"),
    [
        *(("AAPL", interval) for interval in ("1m", "5m", "30m", "90m", "1h", "1d")),
        ("BTC-USD", "1m"),
        ("BTC-USD", "1d"),
    ],
)
def test_yfinance_s_own_table_says_the_same(market: Market, interval: str, symbol: str) -> None:
    """But for what it gets wrong: it drops the last minute of the day of a coin."""
    market.clock.now_ms = at(17, 0)
    market.history = 10_000
    ours = market.poll(symbol, interval=interval)[symbol]
    ticker: Any = yfinance.Ticker(symbol)
    table = ticker.history(
        period="5d", interval=interval, auto_adjust=False, actions=False, prepost=False
    )
    known = {int(stamp.timestamp()) * 1000: row for stamp, row in table.iterrows()}
    if interval == "1d":
        known = {midnight_ms(stamp.date()): row for stamp, row in table.iterrows()}
    both = [candle for candle in ours if candle.open_ms in known]
    missing = [
        candle for candle in ours if candle.open_ms >= min(known) and candle.open_ms not in known
    ]
    assert len(both) >= 5 or interval == "1d"
    for candle in both[-500:]:
        row = known[candle.open_ms]
        assert values_of(candle) == tuple(row[["Open", "High", "Low", "Close", "Volume"]])
    if symbol == "BTC-USD" and interval == "1m":
        assert {candle.open_ms % DAY_MS for candle in missing} == {DAY_MS - 60_000}
    else:
        assert missing == []


def test_a_symbol_that_yahoo_does_not_know_stops_no_other(market: Market) -> None:
    got = market.poll("NOPE", "MSFT", published={"MSFT": at(15, 39)})
    assert got["NOPE"] == []
    assert len(got["MSFT"]) == 3
    assert market.polls("unknown_symbol") == 1


def test_polling_once_without_any_success_is_an_error(market: Market) -> None:
    market.stand_in.server.fail("AAPL", Fault.RATE_LIMIT)
    with pytest.raises(SourceError, match="none of the 1 symbols could be polled"):
        market.poll("AAPL")


def test_a_yahoo_that_does_not_answer_at_the_start_is_unreachable(market: Market) -> None:
    for symbol in ("AAPL", "MSFT"):
        market.stand_in.server.fail(symbol, Fault.RESET)
    with pytest.raises(UnreachableError, match="Yahoo cannot be reached: network"):
        market.poll("AAPL", "MSFT")


@pytest.mark.parametrize(
    "missing",
    [
        ("open", "high", "low", "close", "volume"),
        ("open", "high", "low", "close"),  # a bar of volume only
        ("open", "high", "low"),
    ],
)
def test_a_blank_bar_is_waited_for_and_then_passed_over(
    market: Market, missing: tuple[str, ...]
) -> None:
    listing = market.stand_in.server.listings["AAPL"]
    listing.overrides[at(15, 41)] = dict.fromkeys(missing)
    published = {"AAPL": at(15, 39)}
    got = market.poll("AAPL", published=published)["AAPL"]
    assert [candle.open_ms for candle in got] == [at(15, 40)]
    market.clock.now_ms = at(15, 44, 27)
    got = market.poll("AAPL", published=published)["AAPL"]
    assert [candle.open_ms for candle in got] == [at(15, 40), at(15, 42), at(15, 43)]
    listing.overrides.clear()
    got = market.poll("AAPL", published=published)["AAPL"]
    assert [candle.open_ms for candle in got] == [at(15, minute) for minute in (40, 41, 42, 43)]


def test_a_bar_that_contradicts_itself_is_left_out_and_counted(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    listing = market.stand_in.server.listings["AAPL"]
    listing.overrides[at(15, 41)] = {"high": 1.0}
    got = market.poll("AAPL", published={"AAPL": at(15, 39)})["AAPL"]
    assert [candle.open_ms for candle in got] == [at(15, 40), at(15, 42)]
    rejected = market.registry.get_sample_value(
        "candlecast_rows_rejected_total", {"reason": "inconsistent"}
    )
    assert rejected == 1
    assert "AAPL 1m: high: expected at least" in caplog.text


def test_a_close_a_hair_above_the_high_is_kept(market: Market) -> None:
    listing = market.stand_in.server.listings["AAPL"]
    true = next(bar for bar in market.truth("AAPL") if bar.start_ms == at(15, 42))
    top = max(true.open, true.close)
    listing.overrides[at(15, 42)] = {"high": top * (1 - 1e-7)}
    got = market.poll("AAPL", published={"AAPL": at(15, 41)})["AAPL"]
    assert [candle.high for candle in got] == [top]


def test_without_trades_a_candle_closes_two_minutes_after_its_end(market: Market) -> None:
    listing = market.stand_in.server.listings["AAPL"]
    listing.last_trade_ms = at(15, 41, 30)
    published = {"AAPL": at(15, 39)}
    market.clock.now_ms = at(15, 43, 59)
    assert [candle.open_ms for candle in market.poll("AAPL", published=published)["AAPL"]] == [
        at(15, 40)
    ]
    market.clock.now_ms = at(15, 44)
    got = market.poll("AAPL", published=published)["AAPL"]
    assert [candle.open_ms for candle in got] == [at(15, 40), at(15, 41)]


def test_a_gap_that_yahoo_cannot_fill_is_logged(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    market.poll("AAPL", published={"AAPL": at(9, 30, day=date(2026, 7, 1))})
    assert "AAPL 1m: a gap" in caplog.text


def test_a_day_that_ends_later_than_the_next_midnight_utc_is_cut_to_a_day() -> None:
    """A future trades round the clock by New York, whose midnight is after that of UTC."""
    bar = Bar(midnight_ms(DAY), midnight_ms(DAY) + DAY_MS + 4 * 3_600_000, 1.0, 1.0, 1.0, 1.0, 0.0)
    assert as_candle(bar, "ES=F", "1d").close_ms == midnight_ms(DAY) + DAY_MS
