"""``candlecast tail``: forecasts as they come, for people on a terminal and as JSON in a pipe."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import ClassVar, Final

from pydantic import Field
from rich.table import Table

from local.screen import close_time, interval_name, price
from shared import kafka, process, topics
from shared.forecasts import Forecast, InvalidForecast
from shared.kafka import KafkaSettings, Partition, Record
from shared.process import Exit
from shared.settings import CommaSeparated, own
from shared.terminal import Console

PROCESS: Final = "tail"
"""The command's name in its variables and log lines."""


class TailSettings(KafkaSettings):
    """Show forecasts as they come: a row each on a terminal, a line of JSON each in a pipe.

    Examples:
      candlecast tail                              the last 10, and then what comes
      candlecast tail --symbols AAPL,MSFT --lines 100
      candlecast tail --once > newest.jsonl        what there is, and no more
      candlecast tail | jq -c '[.symbol, .horizons[0].volatility]'
    """

    help_title: ClassVar[str] = "what is shown"

    model_config = own(PROCESS)

    symbols: CommaSeparated = Field((), description="only these symbols, by comma")
    lines: int = Field(10, ge=0, description="forecasts that are already there to begin with")
    once: bool = Field(default=False, description="end after those; by default wait for more")


def main(argv: Sequence[str] | None = None, prog: str = "candlecast tail") -> int:
    """Show forecasts until Ctrl-C; return the exit code."""
    settings = TailSettings.read(sys.argv[1:] if argv is None else argv, prog)

    def body() -> int:
        try:
            asyncio.run(_tail(settings))
        except BrokenPipeError:  # the reader, such as head, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE

    return process.live(
        PROCESS, settings.log_level, body, expected=(topics.TopicError, kafka.KafkaError)
    )


async def _tail(settings: TailSettings) -> None:
    numbers = await kafka.when_reachable(
        settings, lambda: topics.partitions_of(settings, settings.forecasts_topic)
    )
    if not numbers:
        raise topics.TopicError(
            f"topic {settings.forecasts_topic}: does not exist at {settings.bootstrap}; a worker "
            "makes it, as candlecast worker or candlecast demo"
        )
    partitions = [Partition(settings.forecasts_topic, number) for number in numbers]
    console = Console()
    show = Rows(console).show if console.is_terminal else print_json
    async with kafka.connected(kafka.consumer(settings)) as reader:
        starts = await reader.beginning_offsets(partitions)
        ends = await reader.end_offsets(partitions)
        for record in await _last(settings, reader, starts, ends):
            show(record)
        if settings.once:
            return
        async for records in kafka.follow(reader, ends):
            for record in records:
                if _is_chosen(record, settings):
                    show(record)


async def _last(
    settings: TailSettings,
    reader: kafka.Consumer,
    starts: dict[Partition, int],
    ends: dict[Partition, int],
) -> list[Record]:
    """Return the newest forecasts that are there, oldest first."""
    if not settings.lines:
        return []
    # of chosen symbols any number of others may lie between
    begin = {
        part: starts[part] if settings.symbols else max(starts[part], ends[part] - settings.lines)
        for part in starts
    }
    found: list[Record] = []
    async for records in kafka.read_to_end(reader, begin, ends):
        found += [record for record in records if _is_chosen(record, settings)]
        found = sorted(found, key=lambda record: record.timestamp)[-settings.lines :]
    return found


def _is_chosen(record: Record, settings: TailSettings) -> bool:
    key = (record.key or b"").decode(errors="replace")
    return not settings.symbols or key in settings.symbols


def print_json(record: Record) -> None:
    """Print a forecast as a line of JSON, in ASCII where it holds what may control a terminal.

    Any other message is named on standard error, and has no line in the output.
    """
    try:
        Forecast.decode(record.value)
    except InvalidForecast as error:
        print(_place(record, error), file=sys.stderr, flush=True)
        return
    line = (record.value or b"").decode()
    if not line.isprintable():
        line = json.dumps(json.loads(line))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _place(record: Record, error: InvalidForecast) -> str:
    return f"{record.partition}/{record.offset}: {error}"


class Rows:
    """Prints forecasts as rows with a head, for people."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._has_head = False

    def show(self, record: Record) -> None:
        """Print one forecast; what is none is named."""
        try:
            forecast = Forecast.decode(record.value)
        except InvalidForecast as error:
            self._console.print(_place(record, error), style="red")
            return
        self._console.print(row(forecast, with_head=not self._has_head))
        self._has_head = True


def row(forecast: Forecast, *, with_head: bool = False) -> Table:
    """Return a forecast as a table of one row; its columns have fixed widths."""
    first = forecast.horizons[0]
    low, *_, high = map(price, first.quantiles.values())
    table = Table(box=None, show_header=with_head, pad_edge=False)
    cells = []
    for name, width, cell in (
        ("after (UTC)", 16, close_time(forecast.as_of_ms)),
        ("symbol", 10, forecast.symbol),
        ("close", 12, price(forecast.last_close)),
        ("expected move", 14, f"± {expected_move(first.volatility, first.step):.2%}"),
        (f"+{first.step}: {interval_name(first)}", 25, f"{low} … {high}"),
        ("model", 18, forecast.model_version),
        ("", 10, f"of {forecast.model_interval}" if forecast.model_interval else ""),
    ):
        table.add_column(name, width=width, no_wrap=True)
        cells.append(cell)
    table.add_row(*cells)
    return table


def expected_move(volatility: float, steps: int) -> float:
    """Return the standard deviation of a return over some steps from that of one candle."""
    return float(volatility * steps**0.5)
