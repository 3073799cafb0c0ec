"""A market made up by formula: what Yahoo's chart endpoint would say of it at any moment. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from shared.candles import DAY_MS, INTERVALS_MS

NEW_YORK: Final = "America/New_York"

_SESSIONS_OF_RANGE: Final = {
    "1d": 1, "5d": 5, "1mo": 22, "3mo": 66, "6mo": 130, "1y": 252, "2y": 504, "10y": 2520,
}  # fmt: skip
_FIELDS: Final = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class TrueBar:
    """A bar as the market made it, whether or not it is over."""

    start_ms: int
    end_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: int

    @property
    def ohlcv(self) -> tuple[float, float, float, float, int]:
        """Open, high, low, close, volume."""
        return self.open, self.high, self.low, self.close, self.volume


@dataclass
class Listing:
    """One symbol: where and when it trades, and what Yahoo gets wrong about it."""

    symbol: str
    zone: str
    sessions: list[tuple[int, int]]  # [start_ms, end_ms) in order
    price: float
    kind: str = "EQUITY"
    lists_forming_bar: bool = True
    last_trade_ms: int | None = None  # where trading stopped before the session's end
    overrides: dict[int, Mapping[str, float | None]] = field(default_factory=dict)  # by start_ms

    def price_at(self, at_ms: int) -> float:
        """Return the price at a moment, a smooth function of time."""
        at_s = at_ms / 1000
        wave = 0.05 * math.sin(at_s / 777_600) + 0.004 * math.sin(at_s / 700)
        return round(self.price * (1 + wave), 6)

    def bars(self, interval: str, now_ms: int) -> list[TrueBar]:
        """Return every bar that began by now, the last as far as it has come."""
        return [
            self._bar(start, end, min(end, now_ms))
            for start, end in self._grid(interval)
            if start <= now_ms
        ]

    def closed(self, interval: str, now_ms: int) -> list[TrueBar]:
        """Return the bars that were over at ``now_ms``."""
        return [bar for bar in self.bars(interval, now_ms) if bar.end_ms <= now_ms]

    def _grid(self, interval: str) -> Iterator[tuple[int, int]]:
        step = INTERVALS_MS[interval]
        for start, end in self.sessions:
            if step >= DAY_MS:
                yield start, end
                continue
            for at in range(start, end, step):
                yield at, min(at + step, end)

    def _bar(self, start: int, end: int, until: int) -> TrueBar:
        points = [self.price_at(start + (until - start) * part // 8) for part in range(9)]
        volume = 1000 + (until - start) // 1000
        return TrueBar(start, end, points[0], max(points), min(points), points[-1], volume)

    def session_at(self, now_ms: int) -> tuple[int, int]:
        """Return the newest session that has begun."""
        return [one for one in self.sessions if one[0] <= now_ms][-1]

    def trade_ms(self, now_ms: int) -> int:
        """Return the time of the newest trade."""
        _, end = self.session_at(now_ms)
        return min(now_ms, end, self.last_trade_ms or end) // 1000 * 1000


def new_york(
    symbol: str, last: date, *, price: float, days: int = 30, half: frozenset[date] = frozenset()
) -> Listing:
    """Return a share of the NYSE with sessions on the weekdays up to and with ``last``."""
    weekdays = [last - timedelta(days=back) for back in range(days)]
    zone = ZoneInfo(NEW_YORK)
    sessions = [
        (_ms(day, time(9, 30), zone), _ms(day, time(13 if day in half else 16), zone))
        for day in reversed(weekdays)
        if day.weekday() < 5
    ]
    return Listing(symbol, NEW_YORK, sessions, price)


def round_the_clock(symbol: str, last: date, *, price: float, days: int = 10) -> Listing:
    """Return a coin: a session a day from midnight UTC, which Yahoo ends at 23:59."""
    zone = ZoneInfo("UTC")
    starts = [_ms(last - timedelta(days=back), time(0), zone) for back in reversed(range(days))]
    sessions = [(start, start + DAY_MS - 60_000) for start in starts]
    return Listing(symbol, "UTC", sessions, price, kind="CRYPTOCURRENCY")


def open_now(symbol: str, now_ms: int, *, price: float, days: int = 12) -> Listing:
    """Return a share whose market is open for some hours around a moment, at noon of its zone.

    For real processes, whose clock is the real one at whatever hour the tests run.
    """
    hour = now_ms // 3_600_000 % 24
    ahead = 12 - hour  # of UTC; the names of these zones count the other way round
    zone = "UTC" if ahead == 0 else f"Etc/GMT{-ahead:+d}"
    noon_ms = now_ms // 3_600_000 * 3_600_000
    starts = [noon_ms - 3 * 3_600_000 - back * DAY_MS for back in reversed(range(days))]
    return Listing(symbol, zone, [(start, start + 7 * 3_600_000) for start in starts], price)


def chart(listing: Listing, query: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """Return the ``result`` of Yahoo's chart endpoint for a symbol at a moment."""
    interval = query.get("interval", "1d")
    count = _SESSIONS_OF_RANGE[query.get("range", "1mo")]
    known = [one for one in listing.sessions if one[0] <= now_ms][-count:]
    rows = [
        (bar.start_ms, dict(zip(_FIELDS, bar.ohlcv, strict=True)))
        for bar in listing.bars(interval, now_ms)
        if bar.start_ms >= known[0][0] and (listing.lists_forming_bar or bar.end_ms <= now_ms)
    ]
    for start, values in rows:
        values.update(listing.overrides.get(start, {}))  # type: ignore[arg-type]
    _add_live_row(listing, rows, interval, now_ms)
    intraday = INTERVALS_MS[interval] < DAY_MS
    quote = {name: [values[name] for _, values in rows] for name in _FIELDS}
    indicators: dict[str, Any] = {"quote": [quote]}
    if not intraday:
        indicators["adjclose"] = [{"adjclose": quote["close"]}]
    return {
        "meta": _meta(listing, interval, known, now_ms, intraday=intraday),
        "timestamp": [start // 1000 for start, _ in rows],
        "indicators": indicators,
    }


def _add_live_row(
    listing: Listing, rows: list[tuple[int, dict[str, Any]]], interval: str, now_ms: int
) -> None:
    """Append the row of the last trade's own second; a running day is itself stamped so."""
    start, end = listing.session_at(now_ms)
    trade_ms = listing.trade_ms(now_ms)
    if not start < now_ms < end or not rows:
        return
    if INTERVALS_MS[interval] >= DAY_MS:
        rows[-1] = (trade_ms, rows[-1][1])
    elif trade_ms > rows[-1][0]:
        price = listing.price_at(trade_ms)
        rows.append((trade_ms, dict.fromkeys(_FIELDS[:4], price) | {"volume": 0}))


def _meta(
    listing: Listing, interval: str, known: list[tuple[int, int]], now_ms: int, *, intraday: bool
) -> dict[str, Any]:
    start, end = listing.session_at(now_ms)
    period = _period(listing, start, end)
    trade_ms = listing.trade_ms(now_ms)
    meta: dict[str, Any] = {
        "currency": "USD",
        "symbol": listing.symbol,
        "instrumentType": listing.kind,
        "firstTradeDate": 345_479_400,
        "regularMarketTime": trade_ms // 1000,
        "regularMarketPrice": listing.price_at(trade_ms),
        "exchangeTimezoneName": listing.zone,
        "gmtoffset": period["gmtoffset"],
        "timezone": period["timezone"],
        "priceHint": 2,
        "dataGranularity": interval,
        "currentTradingPeriod": {"pre": dict(period), "regular": period, "post": dict(period)},
        "validRanges": [*_SESSIONS_OF_RANGE, "5y", "ytd", "max"],
    }
    if intraday:
        meta["tradingPeriods"] = [[_period(listing, *one)] for one in known]
    return meta


def _period(listing: Listing, start_ms: int, end_ms: int) -> dict[str, Any]:
    start = datetime.fromtimestamp(start_ms / 1000, ZoneInfo(listing.zone))
    offset = start.utcoffset() or timedelta()
    return {
        "timezone": start.tzname(),
        "gmtoffset": int(offset.total_seconds()),
        "start": start_ms // 1000,
        "end": end_ms // 1000,
    }


def _ms(day: date, clock: time, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, clock, zone).timestamp()) * 1000
