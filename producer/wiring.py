"""Makes the candle source that the settings name."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from producer.replay import ReplaySource
from producer.settings import ProducerSettings
from producer.source import CandleSource, SourceError
from producer.yahoo import cookies
from shared.history import BUNDLED_SYMBOLS, History, bundled, from_file
from shared.metrics import ProducerMetrics
from shared.process import now_ms

log = logging.getLogger(__name__)


@contextmanager
def open_source(settings: ProducerSettings, metrics: ProducerMetrics) -> Iterator[CandleSource]:
    """Yield the source; raises ``SourceError`` or ``HistoryError`` when it cannot be made."""
    if settings.source == "replay":
        yield replay(settings, metrics)
        return
    with tempfile.TemporaryDirectory(prefix="candlecast-yahoo-") as temporary:
        own = Path(temporary)
        if settings.cache_dir is not None:
            cookies.take(settings.cache_dir, own)
        try:
            yield _yahoo_source(settings, metrics, own)
        finally:
            if settings.cache_dir is not None:
                cookies.put_back(own, settings.cache_dir)


def replay(settings: ProducerSettings, metrics: ProducerMetrics) -> ReplaySource:
    """Return the replay of a file, or of the bundled candles; logs the rows that it leaves out."""
    history = _history(settings)
    for row in history.rejected[:10]:
        log.warning("%s: row %d: %s: left out", history.name, row.row, row.detail)
    for row in history.rejected:
        metrics.rejects.labels(row.reason.value).inc()
    if history.rejected:
        log.warning(
            "%s: %d rows left out, %d candles", history.name, len(history.rejected),
            len(history.candles),
        )  # fmt: skip
    return ReplaySource(history, settings.interval, settings.speed)


def _history(settings: ProducerSettings) -> History:
    symbols = _symbols(settings)
    if settings.path is None:
        return bundled(symbols or BUNDLED_SYMBOLS)
    return from_file(settings.path, settings.interval, symbols)


def _symbols(settings: ProducerSettings) -> tuple[str, ...]:
    try:
        return settings.all_symbols()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"symbols_file: {settings.symbols_file}: {error}") from error


def _yahoo_source(
    settings: ProducerSettings, metrics: ProducerMetrics, cache_dir: Path
) -> CandleSource:
    # yfinance takes a second and 100 MB to import, which a replay does without
    from producer.yahoo.backfill import BackfillSource  # noqa: PLC0415
    from producer.yahoo.client import Yahoo  # noqa: PLC0415
    from producer.yahoo.fetcher import Fetcher  # noqa: PLC0415
    from producer.yahoo.gate import Gate  # noqa: PLC0415
    from producer.yahoo.polling import PollingSource  # noqa: PLC0415

    symbols = _symbols(settings) or BUNDLED_SYMBOLS
    yahoo = Yahoo(cache_dir, settings.proxy, settings.ca_bundle)
    gate = Gate(metrics, rate=settings.rate, burst=settings.burst)
    pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="yahoo")
    fetcher = Fetcher(yahoo.poll, settings.interval, gate, metrics, pool=pool)
    if settings.source == "backfill":
        return BackfillSource(symbols, fetcher, settings.span(now_ms()))
    polling = PollingSource(
        symbols, fetcher, poll_ms=settings.poll_ms, window=settings.window,
        history=settings.history or settings.window, once=settings.once,
    )  # fmt: skip
    if settings.source == "yfinance":
        return polling
    from producer.yahoo.live import LiveSource  # noqa: PLC0415
    from producer.yahoo.ticker import TickStream  # noqa: PLC0415

    ticks = TickStream(
        symbols, metrics, proxy=settings.proxy, ca_bundle=settings.ca_bundle,
        idle_s=settings.idle_seconds,
    )  # fmt: skip
    return LiveSource(polling, ticks)
