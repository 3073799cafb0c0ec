"""Every Prometheus metric: its name, kind, unit and meaning, in one place.

Times are in seconds, sizes in bytes. Each process makes its own group on its own registry.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

FAST_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
)  # fmt: skip
"""Buckets for work within a process and for requests."""

FLOW_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
"""Buckets for the way through Kafka, which may queue."""

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ProcessCollector(Collector):
    """CPU, memory, threads and open files of this process, by psutil, on every platform.

    The names are the ones that Prometheus client libraries share.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = time.time()

    def collect(self) -> Iterator[Metric]:
        """Yield the process's metrics as they are now."""
        with self._process.oneshot():
            cpu = self._process.cpu_times()
            memory = self._process.memory_info()
            threads = self._process.num_threads()
            files = self._process.num_fds() if hasattr(self._process, "num_fds") else 0
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time used, user and system.", cpu.user + cpu.system
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory.", float(memory.rss)
        )
        yield GaugeMetricFamily("process_threads", "Threads.", float(threads))
        yield GaugeMetricFamily("process_open_fds", "Open file descriptors.", float(files))
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start of the process, Unix time.", self._started
        )


class ModelMetrics:
    """Which model a serving process runs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.model = Info("candlecast_model", "The model that is served.", registry=registry)
        self.seconds = Histogram(
            "candlecast_inference_seconds",
            "Time of one model call, features included, whatever its batch.",
            registry=registry,
            buckets=FAST_SECONDS,
        )


class ProducerMetrics:
    """What the producer counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(ProcessCollector())
        self._count_candles(registry)
        self._count_polls(registry)
        self._measure_age(registry)
        self._watch_buffer(registry)

    def _count_candles(self, registry: CollectorRegistry) -> None:
        self.candles = Counter(
            "candlecast_candles_published",
            "Candles that the broker has acknowledged.",
            ["source"],
            registry=registry,
        )
        self.publications = Counter(
            "candlecast_publications",
            "Candles of Yahoo handed to the sink: closed, provisional, correction or rescaled.",
            ["kind"],
            registry=registry,
        )
        self.actions = Counter(
            "candlecast_corporate_actions",
            "Splits and dividends that took effect, one a symbol.",
            ["kind"],
            registry=registry,
        )
        self.rejects = Counter(
            "candlecast_rejects",
            "Rows of a source that are no valid candles and were left out, by reason.",
            ["reason"],
            registry=registry,
        )

    def _count_polls(self, registry: CollectorRegistry) -> None:
        self.polls = Counter(
            "candlecast_polls",
            "Requests for a symbol's candles: ok, empty, or the kind of error.",
            ["outcome"],
            registry=registry,
        )
        self.poll_seconds = Histogram(
            "candlecast_poll_seconds",
            "Time of one request for one symbol.",
            registry=registry,
            buckets=FLOW_SECONDS,
        )
        self.paused = Gauge(
            "candlecast_source_paused",
            "Whether a rate limit of Yahoo's pauses all symbols: the circuit is open.",
            registry=registry,
        )
        self.ticks = Counter(
            "candlecast_ticks",
            "Messages of the live stream: ok, unreadable, or a lost connection.",
            ["outcome"],
            registry=registry,
        )

    def _measure_age(self, registry: CollectorRegistry) -> None:
        self.publish_lag_seconds = Histogram(
            "candlecast_publish_lag_seconds",
            "From a candle's close to the broker's acknowledgement, of candles that closed "
            "after the start of the process; not of replays and corrections.",
            registry=registry,
            buckets=FLOW_SECONDS,
        )
        self.newest_close = Gauge(
            "candlecast_newest_close_timestamp_seconds",
            "Close of the newest candle published, Unix time.",
            ["symbol"],
            registry=registry,
        )
        self.staleness = Gauge(
            "candlecast_staleness_seconds",
            "How much older the newest candle is than the newest that the exchange's hours allow; "
            "minutes without a trade count.",
            ["symbol"],
            registry=registry,
        )

    def _watch_buffer(self, registry: CollectorRegistry) -> None:
        self.publish_seconds = Histogram(
            "candlecast_publish_seconds",
            "From handing a candle to the Kafka client to the broker's acknowledgement.",
            registry=registry,
            buckets=FLOW_SECONDS,
        )
        self.buffered = Gauge(
            "candlecast_buffered_candles",
            "Candles handed to the Kafka client and not acknowledged yet.",
            registry=registry,
        )
        self.buffer_full = Gauge(
            "candlecast_buffer_full",
            "Whether so many candles wait for Kafka that polling has stopped.",
            registry=registry,
        )


class WorkerMetrics(ModelMetrics):
    """What the stream worker counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        registry.register(ProcessCollector())
        self.candles = Counter(
            "candlecast_candles",
            "Candles taken from the topic, by what they did to their window.",
            ["outcome"],
            registry=registry,
        )
        self.forecasts = Counter(
            "candlecast_forecasts",
            "Forecasts that the broker has acknowledged.",
            registry=registry,
        )
        self.rejects = Counter(
            "candlecast_rejects",
            "Messages sent to the dead-letter topic, by reason.",
            ["reason"],
            registry=registry,
        )
        self.gaps = Counter(
            "candlecast_gaps",
            "Candles that opened later than one interval after their predecessor closed.",
            registry=registry,
        )
        self.latency_seconds = Histogram(
            "candlecast_forecast_latency_seconds",
            "From the broker's append of a candle to the acknowledgement of its forecast.",
            registry=registry,
            buckets=FLOW_SECONDS,
        )
        self.batch_size = Histogram(
            "candlecast_batch_candles",
            "Messages handled together in one micro-batch.",
            registry=registry,
            buckets=BATCH_SIZES,
        )
        self.model_seconds = Histogram(
            "candlecast_model_seconds",
            "Time of one call of the model's graph, features included, of up to 128 windows.",
            registry=registry,
            buckets=FAST_SECONDS,
        )
        self.send_seconds = Histogram(
            "candlecast_send_seconds",
            "From handing a micro-batch to the Kafka client to the broker's acknowledgement.",
            registry=registry,
            buckets=FAST_SECONDS,
        )
        self.windows = Gauge(
            "candlecast_windows", "Windows in the table of this worker.", registry=registry
        )
        self.window_bytes = Gauge(
            "candlecast_window_bytes", "Size of the windows in the table.", registry=registry
        )
        self.lag = Gauge(
            "candlecast_consumer_lag_messages",
            "Messages of a partition whose offsets are not committed yet.",
            ["partition"],
            registry=registry,
        )
        self.commit_age_seconds = Gauge(
            "candlecast_commit_age_seconds",
            "For how long the slowest partition has had work and committed none of it.",
            registry=registry,
        )
        self.recovery_seconds = Gauge(
            "candlecast_recovery_seconds",
            "Time from the last assignment of partitions to their windows being recovered.",
            registry=registry,
        )


class ApiMetrics(ModelMetrics):
    """What the API counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        registry.register(ProcessCollector())
        self.request_seconds = Histogram(
            "candlecast_request_seconds",
            "Time of a request, from its head to the last byte handed to the server.",
            ["method", "route", "status"],
            registry=registry,
            buckets=FAST_SECONDS,
        )
        self.forecasts = Counter("candlecast_forecasts", "Forecasts answered.", registry=registry)
        self.rejects = Counter(
            "candlecast_rejects", "Requests refused, by HTTP status.", ["reason"], registry=registry
        )
        self.candles = Counter(
            "candlecast_candles", "Candles in the histories received.", registry=registry
        )
        self.batch_size = Histogram(
            "candlecast_batch_histories",
            "Histories that shared one model call.",
            registry=registry,
            buckets=BATCH_SIZES,
        )
        self.connected = Gauge(
            "candlecast_stream_connected", "1 while Kafka's topics are followed.", registry=registry
        )
        self.lag = Gauge(
            "candlecast_stream_lag_messages",
            "Messages of the candles and forecasts topics that this process has not read yet.",
            registry=registry,
        )
        self.ignored = Counter(
            "candlecast_stream_ignored",
            "Messages of the topics that could not be used, by reason.",
            ["reason"],
            registry=registry,
        )
        self.subscribers = Gauge(
            "candlecast_subscribers", "Clients of the event stream.", registry=registry
        )
        self.dropped = Counter(
            "candlecast_subscribers_dropped",
            "Clients of the event stream that were dropped since they read too slowly.",
            registry=registry,
        )
        self.scores = Counter(
            "candlecast_scores", "Horizons scored against what came.", registry=registry
        )
