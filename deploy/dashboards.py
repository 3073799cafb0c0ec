"""Grafana's dashboards as code: what each panel asks Prometheus, and what an answer means.

``docs/generate.py`` writes them to ``deploy/grafana/dashboards``, from where Grafana reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
)

WIDTH: Final = 24
"""Columns of Grafana's grid."""

HEIGHT: Final = 8
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True)
class Panel:
    """A graph over time: its queries by legend, and what a reader should see in it."""

    title: str
    unit: str  # as Grafana names it: s, short, bytes, percentunit
    queries: dict[str, str]  # by legend, in which {{label}} stands for a label's value
    meaning: str
    columns: int = 8
    floor: float | None = 0


@dataclass(frozen=True)
class Dashboard:
    """Panels of one subject."""

    uid: str
    title: str
    panels: Sequence[Panel]


def _by_interval(name: str, **labels: str) -> str:
    chosen = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return f"avg by (interval) (candlecast_{name}{{{chosen}}})"


def _rate(metric: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}[5m]))" if by else f"sum(rate({metric}[5m]))"


def _quantile(level: float, metric: str, *by: str) -> str:
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({level}, sum by ({labels}) (rate({metric}_bucket[5m])))"


def _spread(metric: str) -> dict[str, str]:
    return {f"p{level * 100:g}": _quantile(level, metric) for level in (0.5, 0.95, 0.99)}


def _mean(metric: str) -> str:
    return f"sum(rate({metric}_sum[5m])) / sum(rate({metric}_count[5m]))"


ALL: Final = (
    Dashboard(
        "candlecast-stream",
        "Candlecast: stream",
        (
            Panel(
                "Lag",
                "short",
                {"{{partition}}": "sum by (partition) (candlecast_consumer_lag_messages)"},
                "Messages not committed yet. A saw-tooth of one commit interval is normal; a "
                "rise on all partitions is too little CPU, on one a hot symbol.",
            ),
            Panel(
                "Candles in, forecasts out",
                "cps",
                {
                    "candles {{outcome}}": _rate("candlecast_candles_consumed_total", "outcome"),
                    "forecasts": _rate("candlecast_forecasts_published_total"),
                },
                "The two run together once the windows are full. `duplicate` and `redelivered` "
                "owe no forecast.",
            ),
            Panel(
                "Forecast latency",
                "s",
                _spread("candlecast_forecast_latency_seconds"),
                "From the broker's append of a candle to the acknowledgement of its forecast.",
            ),
            Panel(
                "Commit age",
                "s",
                {"{{instance}}": "candlecast_commit_age_seconds"},
                "For how long the slowest partition has had work and committed none: near 1 s. "
                "No value while Kafka does not answer.",
            ),
            Panel(
                "Work of a batch",
                "s",
                {
                    "decode, windows, model p95": _quantile(0.95, "candlecast_batch_seconds"),
                    "model p95": _quantile(0.95, "candlecast_model_seconds"),
                    "send p95": _quantile(0.95, "candlecast_send_seconds"),
                },
                "What a micro-batch takes, by its parts. Sending is two round trips.",
            ),
            Panel(
                "Candles in a batch",
                "short",
                {"mean": _mean("candlecast_batch_candles")},
                "1 to 10 is idle; steadily at --max-batch (512) is saturated.",
            ),
            Panel(
                "Dead letters",
                "cps",
                {"{{reason}}": _rate("candlecast_dead_letters_total", "reason")},
                "Messages that are not valid candles, by reason: `python -m stream_app dlq list`.",
            ),
            Panel(
                "Sent again, gaps, lost",
                "cps",
                {
                    "sent again": _rate("candlecast_send_retries_total"),
                    "gaps": _rate("candlecast_gaps_total"),
                    "series moved": _rate("candlecast_series_moved_total"),
                    "windows rebuilt": _rate("candlecast_windows_rebuilt_total"),
                },
                "Sending again is Kafka's trouble, a gap the source's; nights count as gaps.",
            ),
            Panel(
                "Windows",
                "short",
                {"{{instance}}": "candlecast_windows"},
                "Series in each worker's table; it halves when a second worker joins.",
            ),
        ),
    ),
    Dashboard(
        "candlecast-forecasts",
        "Candlecast: forecasts and scores",
        (
            Panel(
                "Forecasts published",
                "cps",
                {"{{instance}}": _rate("candlecast_forecasts_published_total", "instance")},
                "Forecasts that Kafka has acknowledged, by worker.",
                12,
            ),
            Panel(
                "Horizons scored",
                "cps",
                {"scored": _rate("candlecast_scores_total")},
                "Horizons whose candle has come, as the API reads their scores.",
                12,
            ),
            Panel(
                "Coverage of 90 % intervals",
                "percentunit",
                {
                    "{{interval}} published": _by_interval("coverage_ratio", of="published"),
                    "{{interval}} model alone": _by_interval("coverage_ratio", of="model"),
                },
                "Share of the next closes inside, of the newest 2,000 scores of an interval: 90 % "
                "is right; the model alone far from it is a model for other candles.",
                12,
            ),
            Panel(
                "Skill against no model",
                "percentunit",
                {"{{interval}}": _by_interval("skill_ratio", against="baseline")},
                "1 - pinball loss / that of a baseline without a model: below 0 the model harms.",
                12,
            ),
            Panel(
                "Drift of the outcomes",
                "short",
                {"{{interval}}": "sum by (interval) (candlecast_drifting_series)"},
                "Series whose outcomes no longer fall as the model says. A few are ordinary after "
                "news; most of an interval is a market that has changed.",
                12,
            ),
            Panel(
                "Drift of the features",
                "short",
                {
                    "{{interval}} {{feature}}": "topk by (interval) (5, max by (interval, feature) "
                    "(candlecast_feature_psi))"
                },
                "Population stability index of the newest windows against those of training, the "
                "five largest of an interval: 0.25 and more is a change. From 500 sampled "
                "forecasts on, one of 16.",
                12,
            ),
            Panel(
                "Forecasts on request",
                "cps",
                {"answered": _rate("candlecast_forecasts_answered_total")},
                "Forecasts in the API's answers.",
                12,
            ),
            Panel(
                "Series in the API",
                "short",
                {"{{instance}}": "candlecast_stream_series"},
                "Series that the API keeps to show.",
                12,
            ),
        ),
    ),
    Dashboard(
        "candlecast-models",
        "Candlecast: models",
        (
            Panel(
                "Models served",
                "short",
                {"{{version}}": "count by (version) (candlecast_model_info)"},
                "Processes by model served: two lines are a roll-out, or half of one.",
                12,
            ),
            Panel(
                "Age of the champions",
                "s",
                {
                    "{{interval}} {{symbols}}": "time() - max by (interval, symbols) "
                    "(candlecast_champion_promoted_timestamp_seconds)"
                },
                "Since each champion of the model store was promoted; none where the built-in "
                "model serves.",
                12,
            ),
            Panel(
                "Model store unusable",
                "short",
                {"{{job}} {{instance}}": "candlecast_model_store_fault"},
                "1 while the store or a champion in it cannot be used: what served before serves "
                "on, and /readyz says why.",
                12,
            ),
            Panel(
                "One call of the model",
                "s",
                {
                    "worker p50": _quantile(0.5, "candlecast_model_seconds"),
                    "worker p99": _quantile(0.99, "candlecast_model_seconds"),
                    "API p99": _quantile(0.99, "candlecast_inference_seconds"),
                },
                "Features included; of up to 128 windows.",
                12,
            ),
            Panel(
                "Histories in a call of the API",
                "short",
                {"mean": _mean("candlecast_batch_histories")},
                "Requests that shared one call of the model.",
                12,
            ),
            Panel(
                "Recovery of the windows",
                "s",
                {"{{instance}}": "candlecast_recovery_seconds"},
                "Of the last assignment of partitions; grows with the changelog.",
                12,
            ),
        ),
    ),
    Dashboard(
        "candlecast-producer",
        "Candlecast: producer",
        (
            Panel(
                "Candles published",
                "cps",
                {"{{source}}": _rate("candlecast_candles_published_total", "source")},
                "Candles that Kafka has acknowledged.",
            ),
            Panel(
                "Staleness",
                "s",
                {"{{symbol}}": "topk(10, candlecast_staleness_seconds)"},
                "How much older the newest candle is than what the exchange's hours allow: the "
                "ten worst symbols.",
            ),
            Panel(
                "Close to acknowledgement",
                "s",
                _spread("candlecast_publish_lag_seconds"),
                "Of candles that closed while the producer ran.",
            ),
            Panel(
                "Requests to Yahoo",
                "cps",
                {"{{outcome}}": _rate("candlecast_polls_total", "outcome")},
                "By outcome; `ok` and `empty` are good.",
            ),
            Panel(
                "Time of a request to Yahoo",
                "s",
                _spread("candlecast_poll_seconds"),
                "Of one symbol.",
            ),
            Panel(
                "Paused or full",
                "short",
                {
                    "paused by a rate limit": "max(candlecast_source_paused)",
                    "buffer full": "max(candlecast_buffer_full)",
                },
                "1 while Yahoo's rate limit pauses all symbols, or while Kafka takes nothing.",
            ),
            Panel(
                "Waiting for Kafka",
                "short",
                {"candles": "sum(candlecast_buffered_candles)"},
                "Candles handed to the client and not acknowledged.",
            ),
            Panel(
                "Handing over to acknowledgement",
                "s",
                _spread("candlecast_publish_seconds"),
                "Kafka's part of the way.",
            ),
            Panel(
                "Publications",
                "cps",
                {"{{kind}}": _rate("candlecast_publications_total", "kind")},
                "Closed, provisional, corrections, rescaled after a split.",
            ),
        ),
    ),
    Dashboard(
        "candlecast-api",
        "Candlecast: API",
        (
            Panel(
                "Requests",
                "reqps",
                {"{{status}}": _rate("candlecast_request_seconds_count", "status")},
                "By HTTP status.",
            ),
            Panel(
                "Time of a request p99",
                "s",
                {"{{route}}": _quantile(0.99, "candlecast_request_seconds", "route")},
                "By route; that of an event stream is its length.",
            ),
            Panel(
                "Refused",
                "reqps",
                {"{{status}}": _rate("candlecast_requests_refused_total", "status")},
                "Keys, rates, sizes and bodies that are not valid.",
            ),
            Panel(
                "Stream",
                "short",
                {"messages not read": "sum(candlecast_stream_lag_messages)"},
                "Of the topics; no value while they are not followed.",
            ),
            Panel(
                "Topics followed",
                "short",
                {"{{instance}}": "candlecast_stream_connected"},
                "1 while they are.",
            ),
            Panel(
                "Clients of the event stream",
                "short",
                {
                    "clients": "sum(candlecast_subscribers)",
                    "dropped a second": _rate("candlecast_subscribers_dropped_total"),
                },
                "One that reads too slowly is dropped.",
            ),
        ),
    ),
    Dashboard(
        "candlecast-resources",
        "Candlecast: resources",
        (
            Panel(
                "CPU",
                "short",
                {"{{job}} {{instance}}": "rate(process_cpu_seconds_total[5m])"},
                "Cores in use. Near 1 a worker's only core is full: add a worker.",
            ),
            Panel(
                "Memory",
                "bytes",
                {"{{job}} {{instance}}": "process_resident_memory_bytes"},
                "Resident; docker-compose.yml gives each service a limit.",
            ),
            Panel(
                "Open files",
                "percentunit",
                {"{{job}} {{instance}}": "process_open_fds / process_max_fds"},
                "Share of the limit.",
            ),
            Panel(
                "Windows in memory",
                "bytes",
                {"{{instance}}": "candlecast_window_bytes"},
                "The worker's table.",
                12,
            ),
            Panel(
                "Series in the API's memory",
                "bytes",
                {"{{instance}}": "candlecast_stream_series_bytes"},
                "At most 176 MiB.",
                12,
            ),
            Panel(
                "Disk that is free",
                "percentunit",
                {
                    "{{mountpoint}}": 'node_filesystem_avail_bytes{fstype!~"tmpfs|overlay"}'
                    " / node_filesystem_size_bytes"
                },
                "Of the machine that Kafka, Prometheus and the models are on.",
                12,
            ),
            Panel(
                "Clocks",
                "s",
                {"{{instance}}": "candlecast_clock_skew_seconds"},
                "The worker's clock less the broker's.",
                12,
                None,
            ),
        ),
    ),
)
"""Every dashboard."""


def queries() -> list[str]:
    """Return what all panels ask Prometheus."""
    return [query for board in ALL for panel in board.panels for query in panel.queries.values()]


def as_json(board: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    built = (
        dashboards.Dashboard(board.title)
        .uid(board.uid)
        .tags(["candlecast"])
        .timezone("browser")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .link(
            dashboards.DashboardLink("Candlecast")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["candlecast"])
            .as_dropdown(as_dropdown=True)
        )
        .with_variable(
            dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
    )
    for panel in board.panels:
        built = built.with_panel(_graph(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _graph(panel: Panel) -> TimeSeries:
    graph = (
        TimeSeries()
        .title(panel.title)
        .description(panel.meaning)
        .unit(panel.unit)
        .datasource(SOURCE)
        .height(HEIGHT)
        .span(panel.columns)
        .fill_opacity(8)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
    )
    if panel.floor is not None:
        graph = graph.min(panel.floor)
    for reference, (legend, query) in zip("ABCDEFGH", panel.queries.items(), strict=False):
        graph = graph.with_target(Dataquery().ref_id(reference).expr(query).legend_format(legend))
    return graph
