"""Makes the source that the settings ask for."""

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
from shared.history import History, bundled, from_file
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)


@contextmanager
def source(settings: ProducerSettings, metrics: ProducerMetrics) -> Iterator[CandleSource]:
    """Yield the source; raises ``SourceError`` or ``HistoryError`` when it cannot be made."""
    if settings.source == "replay":
        yield replay(settings, metrics)
        return
    with tempfile.TemporaryDirectory(prefix="candlecast-yahoo-") as temporary:
        own = Path(temporary)
        if settings.cache_dir is not None:
            cookies.take(settings.cache_dir, own)
        try:
            yield _of_yahoo(settings, metrics, own)
        finally:
            if settings.cache_dir is not None:
                cookies.put_back(own, settings.cache_dir)


def replay(settings: ProducerSettings, metrics: ProducerMetrics) -> ReplaySource:
    """Return the replay of a file, or of the bundled candles; says which rows it leaves out."""
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


def symbols_of(settings: ProducerSettings) -> tuple[str, ...]:
    """Return the symbols that the settings name; raises ``SourceError`` for a bad file."""
    try:
        return settings.named_symbols()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"symbols_file: {settings.symbols_file}: {error}") from error


def _history(settings: ProducerSettings) -> History:
    named = symbols_of(settings)
    if settings.path is None:
        return bundled(named or settings.all_symbols())
    return from_file(settings.path, settings.interval, named)


def _of_yahoo(
    settings: ProducerSettings, metrics: ProducerMetrics, cache_dir: Path
) -> CandleSource:
    # yfinance takes a second and 100 MB to import, which a replay does without
    from producer.yahoo.backfill import BackfillSource  # noqa: PLC0415
    from producer.yahoo.client import Yahoo  # noqa: PLC0415
    from producer.yahoo.fetcher import Asker  # noqa: PLC0415
    from producer.yahoo.gate import Gate  # noqa: PLC0415
    from producer.yahoo.polling import PollingSource, real_now_ms  # noqa: PLC0415

    yahoo = Yahoo(cache_dir, settings.proxy, settings.ca_bundle)
    gate = Gate(metrics, rate=settings.rate, burst=settings.burst)
    pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="yahoo")
    asker = Asker(yahoo.poll, settings.interval, gate, metrics, pool=pool)
    symbols = symbols_of(settings) or settings.all_symbols()
    if settings.source == "backfill":
        return BackfillSource(symbols, asker, settings.span(real_now_ms()))
    polling = PollingSource(
        symbols, asker, poll_ms=settings.poll_ms, once=settings.once, window=settings.window,
        history=settings.history or settings.window,
    )  # fmt: skip
    if settings.source == "yfinance":
        return polling
    from producer.yahoo.live import LiveSource  # noqa: PLC0415
    from producer.yahoo.ticker import TickStream  # noqa: PLC0415

    stream = TickStream(
        symbols, metrics, proxy=settings.proxy, ca_bundle=settings.ca_bundle,
        idle_s=settings.idle_seconds,
    )  # fmt: skip
    return LiveSource(polling, stream)
