"""Files of candles in the forms of the vendors of docs/data.md, all of values made here."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from shared.candles import INTERVALS_MS
from tests.panels import Row

NEW_YORK = ZoneInfo("America/New_York")
ATHENS = ZoneInfo("Europe/Athens")
START_MS = 1_704_153_600_000  # 2024-01-02, a Tuesday
COUNT = 30


def walk(symbol: str, interval: str, seed: int = 0, count: int = COUNT) -> list[Row]:
    """Return candles of a quiet walk with two decimals, daily ones of business days."""
    rng = np.random.default_rng(seed)
    close = np.round(1_190 * np.exp(np.cumsum(rng.normal(0, 0.004, count))), 2)
    opened = np.round(np.r_[1_190.5, close[:-1] + 0.02], 2)
    high = np.round(np.maximum(opened, close) + rng.uniform(0.1, 2, count), 2)
    low = np.round(np.minimum(opened, close) - rng.uniform(0.1, 2, count), 2)
    volume = rng.integers(100, 900, count) * 10_000.0
    if interval == "1d":
        days = np.busday_offset(np.datetime64(START_MS, "ms").astype("datetime64[D]"),
                                np.arange(count))  # fmt: skip
        times = days.astype("datetime64[ms]").astype(np.int64)
    else:
        times = START_MS + np.arange(count) * INTERVALS_MS[interval]
    columns = (column.tolist() for column in (opened, high, low, close, volume))
    return [
        (symbol, open_ms, values)
        for open_ms, values in zip(times.tolist(), zip(*columns, strict=True), strict=True)
    ]


@dataclass(frozen=True)
class Vendor:
    """How a vendor writes candles."""

    file: str
    write: Callable[[Sequence[Row]], bytes]
    symbols: tuple[str, ...] = ("AAPL",)
    interval: str = "1d"

    def rows(self) -> list[Row]:
        """Return the candles of the vendor's file."""
        return [
            row for seed, symbol in enumerate(self.symbols)
            for row in walk(symbol, self.interval, seed)
        ]  # fmt: skip


def moment(open_ms: int) -> datetime:
    return datetime.fromtimestamp(open_ms / 1000, UTC)


def midnight(open_ms: int, zone: ZoneInfo = NEW_YORK) -> datetime:
    """Return the midnight of a date in a market's zone."""
    return moment(open_ms).replace(tzinfo=zone)


def table(
    header: str, line: Callable[[Row], str], rows: Sequence[Row], newline: str = "\n"
) -> bytes:
    return newline.join([header, *map(line, rows), ""]).encode()


def _yahoo(rows: Sequence[Row]) -> bytes:
    return table(
        "Date,Open,High,Low,Close,Adj Close,Volume",
        lambda row: f"{moment(row[1]):%Y-%m-%d},{_prices(row)},{row[2][3]},{row[2][4]:.0f}",
        rows,
    )


def _prices(row: Row, separator: str = ",") -> str:
    return separator.join(map(str, row[2][:4]))


def _yfinance_history(rows: Sequence[Row]) -> bytes:
    return table(
        "Date,Open,High,Low,Close,Volume,Dividends,Stock Splits",
        lambda row: f"{midnight(row[1]).isoformat(' ')},{_prices(row)},{row[2][4]:.0f},0.0,0.0",
        rows,
    )


def _yfinance_wide(rows: Sequence[Row]) -> bytes:
    symbols = list(dict.fromkeys(row[0] for row in rows))
    by_time: dict[int, dict[str, Row]] = {}
    for row in rows:
        by_time.setdefault(row[1], {})[row[0]] = row
    fields = {"Close": 3, "High": 1, "Low": 2, "Open": 0, "Volume": 4}
    lines = [
        ",".join(["Price", *(name for name in fields for _ in symbols)]),
        ",".join(["Ticker", *(symbol for _ in fields for symbol in symbols)]),
        "Date" + "," * (len(fields) * len(symbols)),
    ]
    for open_ms, each in by_time.items():
        cells = [str(each[symbol][2][at]) for at in fields.values() for symbol in symbols]
        lines.append(",".join([f"{moment(open_ms):%Y-%m-%d}", *cells]))
    return "\n".join([*lines, ""]).encode()


def _yahoo_chart(rows: Sequence[Row]) -> bytes:
    quote = {
        name: [row[2][at] for row in rows]
        for at, name in enumerate(("open", "high", "low", "close", "volume"))
    }
    result = {
        "meta": {"symbol": rows[0][0], "exchangeTimezoneName": "America/New_York"},
        "timestamp": [int(midnight(row[1]).timestamp()) + 34_200 for row in rows],
        "indicators": {"quote": [quote], "adjclose": [{"adjclose": quote["close"]}]},
    }
    return _json({"chart": {"result": [result], "error": None}})


def _stooq(rows: Sequence[Row]) -> bytes:
    return table(
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
        lambda row: f"{row[0]},D,{moment(row[1]):%Y%m%d},000000,{_prices(row)},{row[2][4]:.0f},0",
        rows,
        "\r\n",
    )


def _tiingo(rows: Sequence[Row]) -> bytes:
    names = ("open", "high", "low", "close")
    adjusted = ("adjOpen", "adjHigh", "adjLow", "adjClose")
    return _json([
        {
            "date": f"{moment(row[1]):%Y-%m-%dT00:00:00.000Z}",
            **dict(zip(names, row[2][:4], strict=True)),
            "volume": int(row[2][4]) * 4,
            **dict(zip(adjusted, row[2][:4], strict=True)),
            "adjVolume": int(row[2][4]),
            "divCash": 0.0,
            "splitFactor": 1.0,
        }
        for row in rows
    ])  # fmt: skip


def _alpha_vantage(rows: Sequence[Row]) -> bytes:
    return table(
        "timestamp,open,high,low,close,volume",
        lambda row: f"{moment(row[1]):%Y-%m-%d},{_prices(row)},{row[2][4]:.0f}",
        rows[::-1],
        "\r\n",
    )


def _alpha_vantage_json(rows: Sequence[Row]) -> bytes:
    names = ("1. open", "2. high", "3. low", "4. close", "5. volume")
    return _json({
        "Meta Data": {
            "1. Information": "Daily Prices", "2. Symbol": rows[0][0], "5. Time Zone": "US/Eastern",
        },
        "Time Series (Daily)": {
            f"{moment(row[1]):%Y-%m-%d}": dict(zip(names, map(str, row[2]), strict=True))
            for row in rows[::-1]
        },
    })  # fmt: skip


def _quandl(rows: Sequence[Row]) -> bytes:
    return table(
        "Date,Open,High,Low,Close,Volume,Ex-Dividend,Split Ratio,"
        "Adj. Open,Adj. High,Adj. Low,Adj. Close,Adj. Volume",
        lambda row: (
            f"{moment(row[1]):%Y-%m-%d},{_prices(row)},{row[2][4] * 2},0.0,1.0,"
            f"{_prices(row)},{row[2][4]}"
        ),
        rows[::-1],
    )


def _nasdaq(rows: Sequence[Row]) -> bytes:
    def line(row: Row) -> str:
        opened, high, low, close, volume = row[2]
        return f"{moment(row[1]):%m/%d/%Y},${close},{volume:.0f},${opened},${high},${low}"

    return table("Date,Close/Last,Volume,Open,High,Low", line, rows[::-1])


def _investing(rows: Sequence[Row]) -> bytes:
    def line(row: Row) -> str:
        opened, high, low, close, volume = row[2]
        prices = (f"{price:,.2f}" for price in (close, opened, high, low))
        cells = [f"{moment(row[1]):%m/%d/%Y}", *prices, f"{volume / 1e6:.2f}M", "0.12%"]
        return ",".join(f'"{cell}"' for cell in cells)

    header = '"Date","Price","Open","High","Low","Vol.","Change %"'
    return b"\xef\xbb\xbf" + table(header, line, rows[::-1])


def _kaggle(rows: Sequence[Row]) -> bytes:
    return table(
        "date,open,high,low,close,volume,Name",
        lambda row: f"{moment(row[1]):%Y-%m-%d},{_prices(row)},{row[2][4]:.0f},{row[0]}",
        rows,
    )


def _metatrader(rows: Sequence[Row]) -> bytes:
    return table(
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
        lambda row: "\t".join([
            f"{moment(row[1]).astimezone(ATHENS):%Y.%m.%d\t%H:%M:%S}",
            _prices(row, "\t"), f"{row[2][4]:.0f}", "0", "12",
        ]),
        rows,
        "\r\n",
    )  # fmt: skip


def _kline(row: Row, unit: int = 1000) -> list[str]:
    """Return a candle of Binance; from 2025 its files count microseconds."""
    _, open_ms, (opened, high, low, close, volume) = row
    factor = unit // 1000
    last = (open_ms + 3_600_000) * factor - 1
    numbers = (opened, high, low, close, volume)
    times = [str(open_ms * factor), *(f"{number:.8f}" for number in numbers), str(last)]
    return [*times, f"{close * volume:.8f}", "308", f"{volume / 2:.8f}", f"{volume:.8f}", "0"]


def _binance(rows: Sequence[Row]) -> bytes:
    lines = [",".join(_kline(row, 1_000_000)) for row in rows]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTCUSDT-1h-2024-01.csv", "\n".join([*lines, ""]))
    return stream.getvalue()


def _binance_api(rows: Sequence[Row]) -> bytes:
    klines = (_kline(row) for row in rows)
    return _json([[int(k[0]), *k[1:6], int(k[6]), k[7], int(k[8]), *k[9:]] for k in klines])


def _cryptodatadownload(rows: Sequence[Row]) -> bytes:
    lines = table(
        "unix,date,symbol,open,high,low,close,Volume BTC,Volume USDT,tradecount",
        lambda row: (
            f"{row[1]},{moment(row[1]):%Y-%m-%d %H:%M:%S},{row[0]},{_prices(row)},{row[2][4]},"
            f"{row[2][3] * row[2][4]},99"
        ),
        rows[::-1],
    )
    return b"https://www.CryptoDataDownload.com\n" + lines


def _bar(row: Row) -> dict[str, object]:
    return {"t": f"{moment(row[1]):%Y-%m-%dT%H:%M:%SZ}", "v": int(row[2][4]), "n": 99,
            "vw": row[2][3], **dict(zip("ohlc", row[2][:4], strict=True))}  # fmt: skip


def _alpaca(rows: Sequence[Row]) -> bytes:
    bars: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        bars.setdefault(row[0], []).append(_bar(row))
    return _json({"bars": bars, "next_page_token": None})


def _polygon(rows: Sequence[Row]) -> bytes:
    results = [
        {**_bar(row), "t": int(midnight(row[1]).timestamp() * 1000)} for row in rows
    ]  # fmt: skip
    return _json({"ticker": rows[0][0], "queryCount": COUNT, "resultsCount": COUNT,
                  "adjusted": True, "results": results, "status": "OK"})  # fmt: skip


def _polygon_flat(rows: Sequence[Row]) -> bytes:
    def line(row: Row) -> str:
        opened, high, low, close, volume = row[2]
        start = row[1] * 1_000_000
        return f"{row[0]},{volume:.0f},{opened},{close},{high},{low},{start},99"

    return table("ticker,volume,open,close,high,low,window_start,transactions", line, rows)


def _freqtrade(rows: Sequence[Row]) -> bytes:
    return _json([[row[1], *row[2]] for row in rows])


def _twelve_data(rows: Sequence[Row]) -> bytes:
    names = ("open", "high", "low", "close", "volume")
    values = [
        {"datetime": f"{moment(row[1]):%Y-%m-%d}",
         **dict(zip(names, map(str, row[2]), strict=True))}
        for row in rows[::-1]
    ]  # fmt: skip
    meta = {"symbol": rows[0][0], "interval": "1day", "currency": "USD"}
    return _json({"meta": meta, "values": values, "status": "ok"})


def _finnhub(rows: Sequence[Row]) -> bytes:
    columns = {
        name: [row[2][at] for row in rows] for name, at in zip("ohlcv", range(5), strict=True)
    }
    return _json({**columns, "s": "ok", "t": [row[1] // 1000 for row in rows]})


def _polish(rows: Sequence[Row]) -> bytes:
    return table(
        "Data;Otwarcie;Najwyzszy;Najnizszy;Zamkniecie;Wolumen",
        lambda row: (
            f"{moment(row[1]):%Y-%m-%d};{_prices(row, ';').replace('.', ',')};{row[2][4]:.0f}"
        ),
        rows,
    )


def _german(rows: Sequence[Row]) -> bytes:
    def number(value: float, digits: int = 2) -> str:
        return f"{value:,.{digits}f}".translate({ord(","): ".", ord("."): ","})

    lines = [
        ";".join([f"{moment(ms):%d.%m.%Y}", *map(number, values[:4]), number(values[4], 0)])
        for _, ms, values in reversed(rows)
    ]
    header = "Datum;Eröffnung;Hoch;Tief;Schluss;Stück"
    return "\r\n".join([header, *lines, ""]).encode("cp1252")


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


VENDORS: Mapping[str, Vendor] = {
    "Yahoo, downloaded": Vendor("AAPL.csv", _yahoo),
    "yfinance, a ticker's history": Vendor("AAPL.csv", _yfinance_history),
    "yfinance, download of many": Vendor("wide.csv", _yfinance_wide, ("AAPL", "BRK-B", "^GSPC")),
    "Yahoo's chart API": Vendor("chart.json", _yahoo_chart),
    "Stooq": Vendor("aapl.us.txt", _stooq, ("AAPL.US",)),
    "Tiingo": Vendor("AAPL.json", _tiingo),
    "Alpha Vantage, CSV": Vendor("daily_AAPL.csv", _alpha_vantage),
    "Alpha Vantage, JSON": Vendor("query.json", _alpha_vantage_json),
    "Quandl": Vendor("WIKI-AAPL.csv", _quandl),
    "Nasdaq": Vendor("HistoricalData_1704153600000.csv", _nasdaq),
    "Investing": Vendor("AAPL Historical Data.csv", _investing),
    "Kaggle": Vendor("all_stocks_5yr.csv", _kaggle, ("AAPL", "MSFT")),
    "MetaTrader": Vendor("EURUSD_H1.csv", _metatrader, ("EURUSD",), "1h"),
    "Binance, monthly files": Vendor("BTCUSDT-1h-2024-01.zip", _binance, ("BTCUSDT",), "1h"),
    "Binance, API": Vendor("BTCUSDT-1h.json", _binance_api, ("BTCUSDT",), "1h"),
    "CryptoDataDownload": Vendor(
        "Binance_BTCUSDT_1h.csv", _cryptodatadownload, ("BTC/USDT",), "1h"
    ),
    "Alpaca, many symbols": Vendor("bars.json", _alpaca, ("AAPL", "MSFT"), "1h"),
    "Alpaca, one symbol": Vendor("bars.json", _alpaca, interval="1h"),
    "Polygon, API": Vendor("aggs.json", _polygon),
    "Polygon, flat files": Vendor("2024-01-02.csv", _polygon_flat, ("AAPL", "MSFT"), "1m"),
    "freqtrade": Vendor("BTC_USDT-1h.json", _freqtrade, ("BTC_USDT",), "1h"),
    "Twelve Data": Vendor("time_series.json", _twelve_data),
    "Finnhub": Vendor("AAPL.json", _finnhub),
    "A German bank": Vendor("SAP.csv", _german, ("SAP",)),
    "Another language": Vendor("pkn.csv", _polish, ("pkn",)),
}
"""Vendors by their names in docs/data.md."""
