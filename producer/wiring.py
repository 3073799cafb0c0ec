"""Makes the candle source that the settings name."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from producer.replay import ReplaySource
from producer.settings import ProducerSettings
from producer.source import CandleSource, SourceError
from producer.yahoo import cookies
from shared.files import findings
from shared.files.series import History, reason_of
from shared.history import BUNDLED_SYMBOLS, bundled, from_file
from shared.metrics import ProducerMetrics
from shared.process import now_ms

if TYPE_CHECKING:
    from producer.yahoo.client import Yahoo
    from producer.yahoo.gate import Gate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where the candles come from, and those of their context, if any."""

    candles: CandleSource
    context: CandleSource | None = None


@contextmanager
def open_sources(settings: ProducerSettings, metrics: ProducerMetrics) -> Iterator[Sources]:
    """Yield the sources; raises ``SourceError`` or ``HistoryError`` when they cannot be made."""
    if settings.source == "replay":
        yield replays(settings, metrics)
        return
    with tempfile.TemporaryDirectory(prefix="candlecast-yahoo-") as temporary:
        own = Path(temporary)
        if settings.cache_dir is not None:
            cookies.take(settings.cache_dir, own)
        try:
            yield _both(settings, _yahoo(settings, metrics, own))
        finally:
            if settings.cache_dir is not None:
                cookies.put_back(own, settings.cache_dir)


def replays(settings: ProducerSettings, metrics: ProducerMetrics) -> Sources:
    """Return replays of files, or of the bundled candles; logs what is odd about them."""
    return _both(settings, lambda some: _replay(some, metrics))


def _both(settings: ProducerSettings, make: Callable[[ProducerSettings], CandleSource]) -> Sources:
    return Sources(make(settings), make(settings.of_context()) if settings.context else None)


def _replay(settings: ProducerSettings, metrics: ProducerMetrics) -> ReplaySource:
    history = _history(settings)
    for note in history.notes:
        log.info("%s: %s", history.name, note)
    for line in findings.lines(history, findings.of_history(history)):
        log.warning("%s: %s", history.name, line)
    for rule, count in history.left_out.items():
        metrics.rejects.labels(reason_of(rule).value).inc(count)
    return ReplaySource(history, settings.speed, again=settings.again)


def _history(settings: ProducerSettings) -> History:
    symbols = _symbols(settings)
    if settings.path is None:
        return bundled(symbols or BUNDLED_SYMBOLS)
    return from_file(settings.path, settings.interval, settings.read_options(symbols))


def _symbols(settings: ProducerSettings) -> tuple[str, ...]:
    try:
        return settings.all_symbols()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"symbols_file: {settings.symbols_file}: {error}") from error


def _yahoo(
    settings: ProducerSettings, metrics: ProducerMetrics, cache_dir: Path
) -> Callable[[ProducerSettings], CandleSource]:
    """Return what makes sources of Yahoo's candles, which share its client and its rate."""
    # yfinance takes a second and 100 MB to import, which a replay does without
    from producer.yahoo.client import Yahoo  # noqa: PLC0415
    from producer.yahoo.gate import Gate  # noqa: PLC0415

    yahoo = Yahoo(cache_dir, settings.proxy, settings.ca_bundle)
    gate = Gate(metrics, rate=settings.rate, burst=settings.burst)
    return lambda some: _yahoo_source(some, metrics, yahoo, gate)


def _yahoo_source(
    settings: ProducerSettings, metrics: ProducerMetrics, yahoo: Yahoo, gate: Gate
) -> CandleSource:
    from producer.yahoo.backfill import BackfillSource  # noqa: PLC0415
    from producer.yahoo.fetcher import Fetcher  # noqa: PLC0415
    from producer.yahoo.polling import PollingSource  # noqa: PLC0415

    symbols = _symbols(settings) or BUNDLED_SYMBOLS
    pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="yahoo")
    fetcher = Fetcher(yahoo.poll, settings.interval, gate, metrics, pool=pool)
    if settings.source == "backfill":
        return BackfillSource(symbols, fetcher, settings.span(now_ms()))
    polling = PollingSource(
        symbols, fetcher, poll_ms=settings.poll_ms, window=settings.window_candles,
        history=settings.history or settings.window_candles, once=settings.once,
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
