"""What the stream scored itself, over time: of the scores topic or a file of its messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop
from numpy.typing import NDArray

from shared import kafka
from shared.candles import DAY_MS, INTERVALS_MS
from shared.files.series import HistoryError
from shared.kafka import KafkaSettings, Partition
from shared.score_messages import InvalidScore, Scores
from shared.scores import ROW, WORSE, Rows, Summary, row_of, summarise
from shared.topics import partitions_of
from trainer.evaluate import figures, pages

TEMPLATE: Final = "scores.html.j2"

MOST_PERIODS: Final = 24
"""Most periods that a span is cut into, unless their length is given."""

PERIODS_MS: Final = tuple(
    days * DAY_MS // 24 for days in (1, 6, 24, 7 * 24, 28 * 24, 91 * 24, 364 * 24)
)
"""Lengths of a period, of which the shortest that will do is taken."""

Progress = Callable[[int, int], object]
"""Takes the messages read and all that there are."""


@dataclass(frozen=True)
class Period:
    """The scores of one step whose candles closed within a period."""

    from_ms: int  # UTC
    summary: Summary


@dataclass(frozen=True)
class Step:
    """The scores of one interval and step."""

    interval: str
    summary: Summary
    periods: list[Period]  # oldest first, without those that are empty
    series: int
    worse: list[str]  # symbols whose quantiles are clearly worse than no model's

    def rows(self, period_ms: int) -> list[tuple[str, Summary]]:
        """Return the lines of its table: each period's start and figures, then those of all."""
        periods = [(date(period.from_ms, period_ms), period.summary) for period in self.periods]
        return [*periods, ("all", self.summary)]


@dataclass(frozen=True)
class Report:
    """A report of scores."""

    source: str
    first_ms: int  # close of the first and last candle that settled something, UTC
    last_ms: int
    messages: int
    rejected: int  # messages that are not scores
    period_ms: int
    steps: list[Step]  # by interval, the shortest first, and step


@dataclass
class Collected:
    """Scores as they are read: of each horizon the newest, for a corrected candle scores again."""

    rows: dict[tuple[str, int, str], dict[int, tuple[int, tuple[Any, ...]]]] = field(
        default_factory=dict
    )  # interval, step and symbol -> as_of_ms -> close_ms and the row
    messages: int = 0
    rejected: int = 0

    def take(self, value: bytes | None) -> None:
        """Take a message's value, whatever it is."""
        try:
            scores = Scores.decode(value)
        except InvalidScore:
            self.rejected += 1
            return
        self.messages += 1
        for score in scores.horizons:
            key = scores.interval, score.step, scores.symbol
            known = self.rows.setdefault(key, {})
            known[score.as_of_ms] = scores.close_ms, row_of(score)


def of_file(path: Path) -> Collected:
    """Return the scores in a file: values of the topic's messages, one a line.

    Raises:
        OSError: when it cannot be read.
    """
    collected = Collected()
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                collected.take(line)
    return collected


def of_topic(settings: KafkaSettings, progress: Progress) -> Collected:
    """Return the scores in the topic, up to its present end.

    Raises:
        KafkaError: when it cannot be read.
        HistoryError: when there is no such topic.
    """
    collected = Collected()
    uvloop.run(_read(settings, collected, progress))
    return collected


async def _read(settings: KafkaSettings, collected: Collected, progress: Progress) -> None:
    topic = settings.scores_topic
    numbers = await partitions_of(settings, topic)
    if not numbers:
        raise HistoryError(
            f"{topic}: expected a topic at {settings.bootstrap}, got none; python -m stream_app "
            "makes and fills it"
        )
    parts = [Partition(topic, number) for number in numbers]
    reader = kafka.consumer(settings, isolation_level="read_committed")
    async with kafka.connected(reader):
        starts = await reader.beginning_offsets(parts)
        ends = await reader.end_offsets(parts)
        total, done = sum(ends[part] - starts[part] for part in parts), 0
        async for records in kafka.read_to_end(reader, starts, ends):
            for record in records:
                collected.take(record.value)
            done += len(records)
            progress(done, total)


def report(collected: Collected, source: str, period_ms: int | None = None) -> Report:
    """Return the report of some scores.

    Args:
        collected: the scores.
        source: their topic or file.
        period_ms: length of a period; by default so that there are at most ``MOST_PERIODS``.

    Raises:
        ValueError: when there are none.
    """
    if not collected.rows:
        raise ValueError(
            f"{source}: expected scores, got none, and {collected.rejected} other messages; a "
            "worker publishes them once candles come after its first forecasts"
        )
    closes = [close for known in collected.rows.values() for close, _ in known.values()]
    first_ms, last_ms = min(closes), max(closes)
    period_ms = period_ms or next(
        (length for length in PERIODS_MS if (last_ms - first_ms) / length < MOST_PERIODS - 1),
        PERIODS_MS[-1],
    )
    keys = sorted({key[:2] for key in collected.rows}, key=lambda key: (INTERVALS_MS[key[0]], key))
    steps = [_step(collected, interval, step, period_ms) for interval, step in keys]
    counts = collected.messages, collected.rejected
    return Report(source, first_ms, last_ms, *counts, period_ms, steps)


def _step(collected: Collected, interval: str, step: int, period_ms: int) -> Step:
    of_symbols = {
        symbol: np.array([row for _, row in known.values()], dtype=ROW)
        for (its_interval, its_step, symbol), known in collected.rows.items()
        if (its_interval, its_step) == (interval, step)
    }
    closes = np.concatenate(
        [
            np.array([close for close, _ in collected.rows[interval, step, symbol].values()])
            for symbol in of_symbols
        ]
    )
    rows: Rows = np.concatenate(list(of_symbols.values()))
    worse = [
        symbol
        for symbol, own in sorted(of_symbols.items())
        if summarise(own, step).against_baseline == WORSE
    ]
    periods = list(_periods(rows, closes, step, period_ms))
    return Step(interval, summarise(rows, step), periods, len(of_symbols), worse)


def _periods(rows: Rows, closes: NDArray[np.int64], step: int, period_ms: int) -> Iterator[Period]:
    numbers = closes // period_ms
    for number in np.unique(numbers):
        yield Period(int(number) * period_ms, summarise(rows[numbers == number], step))


def as_json(made: Report) -> str:
    """Return the report as JSON."""
    return json.dumps(asdict(made), indent=1)


def date(millis: int, period_ms: int = DAY_MS) -> str:
    """Return a time as a report shows it: the date alone for periods of days."""
    form = "%Y-%m-%d" if period_ms >= DAY_MS else "%Y-%m-%d %H:%M"
    return f"{datetime.fromtimestamp(millis / 1000, UTC):{form}}"


def write(made: Report, path: Path) -> None:
    """Write the report as one HTML page, which loads nothing from elsewhere.

    Raises:
        OSError: when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html(made), encoding="utf-8")


def html(made: Report) -> str:
    """Return the page."""
    by_interval: dict[str, list[Step]] = {}
    for step in made.steps:
        by_interval.setdefault(step.interval, []).append(step)
    template = pages.template(
        TEMPLATE, date=lambda millis: date(millis, made.period_ms), percent=percent
    )
    return template.render(
        report=made,
        by_interval=by_interval,
        plots={name: figures.scores(list(_plotted(steps))) for name, steps in by_interval.items()},
    )


def _plotted(steps: Iterable[Step]) -> Iterator[figures.ScoredStep]:
    for step in steps:
        whole = step.summary
        of = [period.summary for period in step.periods]
        yield figures.ScoredStep(
            whole.step,
            [period.from_ms for period in step.periods],
            [summary.coverage.get("90") for summary in of],
            [summary.raw_coverage.get("90") for summary in of],
            [summary.baseline_skill for summary in of],
            whole.pit,
            whole.raw_pit,
        )


def percent(share: float | None) -> str:
    """Return a share per cent; a dash for none."""
    return pages.short(None if share is None else 100 * share, 1)
