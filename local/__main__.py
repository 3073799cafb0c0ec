"""``python -m local``: runs everything on this machine, or Kafka alone."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from local import live_training
from local.accounting import Accounting, ModelScores, Summary
from local.broker import REPLICATION, BrokerError, first_port
from local.cluster import Cluster
from local.demo import Demo, End, run_folder
from local.screen import LineScreen, LiveScreen, Screen, in_words, to_try
from local.secured import Secured
from local.settings import (
    KAFKA_PORT,
    PROCESS,
    AclSettings,
    BrokerSettings,
    KafkaCommand,
    LocalCommand,
    LocalSettings,
)
from local.system import PartFailed, System
from shared import bundle, history, permissions, process, topics
from shared.files.series import HistoryError
from shared.kafka import KafkaError, KafkaSettings
from shared.process import Exit
from shared.terminal import Console

_EXPECTED: Final = (
    BrokerError, PartFailed, bundle.BundleError, HistoryError, topics.TopicError, KafkaError,
    OSError,
)  # fmt: skip


def main(argv: Sequence[str] | None = None, prog: str = "python -m local") -> int:
    """Run what the arguments ask for; return the exit code."""
    settings = LocalCommand.read(sys.argv[1:] if argv is None else argv, prog)
    return process.live(
        PROCESS,
        "WARNING",  # a person watches; --log-level is for the parts' logs
        lambda: _run_for_people(settings),
        expected=(),
        stopped=Exit.INTERRUPTED,
    )


def _run_for_people(settings: LocalCommand) -> int:
    """Run; what a person watches says by itself why it ended."""
    # the parts log for themselves; the follower's trouble while Kafka starts or ends is not news
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        if settings.acls is not None:
            return run_acls(settings.acls)
        if settings.kafka is not None:
            return run_kafka(settings.kafka)
    except _EXPECTED as error:
        _say(process.in_words(error))
        return Exit.FAILED
    return run_all(settings)


def run_kafka(settings: KafkaCommand) -> int:
    """Run the embedded Kafka until SIGINT, SIGTERM or its own end."""
    try:
        _say("starting Kafka")
        with (
            secrets_folder(settings) as secured,
            Cluster(
                settings.brokers,
                settings.data_dir,
                port=first_port(settings.kafka_port, KAFKA_PORT, settings.data_dir),
                secured=secured,
            ) as cluster,
        ):
            if secured is not None:
                asyncio.run(allow_services(secured, cluster.brokers[0].own_address))
                _say(f"users, passwords and certificates are in {secured.folder}")
            print(cluster.bootstrap, flush=True)
            for broker in cluster.brokers:
                _say(f"Kafka {broker.pid} runs until Ctrl-C; its log is {broker.log}")
            if settings.brokers > 1:
                _say(f"start services with --replication {min(settings.brokers, REPLICATION)}")
            cluster.wait_ended()
    except KeyboardInterrupt:
        _say("stopped")
    return Exit.DONE


def run_acls(settings: AclSettings) -> int:
    """Print what each service must be allowed, or allow it."""
    for service in settings.services:
        needed, principal = settings.needed(service), settings.principal.format(service=service)
        if settings.apply:
            asyncio.run(permissions.allow(settings, principal, needed))
            _say(f"{service}: {principal} may {', '.join(map(str, needed))}")
        else:
            print(f"# {service}", *permissions.commands(principal, needed), sep="\n", flush=True)
    return Exit.DONE


@contextmanager
def secrets_folder(settings: BrokerSettings) -> Iterator[Secured | None]:
    """Yield what locks the broker, if it shall be; in a temporary folder it goes with the run."""
    with ExitStack() as resources:
        if not settings.secure:
            yield None
        elif settings.data_dir is not None:
            yield Secured(settings.data_dir / "secrets")
        else:
            folder = tempfile.TemporaryDirectory(prefix="candlecast-secrets-")
            yield Secured(Path(resources.enter_context(folder)))


async def allow_services(secured: Secured, own_address: str) -> None:
    """Make the topics, and allow each service what it needs."""
    admin = KafkaSettings.read(secured.admin_flags(own_address), "python -m local")
    await topics.ensure(admin, topics.all_topics(admin))
    for service, needed in permissions.SERVICES.items():
        await permissions.allow(admin, service, needed(admin, topics.DEFAULT_GROUP))


def run_all(settings: LocalSettings) -> int:
    """Run the whole system, watch it, and print a summary."""
    account: Accounting | None = None
    end, error = End.STOPPED, ""
    resources = ExitStack()
    try:
        with resources:
            if settings.path is not None:  # the producer would say the same, after Kafka's start
                _say(f"reading {settings.path}")
                history.from_file(settings.path, settings.interval, settings.read_options())
            elif settings.source == "replay" and settings.symbols:
                history.bundled(settings.symbols)
            if settings.live_training:
                settings = resources.enter_context(live_training.prepared(settings, _say))
            config = bundle.load(settings.model).config
            account = Accounting(config.window_length, config.horizons)
            end = _run(settings, account)
    except KeyboardInterrupt:
        end = End.STOPPED_EARLY
    except _EXPECTED as failure:
        end, error = End.FAILED, process.in_words(failure)
    summary = account.summary() if account is not None and account.candles else None
    code = exit_code(end, summary, until_done=settings.exit_when_done)
    if not error and code != Exit.DONE:
        error = end.value if end is not End.DONE else "candles have no forecast, or no scores"
    models = account.models if account is not None and settings.live_training else {}
    _report(summary, error if code else "", models, as_json=settings.json_summary)
    _say(error if end is End.FAILED else end.value)
    return code


def exit_code(end: End, summary: Summary | None, *, until_done: bool) -> int:
    """Return the exit code of a run that came to its end."""
    if end in {End.STOPPED, End.STOPPED_EARLY}:
        return Exit.INTERRUPTED if until_done else Exit.DONE
    missing = summary is not None and summary.missing_forecasts + summary.missing_scores
    return Exit.FAILED if end is not End.DONE or missing else Exit.DONE


def _run(settings: LocalSettings, account: Accounting) -> End:
    began_s = time.monotonic()
    _say("starting Kafka")
    with (
        run_folder(settings.data_dir) as folder,
        secrets_folder(settings) as secured,
        System(settings, folder, secured) as system,
    ):
        _say(f"Kafka is up after {time.monotonic() - began_s:.1f} s: {system.bootstrap}")
        if secured is not None:
            asyncio.run(allow_services(secured, system.own_address))
        kafka = KafkaSettings.read(system.kafka_flags("local"), "python -m local")
        with _screen(settings, system) as screen:
            end = asyncio.run(_watch(settings, kafka, system, account, screen, began_s=began_s))
        trainer = "trainer, " if settings.live_training else ""
        _say(f"stopping {trainer}producer, worker, API and Kafka")
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
    for line in to_try(places):
        _say(f"try {line}")
    return LineScreen()


def _report(
    summary: Summary | None, error: str, models: Mapping[str, ModelScores], *, as_json: bool
) -> None:
    if as_json:
        counts = {} if summary is None else asdict(summary)
        if models:
            counts["models"] = {version: asdict(scores) for version, scores in models.items()}
        print(json.dumps({"ok": not error, "error": error or None, **counts}), flush=True)
        return
    if summary is None:
        return
    latency = summary.latency_ms
    print(
        f"{summary.candles_in:,} candles, {summary.forecasts_out:,} forecasts, "
        f"{summary.missing_forecasts:,} missing, {summary.dead_letters:,} dead letters"
        + ("" if latency.p50 is None else f"; latency {in_words(latency)}"),
        flush=True,
    )
    if summary.scores_out:
        raw, calibrated = summary.coverage.raw, summary.coverage.calibrated
        held = ", ".join(
            f"{100 * calibrated[name]:.1f} % in {name} % intervals ({100 * raw[name]:.1f} % raw)"
            for name in calibrated
        )
        print(
            f"{summary.scores_out:,} scores, {summary.missing_scores:,} missing; {held}", flush=True
        )
    print("\n".join(live_training.in_words(models)), end="\n" if models else "", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
