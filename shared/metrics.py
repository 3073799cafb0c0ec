"""Every Prometheus metric as data: name, kind, labels, buckets and meaning, by process.

A group is a class whose attributes declare them, as the fields of a dataclass do;
``docs/metrics.md`` and the tests read the same declarations. Times are in seconds, sizes in bytes.
A name means one thing: what differs between processes has another name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
)

FAST_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
)  # fmt: skip
"""Buckets for work within a process and for requests."""

FLOW_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
"""Buckets for the way through Kafka, which may queue."""

AGES_SECONDS: Final = (0, 60, 3_600, 86_400, 3 * 86_400, 7 * 86_400)
"""Buckets for the age of what was known: of the same close, to a week."""

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets for the members of a batch."""

OPEN_METRICS: Final = "application/openmetrics-text"
"""The media type of the newer of the two formats that Prometheus reads."""


def known_format(accept: str) -> str:
    """Return an Accept header that ``prometheus_client`` can read, for any that a client sends.

    It fails on versions and escapings that it does not know, and
    echoes those that it does.
    """
    return f"{OPEN_METRICS};version=1.0.0" if OPEN_METRICS in accept else ""


@dataclass(frozen=True)
class Metric:
    """A metric as a group declares it."""

    kind: type[Counter | Gauge | Histogram | Info]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def counter(name: str, help_: str, *labels: str) -> Counter:
    """Declare a counter; the group's constructor puts the real one in its place."""
    return cast("Counter", Metric(Counter, name, help_, labels))


def gauge(name: str, help_: str, *labels: str) -> Gauge:
    """Declare a gauge."""
    return cast("Gauge", Metric(Gauge, name, help_, labels))


def histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    """Declare a histogram."""
    return cast("Histogram", Metric(Histogram, name, help_, labels, buckets))


def info(name: str, help_: str) -> Info:
    """Declare a label that is its own value."""
    return cast("Info", Metric(Info, name, help_))


class MetricGroup:
    """The metrics of one process, made on its registry with those of the process itself.

    The latter are ``prometheus_client``'s own (CPU, memory, open files; on Linux).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        for attribute, metric in declared(type(self)):
            options: dict[str, Any] = {"buckets": metric.buckets} if metric.buckets else {}
            made = metric.kind(
                metric.name, metric.help, metric.labels, registry=registry, **options
            )
            setattr(self, attribute, made)


def declared(group: type[MetricGroup]) -> Iterator[tuple[str, Metric]]:
    """Yield the attribute and the declaration of each metric of a group."""
    for base in reversed(group.__mro__):
        for attribute, value in vars(base).items():
            if isinstance(value, Metric):
                yield attribute, value


class ModelMetrics(MetricGroup):
    """The metrics that every process has that serves a model."""

    model = info(
        "candlecast_model", "The version of the model that serves daily candles of any symbol."
    )
    champion = gauge(
        "candlecast_champion",
        "1 for each champion of the model store that is served; without any the built-in model is.",
        "interval",
        "symbols",
        "version",
    )
    promoted = gauge(
        "candlecast_champion_promoted_timestamp_seconds",
        "When each champion that is served was promoted, in seconds of the UTC epoch.",
        "interval",
        "symbols",
    )
    generation = gauge(
        "candlecast_champions_generation", "Generation of the champions file that is served."
    )
    swaps = counter("candlecast_model_swaps", "Times that other models were taken into service.")
    store_fault = gauge(
        "candlecast_model_store_fault",
        "1 while the model store or a champion in it cannot be used; the models before serve.",
    )
    context_close = gauge(
        "candlecast_context_close_timestamp_seconds",
        "Close of the newest candle of a context symbol that a model reads, Unix time.",
        "symbol",
        "interval",
    )
    context_rejects = counter(
        "candlecast_context_rejects",
        "Messages of the context topic that are not context candles, by reason.",
        "reason",
    )


class ProducerMetrics(MetricGroup):
    """The producer's metrics."""

    candles = counter(
        "candlecast_candles_published",
        "Candles that the broker has acknowledged, by source.",
        "source",
    )
    publications = counter(
        "candlecast_publications",
        "Candles of Yahoo handed to the sink: closed, provisional, correction or rescaled.",
        "kind",
    )
    actions = counter(
        "candlecast_corporate_actions",
        "Splits and dividends that took effect, counted for each symbol.",
        "kind",
    )
    rejects = counter(
        "candlecast_rows_rejected",
        "Rows of a source that are not valid candles and were left out, by reason.",
        "reason",
    )
    polls = counter(
        "candlecast_polls",
        "Requests for a symbol's candles: ok, empty, or the kind of error.",
        "outcome",
    )
    poll_seconds = histogram(
        "candlecast_poll_seconds", "Time of one request for one symbol.", FLOW_SECONDS
    )
    paused = gauge(
        "candlecast_source_paused",
        "1 while a rate limit of Yahoo's pauses all symbols: the circuit is open.",
    )
    ticks = counter(
        "candlecast_ticks",
        "Messages of the live stream: ok, unreadable, or a lost connection.",
        "outcome",
    )
    publish_lag_seconds = histogram(
        "candlecast_publish_lag_seconds",
        "From a candle's close to the broker's acknowledgement, of candles that closed after "
        "the start of the process; not of replays and corrections.",
        FLOW_SECONDS,
    )
    newest_close = gauge(
        "candlecast_newest_close_timestamp_seconds",
        "Close of the newest candle published, Unix time.",
        "symbol",
    )
    staleness = gauge(
        "candlecast_staleness_seconds",
        "How much older the newest candle is than the newest that the exchange's hours allow;"
        " minutes without a trade count.",
        "symbol",
    )
    publish_seconds = histogram(
        "candlecast_publish_seconds",
        "From handing a candle to the Kafka client to the broker's acknowledgement.",
        FLOW_SECONDS,
    )
    buffered = gauge(
        "candlecast_buffered_candles",
        "Candles handed to the Kafka client and not acknowledged yet.",
    )
    buffer_full = gauge(
        "candlecast_buffer_full", "1 while so many candles wait for Kafka that polling has stopped."
    )


class WorkerMetrics(ModelMetrics):
    """The stream worker's metrics."""

    seconds = histogram(
        "candlecast_batch_seconds",
        "Time of one micro-batch from its messages to its forecasts: decoding, windows, "
        "features and model, without Kafka.",
        FAST_SECONDS,
    )
    candles = counter(
        "candlecast_candles_consumed",
        "Candles taken from the topic, by what they did to their window.",
        "outcome",
    )
    forecasts = counter(
        "candlecast_forecasts_published", "Forecasts that the broker has acknowledged."
    )
    rejects = counter(
        "candlecast_dead_letters", "Messages sent to the dead-letter topic, by reason.", "reason"
    )
    untrained = counter(
        "candlecast_untrained_forecasts",
        "Forecasts of candles of an interval that the model was not trained on.",
        "interval",
    )
    context_age_seconds = histogram(
        "candlecast_context_age_seconds",
        "From the close of the context that a forecast used to that of its candle.",
        AGES_SECONDS,
    )
    contextless = counter(
        "candlecast_forecasts_without_context",
        "Forecasts without any context, of models that read one.",
    )
    context_wait_seconds = histogram(
        "candlecast_context_wait_seconds",
        "Time that candles have waited for a context candle of the same close.",
        FLOW_SECONDS,
    )
    context_late = counter(
        "candlecast_context_late",
        "Waits that ended without the context candle of the same close, by its symbol.",
        "symbol",
    )
    gaps = counter("candlecast_gaps", "Candles that opened later than their predecessor closed.")
    latency_seconds = histogram(
        "candlecast_forecast_latency_seconds",
        "From the broker's append of a candle to its append of the forecast, by its clock.",
        FLOW_SECONDS,
    )
    batch_size = histogram(
        "candlecast_batch_candles", "Messages handled together in one micro-batch.", BATCH_SIZES
    )
    model_seconds = histogram(
        "candlecast_model_seconds",
        "Time of one call of the model's graph, features included, of up to 128 windows.",
        FAST_SECONDS,
    )
    send_seconds = histogram(
        "candlecast_send_seconds",
        "From handing a micro-batch to the Kafka client to the broker's acknowledgement.",
        FAST_SECONDS,
    )
    send_retries = counter(
        "candlecast_send_retries", "Times that unacknowledged messages of a batch were sent again."
    )
    lost = counter(
        "candlecast_messages_lost",
        "Messages that were gone from the candles topic before the worker had read them.",
        "partition",
    )
    moved = counter(
        "candlecast_series_moved", "Times that a series came from another partition than before."
    )
    rebuilt = counter(
        "candlecast_windows_rebuilt", "Windows rebuilt from the candles topic at a recovery."
    )
    drifts = counter(
        "candlecast_drifts",
        "Times that a series began to drift: its outcomes no longer fall as the model says.",
        "interval",
    )
    drifting = gauge("candlecast_drifting_series", "Series that drift now.", "interval")
    drift_shift = gauge(
        "candlecast_drift_shift",
        "Mean of the series' newest 50 outcomes or so, in deviations of their forecasts; 0 is "
        "right.",
        "interval",
    )
    drift_spread = gauge(
        "candlecast_drift_spread",
        "Size of the series' newest 50 moves or so over that forecast, without calibration, the "
        "mean of the series; 1 is right.",
        "interval",
    )
    feature_psi = gauge(
        "candlecast_feature_psi",
        "Population stability index of a feature, newest windows against those of training; from "
        "500 sampled windows on; 0.25 and more is a significant change.",
        "interval",
        "feature",
    )
    clock_skew_seconds = gauge(
        "candlecast_clock_skew_seconds",
        "This machine's clock less the broker's, the way of an acknowledgement included.",
    )
    windows = gauge("candlecast_windows", "Windows in the table of this worker.")
    max_windows = gauge(
        "candlecast_windows_max", "Most windows that this worker holds (--max-series)."
    )
    forgotten = counter(
        "candlecast_series_forgotten", "Series forgotten after --forget-days without a candle."
    )
    window_bytes = gauge("candlecast_window_bytes", "Size of the windows in the table.")
    lag = gauge(
        "candlecast_consumer_lag_messages",
        "Messages of a partition whose offsets are not committed yet.",
        "partition",
    )
    commit_age_seconds = gauge(
        "candlecast_commit_age_seconds",
        "For how long the slowest partition has had work and committed none of it.",
    )
    recovery_seconds = gauge(
        "candlecast_recovery_seconds",
        "Time from the last assignment of partitions to their windows being recovered.",
    )


class ApiMetrics(ModelMetrics):
    """The API's metrics."""

    seconds = histogram(
        "candlecast_inference_seconds",
        "Time of one call of the model for requests, features included.",
        FAST_SECONDS,
    )
    request_seconds = histogram(
        "candlecast_request_seconds",
        "Time of a request, from its head to the last byte handed to the server.",
        FAST_SECONDS,
        "method",
        "route",
        "status",
    )
    forecasts = counter("candlecast_forecasts_answered", "Forecasts in answers to requests.")
    rejects = counter("candlecast_requests_refused", "Requests refused, by HTTP status.", "status")
    candles = counter("candlecast_history_candles", "Candles in the histories received.")
    batch_size = histogram(
        "candlecast_batch_histories", "Histories that shared one call of the model.", BATCH_SIZES
    )
    connected = gauge("candlecast_stream_connected", "1 while Kafka's topics are followed.")
    lag = gauge(
        "candlecast_stream_lag_messages",
        "Messages of the topics that this process has not read yet.",
    )
    ignored = counter(
        "candlecast_stream_ignored",
        "Messages of the topics that could not be used, by reason.",
        "reason",
    )
    series = gauge("candlecast_stream_series", "Series of the stream that are in memory.")
    series_bytes = gauge("candlecast_stream_series_bytes", "Size of these series, about.")
    forgotten = counter(
        "candlecast_stream_series_forgotten",
        "Series that went from memory, silent for longest: too many, or shares too small.",
    )
    subscribers = gauge("candlecast_subscribers", "Clients of the event stream.")
    dropped = counter(
        "candlecast_subscribers_dropped",
        "Clients of the event stream that were dropped since they read too slowly.",
    )
    scores = counter("candlecast_scores", "Scored horizons that were read from the scores topic.")
    coverage = gauge(
        "candlecast_coverage_ratio",
        "Share of the next closes inside 90 % intervals, of an interval's newest 2,000 scores: as "
        "published, and of the model alone.",
        "interval",
        "of",
    )
    skill = gauge(
        "candlecast_skill_ratio",
        "1 - loss / that of no model, of the same scores: quantiles against a baseline, medians "
        "against persistence.",
        "interval",
        "against",
    )
    scored = gauge("candlecast_scored_horizons", "Scores that these ratios are of.", "interval")


class TrainerMetrics(MetricGroup):
    """The metrics of ``trainer watch``."""

    attempts = counter(
        "candlecast_trainings",
        "Challengers trained, by interval, trigger (no champion, drift, schedule) and outcome: "
        "promoted, refused or failed.",
        "interval",
        "trigger",
        "outcome",
    )
    shadow_candles = gauge(
        "candlecast_shadow_candles",
        "Candles of a series that a challenger has forecast beside the champion, so far.",
        "interval",
    )
    waiting = gauge(
        "candlecast_challenger_waiting",
        "1 while the outcome of a training waits on this machine for the store to take it.",
        "interval",
    )
    skill = gauge(
        "candlecast_challenger_skill",
        "Share of the champion's pinball loss that the last challenger saved on unseen candles.",
        "interval",
    )
    training_seconds = histogram(
        "candlecast_training_seconds",
        "Time of one training.",
        (10, 30, 60, 120, 300, 600, 1200, 2400, 4800, 9600),
    )
    looked = gauge(
        "candlecast_trainer_looked_timestamp_seconds", "When the stream was last looked at, UTC."
    )


GROUPS: Final[dict[str, type[MetricGroup]]] = {
    "producer": ProducerMetrics,
    "worker": WorkerMetrics,
    "api": ApiMetrics,
    "trainer": TrainerMetrics,
}
"""The groups of metrics by process."""
