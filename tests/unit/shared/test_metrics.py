from __future__ import annotations

import sys
import time

import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import (
    GROUPS,
    ApiMetrics,
    Metric,
    MetricGroup,
    ModelMetrics,
    WorkerMetrics,
    declared,
)


def test_a_name_means_one_thing_in_every_process() -> None:
    """The old names ``candlecast_rejects``, ``_candles`` and ``_forecasts`` had several."""
    meanings: dict[str, set[Metric]] = {}
    for group in GROUPS.values():
        for _, metric in declared(group):
            meanings.setdefault(metric.name, set()).add(metric)
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}
    assert not meanings.keys() & {
        "candlecast_rejects", "candlecast_candles", "candlecast_forecasts",
    }  # fmt: skip


@pytest.mark.parametrize("group", GROUPS.values())
def test_a_group_is_made_as_it_is_declared(group: type[MetricGroup]) -> None:
    registry = CollectorRegistry()
    made = group(registry)
    pages = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    for attribute, metric in declared(group):
        kind = metric.kind
        assert isinstance(getattr(made, attribute), kind)
        family = pages[f"{metric.name}_info" if kind is Info else metric.name]
        assert family.documentation == metric.help
        assert bool(metric.buckets) == (kind is Histogram)
        assert kind is not Counter or not metric.name.endswith("_total")


@pytest.mark.skipif(sys.platform != "linux", reason="prometheus_client reads /proc")
@pytest.mark.parametrize("group", GROUPS.values())
def test_every_process_shows_cpu_memory_and_files(group: type[MetricGroup]) -> None:
    registry = CollectorRegistry()
    group(registry)
    found = samples(generate_latest(registry).decode())
    process = psutil.Process()
    cpu = process.cpu_times()
    assert 0 < found["process_cpu_seconds_total", ()] <= cpu.user + cpu.system
    resident = found["process_resident_memory_bytes", ()]
    assert resident == pytest.approx(process.memory_info().rss, rel=0.1)
    assert 1 <= found["process_open_fds", ()] <= found["process_max_fds", ()]
    assert found["process_start_time_seconds", ()] <= time.time()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("group", GROUPS.values())
def test_metrics_are_named_as_prometheus_advises(group: type[MetricGroup]) -> None:
    registry = CollectorRegistry()
    group(registry)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert families
    for family in families:
        assert family.name.startswith(("candlecast_", "process_"))
        assert family.documentation.endswith(".")
        assert family.type != "unknown"
        assert "_ms" not in family.name
        if family.type == "histogram" and "batch" not in family.name:
            assert family.name.endswith("_seconds")


def test_histograms_have_rising_buckets_in_seconds() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.latency_seconds.observe(0.004)
    metrics.seconds.observe(0.0002)
    found = samples(generate_latest(registry).decode())
    assert found["candlecast_forecast_latency_seconds_bucket", ("0.0025",)] == 0
    assert found["candlecast_forecast_latency_seconds_bucket", ("0.005",)] == 1
    assert found["candlecast_batch_seconds_bucket", ("0.00025",)] == 1
    assert found["candlecast_batch_seconds_sum", ()] == pytest.approx(0.0002)


@pytest.mark.parametrize("group", [WorkerMetrics, ApiMetrics])
def test_serving_processes_name_their_model(group: type[ModelMetrics]) -> None:
    registry = CollectorRegistry()
    group(registry).model.info({"version": "m-1"})
    assert samples(generate_latest(registry).decode())["candlecast_model_info", ("m-1",)] == 1


def test_a_worker_counts_by_reason() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.rejects.labels("not_json").inc()
    metrics.candles.labels("appended").inc(2)
    found = samples(generate_latest(registry).decode())
    assert found["candlecast_dead_letters_total", ("not_json",)] == 1
    assert found["candlecast_candles_consumed_total", ("appended",)] == 2
