"""``python -m local`` runs everything on this machine, ``python -m local kafka`` Kafka alone."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType
from typing import Final, NoReturn

from aiokafka.errors import KafkaError
from rich.console import Console

from local.accounting import Accounting, Summary
from local.broker import Broker, BrokerError
from local.demo import Demo, End, run_folder
from local.screen import LineScreen, LiveScreen, Screen, in_words
from local.settings import BrokerSettings, LocalSettings
from local.system import PartFailed, System
from shared import bundle, topics
from shared.settings import KafkaSettings

_EXPECTED: Final = (
    BrokerError, PartFailed, bundle.BundleError, topics.TopicError, KafkaError, OSError,
)  # fmt: skip

INTERRUPTED: Final = 130
"""The exit code of a run that was to go on until all is done, and was stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; return the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    # SIGINT too: a script's background command begins with it ignored, and would be deaf to it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # the parts log for themselves; what the follower meets while Kafka starts or ends is no news
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        if arguments[:1] == ["kafka"]:
            return run_kafka(BrokerSettings.read(arguments[1:], "python -m local kafka"))
        return run_all(LocalSettings.read(arguments, "python -m local"))
    except _EXPECTED as error:
        print(error, file=sys.stderr)
        return 1


def run_kafka(settings: BrokerSettings) -> int:
    """Run the embedded Kafka until SIGINT, SIGTERM or its own end."""
    try:
        with Broker(settings.data_dir, port=settings.kafka_port) as broker:
            print(broker.bootstrap, flush=True)
            _say(f"Kafka {broker.pid} runs until Ctrl-C; its log is {broker.log}")
            broker.wait_ended()
    except KeyboardInterrupt:
        _say("stopped")
    return 0


def run_all(settings: LocalSettings) -> int:
    """Run the whole system, watch it, and tell what came of it."""
    account = Accounting(bundle.load(settings.model).config.window_length)
    end = End.STOPPED
    try:
        end = _run(settings, account)
    except KeyboardInterrupt:
        _say("stopped while starting")
    finally:
        _report(account.summary(), as_json=settings.json_summary)
    _say(end.value)
    return exit_code(end, account.summary(), until_done=settings.exit_when_done)


def exit_code(end: End, summary: Summary, *, until_done: bool) -> int:
    """Return what a run that came to its end is worth."""
    if end is End.STOPPED:
        return INTERRUPTED if until_done else 0
    return 1 if end is End.STALLED or summary.missing_forecasts else 0


def _run(settings: LocalSettings, account: Accounting) -> End:
    began_s = time.monotonic()
    _say("starting Kafka")
    with run_folder(settings.data_dir) as folder, System(settings, folder) as system:
        _say(f"Kafka is up after {time.monotonic() - began_s:.1f} s: {system.bootstrap}")
        kafka = KafkaSettings.read([], "python -m local")
        kafka = kafka.model_copy(update={"bootstrap": system.bootstrap})
        with _screen(settings, system) as screen:
            end = asyncio.run(_watch(settings, kafka, system, account, screen, began_s=began_s))
        _say("stopping producer, worker, API and Kafka")
    return end


async def _watch(
    settings: LocalSettings,
    kafka: KafkaSettings,
    system: System,
    account: Accounting,
    screen: Screen,
    *,
    began_s: float,
) -> End:
    return await Demo(settings, kafka, system, account, began_s=began_s).run(screen)


def _screen(settings: LocalSettings, system: System) -> Screen:
    console = Console()
    if console.is_terminal and not settings.json_summary:
        return LiveScreen(system.addresses, console)
    places = system.addresses
    _say(f"dashboard {places.api}/dashboard, API {places.api}/docs, logs {places.logs}")
    _say(f"metrics {places.api}/metrics {places.worker}/metrics {places.producer}/metrics")
    return LineScreen()


def _report(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(summary)), flush=True)
        return
    latency = summary.latency_ms
    print(
        f"{summary.candles_in:,} candles, {summary.forecasts_out:,} forecasts, "
        f"{summary.missing_forecasts:,} missing, {summary.dead_letters:,} dead letters"
        + ("" if latency.p50 is None else f"; latency {in_words(latency)}"),
        flush=True,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
