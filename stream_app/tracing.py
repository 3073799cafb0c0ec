"""The worker's spans: one for each candle that gives something, one for each horizon it settles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shared.headers import pairs
from shared.traces import (
    Context,
    SpanKind,
    Traces,
    candle_trace,
    context_in,
    forecast_span,
)
from stream_app.pipeline import BatchResult


class BatchTraces:
    """The spans of one batch, by the places of its messages; made before it is published."""

    def __init__(self, traces: Traces, result: BatchResult, began_ns: int) -> None:
        self._traces = traces
        self._began_ns = began_ns
        self._scores: dict[int, Mapping[str, Any]] = {
            i: orjson.loads(encoded.value) for i, encoded in result.scores
        }
        self._made = dict(result.forecasts)
        self.contexts: dict[int, Context] = {
            i: traces.begin(
                candle_trace(forecast.symbol, forecast.interval, forecast.as_of_ms),
                forecast_span(forecast.id),
            )
            for i, forecast in self._made.items()
        }
        """Of each candle that gave a forecast or scores."""
        for i, scores in self._scores.items():
            if i not in self.contexts:
                trace_id = candle_trace(scores["symbol"], scores["interval"], scores["close_ms"])
                self.contexts[i] = traces.begin(trace_id)

    @property
    def headers(self) -> dict[int, list[tuple[str, bytes]]]:
        """What passes each candle's span on, in its forecast and its scores."""
        return {i: [context.header] for i, context in self.contexts.items()}

    def end(self, messages: Sequence[Any]) -> None:
        """End them all, once the broker has what they gave."""
        for i, context in self.contexts.items():
            if not context.is_sampled:
                continue
            message, made = messages[i], self._made.get(i)
            given = context_in(pairs(message.headers))
            follows = given is not None and given.trace_id == context.trace_id
            about: dict[str, str | int] = {
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": message.topic,
                "messaging.destination.partition.id": str(message.partition),
                "messaging.kafka.offset": message.offset,
                "messaging.batch.message_count": len(messages),
            }
            if made is not None:
                about |= {
                    "candlecast.symbol": made.symbol,
                    "candlecast.interval": made.interval,
                    "candlecast.forecast.id": made.id,
                    "candlecast.model.version": made.model_version,
                }
            self._traces.end(
                f"process {message.topic}",
                SpanKind.CONSUMER,
                context,
                self._began_ns,
                parent=given if follows else None,
                links=[] if given is None or follows else [given],
                attributes=about,
            )
        for i, scores in self._scores.items():
            self._end_scores(scores, self.contexts[i])

    def _end_scores(self, scores: Mapping[str, Any], candle: Context) -> None:
        symbol, interval = scores["symbol"], scores["interval"]
        for horizon in scores["horizons"]:
            trace_id = candle_trace(symbol, interval, horizon["as_of_ms"])
            context = self._traces.begin(trace_id)
            if not context.is_sampled:
                continue
            parent = Context(trace_id, forecast_span(horizon["forecast_id"]), context.is_sampled)
            self._traces.end(
                "score forecast",
                SpanKind.INTERNAL,
                context,
                self._began_ns,
                parent=parent,
                links=[candle],
                attributes={
                    "candlecast.symbol": symbol,
                    "candlecast.interval": interval,
                    "candlecast.forecast.id": horizon["forecast_id"],
                    "candlecast.horizon": horizon["step"],
                    "candlecast.pinball": horizon["pinball"],
                },
            )
