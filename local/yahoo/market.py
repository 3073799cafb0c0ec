"""A market made up by formula, and Yahoo's chart of it at any moment; in memory, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from shared.candles import DAY_MS, INTERVALS_MS

NEW_YORK: Final = "America/New_York"
"""Zone of the NYSE."""

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
    """One symbol: where and when it trades, and the faults of Yahoo's rows of it."""

    symbol: str
    zone: str
    sessions: list[tuple[int, int]]  # [start_ms, end_ms) in order
    price: float
    kind: str = "EQUITY"  # Yahoo's instrumentType
    lists_forming_bar: bool = True
    last_trade_ms: int | None = None  # where trading stopped before the session's end
    overrides: dict[int, Mapping[str, float | None]] = field(default_factory=dict)  # by start_ms
    exchange: str = ""  # Yahoo's code
    splits: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # at_ms, numerator, denominator
    dividends: list[tuple[int, float]] = field(default_factory=list)  # at_ms, amount
    without: set[int] = field(default_factory=set)  # start_ms of minutes without a trade
    breaks: dict[int, tuple[int, int]] = field(default_factory=dict)  # session start -> lunch
    _over: dict[tuple[object, ...], TrueBar] = field(default_factory=dict)  # bars that ended

    def price_at(self, at_ms: int) -> float:
        """Return the price at a moment, a smooth function of time."""
        at_s = at_ms / 1000
        wave = 0.05 * math.sin(at_s / 777_600) + 0.004 * math.sin(at_s / 700)
        return round(self.price * (1 + wave), 6)

    def bars(
        self, interval: str, now_ms: int, span: tuple[int, int] = (0, 1 << 53)
    ) -> list[TrueBar]:
        """Return every bar of a span that began by now, the last as far as it has come.

        They are on the scale of now: split since, they are divided.
        """
        return [
            self._bar(start, end, min(end, now_ms), self._scale(start, now_ms))
            for start, end in self._grid(interval, span)
            if start <= now_ms and span[0] <= start < span[1] and start not in self.without
        ]

    def _scale(self, start_ms: int, now_ms: int) -> tuple[int, int]:
        """Return by what the bar's shares are multiplied: the splits since it, up to now."""
        numerator = denominator = 1
        for at_ms, up, down in self.splits:
            if start_ms < at_ms <= now_ms:
                numerator, denominator = numerator * up, denominator * down
        return numerator, denominator

    def closed(self, interval: str, now_ms: int) -> list[TrueBar]:
        """Return the bars that were over at ``now_ms``."""
        return [bar for bar in self.bars(interval, now_ms) if bar.end_ms <= now_ms]

    def _grid(self, interval: str, span: tuple[int, int]) -> Iterator[tuple[int, int]]:
        step = INTERVALS_MS[interval]
        for start, session_end in self.sessions:
            # Yahoo ends a coin's session at 23:59 and has bars up to midnight
            end = start + DAY_MS if self.kind == "CRYPTOCURRENCY" else session_end
            if end <= span[0] or start >= span[1]:
                continue
            if step >= DAY_MS:
                yield start, end
                continue
            lunch = self.breaks.get(start)
            parts = [(start, end)] if lunch is None else [(start, lunch[0]), (lunch[1], end)]
            for first, last in parts:
                for at in range(first, last, step):
                    yield at, min(at + step, last)

    def _bar(self, start: int, end: int, until: int, scale: tuple[int, int]) -> TrueBar:
        if until < end:
            return self._make(start, end, until, scale)
        key = (start, end, scale, self.price, len(self.splits))
        if key not in self._over:
            self._over[key] = self._make(start, end, until, scale)
        return self._over[key]

    def _make(self, start: int, end: int, until: int, scale: tuple[int, int]) -> TrueBar:
        up, down = scale
        traded = [self._traded_at(start + (until - start) * part // 4) for part in range(5)]
        points = [round(price * down / up, 6) for price in traded]
        volume = (1000 + (until - start) // 1000) * up // down
        return TrueBar(start, end, points[0], max(points), min(points), points[-1], volume)

    def _traded_at(self, at_ms: int) -> float:
        """Return the price as it was traded: less after each split."""
        price = self.price_at(at_ms)
        for split_ms, up, down in self.splits:
            if at_ms >= split_ms:
                price = price * down / up
        return price

    def session_at(self, now_ms: int) -> tuple[int, int]:
        """Return the newest session that has begun."""
        return [session for session in self.sessions if session[0] <= now_ms][-1]

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
    return Listing(symbol, NEW_YORK, sessions, price, exchange="NMS")


def round_the_clock(symbol: str, last: date, *, price: float, days: int = 10) -> Listing:
    """Return a coin: a session a day from midnight UTC, which Yahoo ends at 23:59."""
    zone = ZoneInfo("UTC")
    starts = [_ms(last - timedelta(days=back), time(0), zone) for back in reversed(range(days))]
    sessions = [(start, start + DAY_MS - 60_000) for start in starts]
    return Listing(symbol, "UTC", sessions, price, kind="CRYPTOCURRENCY", exchange="CCC")


def open_now(symbol: str, now_ms: int, *, price: float, days: int = 12) -> Listing:
    """Return a share whose market is open for some hours around a moment, at noon of its zone.

    For real processes, whose clock is the real one at whatever hour they run.
    """
    hour = now_ms // 3_600_000 % 24
    ahead = 12 - hour  # of UTC; the names of these zones count the other way round
    zone = "UTC" if ahead == 0 else f"Etc/GMT{-ahead:+d}"
    noon_ms = now_ms // 3_600_000 * 3_600_000
    starts = [noon_ms - 3 * 3_600_000 - back * DAY_MS for back in reversed(range(days))]
    return Listing(symbol, zone, [(start, start + 7 * 3_600_000) for start in starts], price)


def hong_kong(symbol: str, last: date, *, price: float, days: int = 10) -> Listing:
    """Return a share of Hong Kong, which has lunch from 12 to 13."""
    zone = ZoneInfo("Asia/Hong_Kong")
    weekdays = [last - timedelta(days=back) for back in reversed(range(days))]
    weekdays = [day for day in weekdays if day.weekday() < 5]
    clocks = (time(9, 30), time(12), time(13), time(16))
    times = [tuple(_ms(day, clock, zone) for clock in clocks) for day in weekdays]
    sessions = [(start, end) for start, _, _, end in times]
    listing = Listing(symbol, "Asia/Hong_Kong", sessions, price, exchange="HKG")
    listing.breaks = {start: (lunch, after) for start, lunch, after, _ in times}
    return listing


def chart(listing: Listing, query: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """Return the ``result`` of Yahoo's chart endpoint for a symbol at a moment."""
    interval = query.get("interval", "1d")
    span = _span(listing, query, now_ms)
    rows = [
        (bar.start_ms, dict(zip(_FIELDS, bar.ohlcv, strict=True)))
        for bar in listing.bars(interval, now_ms, span)
        if listing.lists_forming_bar or bar.end_ms <= now_ms
    ]
    for start, values in rows:
        values.update(listing.overrides.get(start, {}))  # type: ignore[arg-type]
    if span[0] <= now_ms:
        _add_live_row(listing, rows, interval, now_ms)
    known = [(start, end) for start, end in listing.sessions if start < span[1] and end > span[0]]
    intraday = INTERVALS_MS[interval] < DAY_MS
    quote = {name: [values[name] for _, values in rows] for name in _FIELDS} if rows else {}
    indicators: dict[str, Any] = {"quote": [quote]}
    if not intraday:
        indicators["adjclose"] = [{"adjclose": _adjusted(listing, rows, now_ms)} if rows else {}]
    result: dict[str, Any] = {
        "meta": _meta(listing, interval, known, now_ms, intraday=intraday),
        "indicators": indicators,
    }
    if rows:
        result["timestamp"] = [start // 1000 for start, _ in rows]
    events = _events(listing, span, now_ms)
    return result | ({"events": events} if events else {})


def _adjusted(
    listing: Listing, rows: list[tuple[int, dict[str, Any]]], now_ms: int
) -> list[float | None]:
    """Return the closes less the dividends since, by which Yahoo restates its history."""
    adjusted: list[float | None] = []
    for start, values in rows:
        close = values["close"]
        for at, amount in listing.dividends:
            if start < at <= now_ms and close is not None:
                close *= 1 - amount / listing.price_at(at)
        adjusted.append(close)
    return adjusted


def void(query: Mapping[str, str]) -> dict[str, Any]:
    """Return Yahoo's response when it has no row of a span."""
    start, end = query["period1"], query["period2"]
    description = f"Data doesn't exist for startDate = {start}, endDate = {end}"
    return {"chart": {"result": None, "error": {"code": "Bad Request", "description": description}}}


def _span(listing: Listing, query: Mapping[str, str], now_ms: int) -> tuple[int, int]:
    if "period1" in query:
        return int(query["period1"]) * 1000, int(query["period2"]) * 1000
    count = _SESSIONS_OF_RANGE[query.get("range", "1mo")]
    begun = [start for start, _ in listing.sessions if start <= now_ms]
    return begun[-count:][0], now_ms + 1


def _events(listing: Listing, span: tuple[int, int], now_ms: int) -> dict[str, Any]:
    def shown(at_ms: int) -> bool:
        return span[0] <= at_ms < span[1] and at_ms <= now_ms

    splits = {
        str(at // 1000): {"date": at // 1000, "numerator": up, "denominator": down}
        for at, up, down in listing.splits
        if shown(at)
    }
    dividends = {
        str(at // 1000): {"date": at // 1000, "amount": amount}
        for at, amount in listing.dividends
        if shown(at)
    }
    by_kind = {"splits": splits, "dividends": dividends}
    return {name: events for name, events in by_kind.items() if events}


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
        price = rows[-1][1]["close"]
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
        "exchangeName": listing.exchange,
        "exchangeTimezoneName": listing.zone,
        "gmtoffset": period["gmtoffset"],
        "timezone": period["timezone"],
        "priceHint": 2,
        "dataGranularity": interval,
        "currentTradingPeriod": {"pre": dict(period), "regular": period, "post": dict(period)},
        "validRanges": [*_SESSIONS_OF_RANGE, "5y", "ytd", "max"],
    }
    if intraday:
        meta["tradingPeriods"] = [[_period(listing, *session)] for session in known]
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
