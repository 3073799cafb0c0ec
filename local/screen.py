"""The display of a run: the newest forecasts, rates and latency, on a terminal or as lines."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Final, Protocol, Self

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from local.accounting import Latency, Summary
from shared.candles import DAY_MS
from shared.forecasts import Forecast, Horizon
from shared.kafka import DEFAULT_BOOTSTRAP
from shared.terminal import Console, plain

LINE_EVERY_S: Final = 5.0
_RATE_OVER_S: Final = 5.0
_MOST_ROWS: Final = 20
_WIDEST: Final = 10_000


@dataclass(frozen=True)
class Addresses:
    """Where the parts are reached."""

    kafka: str
    api: str
    worker: str
    producer: str
    logs: str


@dataclass(frozen=True)
class Frame:
    """All that is shown at one moment."""

    state: str
    forecasts: Sequence[Forecast]
    summary: Summary
    candles_rate: float  # a second
    forecasts_rate: float


class Rate:
    """Events a second over the last seconds, from a rising count."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, now_s: float, count: int) -> float:
        """Take the count at a time in seconds and return the rate."""
        self._seen.append((now_s, count))
        while now_s - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (count - first) / (now_s - first_s) if now_s > first_s else 0.0


class Screen(Protocol):
    """Shows frames as they come; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, frame: Frame, now_s: float) -> None:
        """Show a frame at a monotonic time in seconds."""
        ...

    def tell(self, line: str) -> None:
        """Show a line that stays."""
        ...


class LiveScreen:
    """A table on a terminal, drawn again with each frame."""

    def __init__(self, addresses: Addresses, console: Console) -> None:
        self._addresses = addresses
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, frame: Frame, now_s: float) -> None:  # noqa: ARG002 - the port's
        self._live.update(render(frame, self._addresses, self._console), refresh=True)

    def tell(self, line: str) -> None:
        self._console.print(plain(line), highlight=False)


class LineScreen:
    """A line every few seconds while something happens, on standard error."""

    def __init__(self) -> None:
        self._shown_s: float | None = None
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(self, frame: Frame, now_s: float) -> None:
        if self._shown_s is None or now_s - self._shown_s >= LINE_EVERY_S:
            self._shown_s = now_s
            line = f"{frame.state}: {counts(frame)}"
            if line != self._shown:  # a replay that is over shows once
                print(line, file=sys.stderr, flush=True)
            self._shown = line

    def tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def render(frame: Frame, addresses: Addresses, console: Console) -> RenderableType:
    """Return the whole picture of a frame."""
    return Group(
        Text(f"Candlecast: {frame.state}", style="bold"),
        forecasts_table(frame.forecasts[:_MOST_ROWS], console),
        Text(counts(frame)),
        _places(addresses),
        Text("Ctrl-C ends everything", style="dim"),
    )


def forecasts_table(forecasts: Sequence[Forecast], console: Console) -> RenderableType:
    """Return a table of one row a forecast, with as many horizons as the console has room for."""
    if not forecasts:
        return Text("No forecast yet: the first candles of each symbol only fill its window.")
    unbounded = console.options.update(max_width=_WIDEST)
    table = _table(forecasts, horizons=1)
    for horizons in range(2, len(forecasts[0].horizons) + 1):
        wider = _table(forecasts, horizons)
        if console.measure(wider, options=unbounded).maximum > console.width:
            break
        table = wider
    return table


def _table(forecasts: Sequence[Forecast], horizons: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"+1: predicted close, one candle ahead · model {forecasts[0].model_version}",
        caption_justify="left",
    )
    for name in ("symbol", "after (UTC)"):
        table.add_column(name, no_wrap=True)
    table.add_column("close", justify="right", no_wrap=True)
    for horizon in forecasts[0].horizons[:horizons]:
        table.add_column(f"+{horizon.step}", justify="right", style="bold", no_wrap=True)
        table.add_column(interval_name(horizon), justify="center", style="cyan", no_wrap=True)
    for forecast in forecasts:
        table.add_row(*_row(forecast, horizons))
    return table


def interval_name(horizon: Horizon) -> str:
    """Return the name of the widest interval of a horizon, such as ``90 % interval``."""
    levels = [float(level) for level in horizon.quantiles]
    return f"{(max(levels) - min(levels)) * 100:.0f} % interval"


def counts(frame: Frame) -> str:
    """Return the counts, rates and latencies of a frame in a line."""
    summary, latency = frame.summary, frame.summary.latency_ms
    parts = [
        f"candles {summary.candles_in:,} ({frame.candles_rate:,.0f}/s)",
        f"forecasts {summary.forecasts_out:,} ({frame.forecasts_rate:,.0f}/s)",
    ]
    if summary.missing_forecasts:
        parts.append(f"waiting {summary.missing_forecasts:,}")
    if summary.dead_letters:
        parts.append(f"dead letters {summary.dead_letters:,}")
    if latency.p50 is not None:
        parts.append(f"latency {in_words(latency)}")
    return " · ".join(parts)


def in_words(latency: Latency) -> str:
    """Return the latencies of a run that made forecasts."""
    return f"p50 {latency.p50} ms, p95 {latency.p95} ms, p99 {latency.p99} ms"


def _row(forecast: Forecast, horizons: int) -> list[str]:
    cells = [forecast.symbol, close_time(forecast.as_of_ms), price(forecast.last_close)]
    for horizon in forecast.horizons[:horizons]:
        low, *_, high = map(price, horizon.quantiles.values())
        cells += [price(horizon.predicted_close), f"{low} … {high}"]
    return cells


def price(value: float) -> str:
    """Return a price with at least three digits that tell."""
    return f"{value:,.2f}" if value >= 10 else f"{value:.4f}" if value >= 0.1 else f"{value:.3g}"


def close_time(close_ms: int) -> str:
    """Return a candle's close in words: midnight is shown as the day that it ends."""
    if close_ms % DAY_MS == 0:
        return datetime.fromtimestamp(close_ms / 1000 - 1, UTC).strftime("%Y-%m-%d")
    return datetime.fromtimestamp(close_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def to_try(addresses: Addresses) -> tuple[str, ...]:
    """Return commands for another terminal, with the addresses of this run."""
    here = "" if addresses.kafka == DEFAULT_BOOTSTRAP else f" --bootstrap {addresses.kafka}"
    return (
        f"curl {addresses.api}/v1/forecasts",
        f"{own_command()} tail{here}",
        f"{own_command()} dlq list{here}",
    )


def own_command() -> str:
    """Return how the command of this installation is called from the current directory."""
    if which("candlecast") is not None:
        return "candlecast"
    script = Path(sys.prefix) / "bin" / "candlecast"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def _places(addresses: Addresses) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, place in (
        ("dashboard", f"{addresses.api}/dashboard"),
        ("API", f"{addresses.api}/docs  {addresses.api}/metrics"),
        ("worker", f"{addresses.worker}/metrics"),
        ("producer", f"{addresses.producer}/metrics"),
        ("Kafka", addresses.kafka),
        ("logs", addresses.logs),
        *(("try", line) for line in to_try(addresses)),
    ):
        grid.add_row(Text(name, style="dim"), place)
    return grid
