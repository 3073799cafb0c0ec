"""Routes of the stream: newest forecasts, past ones with outcomes, events, scores, status."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec
import numpy as np
import orjson
from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from api.edge.keys import Scope
from api.edge.openapi import EVENTS, HISTORY, RECORD, STREAM, SYMBOL
from api.edge.problems import FieldError, ProblemError, broken_field, problem
from api.edge.requests import answer
from api.edge.routing import Routes
from api.forecast.bodies import ModelCard
from api.forecast.histories import Series
from api.stream.bodies import (
    MOST_FEATURES,
    ForecastHistory,
    LatestForecasts,
    ScoresAnswer,
    StreamStatus,
    SymbolRecord,
    SystemState,
)
from api.stream.follower import StreamView
from api.stream.hub import CLOSING, RETRY, EventFilter, Subscription
from api.stream.market import KeptDrift, MarketSeries, quantile
from api.stream.pulse import SPAN_MS
from shared.candles import INTERVALS_MS
from shared.feature_drift import THRESHOLD
from shared.forecasts import Forecast
from shared.messages import Place, field_name
from shared.metrics import ApiMetrics
from shared.scores import entries, summarise

KINDS: Final = frozenset({"candle", "forecast", "score"})
"""Kinds of events that a client may choose."""

TOPICS: Final = ("candles", "forecasts", "scores")
"""Kinds of the topics, as ``StreamView.topics`` has them."""

MAX_SYMBOLS: Final = 1_000
"""Most symbols in one query."""

DEFAULT_COUNT: Final = 100
"""Candles of a history, where a query does not say."""

MAX_COUNT: Final = 1_000
"""Most candles of a history."""

RETRY_AFTER_S: Final = 2
"""Time that a client should wait while the topics are not followed."""

SCORES_KEPT_S: Final = 2.0
"""Time for which summaries of scores are reused."""

LOOK_S: Final = 0.1
"""Time between two looks whether the topics are followed, for a client that waits."""

REACH_S: Final = 2.0
"""Time that a client waits whose id is of an instance ahead of this one."""

MESSAGES_A_REQUEST: Final = 1_000
"""Kept messages that a client may have looked at for one request of its rate, as it resumes."""


@dataclass(frozen=True)
class StreamLimits:
    """How many clients may listen to events, and for how long."""

    streams: int = 200
    streams_a_client: int = 20
    heartbeat_s: float = 15.0
    longest_s: float = 3_600.0  # then it ends, and the client reconnects


def stream_routes(
    live: StreamView, metrics: ApiMetrics, card: Callable[[], ModelCard], limits: StreamLimits
) -> Routes:
    """Return the routes that serve the topics."""
    routes = Routes("stream")
    scores = _Scores(live)
    metrics.series.set_function(lambda: len(live.market.series))
    metrics.series_bytes.set_function(lambda: live.market.size)
    listeners = _Listeners(live, metrics, limits)

    @routes.get(
        "/v1/forecasts", scope=Scope.READ, response_model=LatestForecasts, openapi_extra=STREAM
    )
    async def list_forecasts(request: Request) -> Response:
        """Give the newest forecast of each symbol and interval, by symbol."""
        require_stream(live)
        return answer(latest_of(live.market.chosen(read_symbols(request), read_interval(request))))

    @routes.get(
        "/v1/forecasts/{symbol:path}/history",
        scope=Scope.READ,
        response_model=ForecastHistory,
        openapi_extra=HISTORY,
    )
    async def get_history(request: Request) -> Response:
        """Give the last candles of a symbol and the forecasts made at them, with outcomes."""
        count = read_count(request)
        series = find(live, request)
        candles = series.candles.newest(count)
        first_ms = candles[0].close_ms if candles else 0
        times = sorted(series.forecasts)
        chosen = [as_of for as_of in times if as_of >= first_ms][-count:]
        return answer(
            {
                "symbol": series.symbol,
                "interval": series.interval,
                "candles": [candle.as_json() for candle in candles],
                "forecasts": [series.past(as_of) for as_of in chosen],
            }
        )

    @routes.get(
        "/v1/forecasts/{symbol:path}",
        scope=Scope.READ,
        response_model=Forecast,
        openapi_extra=SYMBOL,
    )
    async def get_forecast(request: Request) -> Response:
        """Give the newest forecast of a symbol."""
        past = find(live, request).latest
        if past is None:
            raise _unknown(request.path_params["symbol"])
        return answer(orjson.Fragment(past.encoded))

    @routes.get("/v1/scores", scope=Scope.READ, response_model=ScoresAnswer, openapi_extra=STREAM)
    async def get_scores(request: Request) -> Response:
        """Give the live accuracy, coverage and drift of each symbol and of all together."""
        require_stream(live)
        return await scores.answer(read_symbols(request), read_interval(request))

    @routes.get(
        "/v1/scores/{symbol:path}",
        scope=Scope.READ,
        response_model=SymbolRecord,
        openapi_extra=RECORD,
    )
    async def get_record(request: Request) -> Response:
        """Give the newest scores of a symbol one by one, and what they say together.

        The summaries are of all the scores in the answer: of no more than ``limit`` of each step.
        """
        count = read_count(request)
        return answer(record_of(find(live, request), count))

    @routes.get("/v1/status", scope=Scope.READ, response_model=StreamStatus)
    async def get_status(request: Request) -> Response:
        """Give the state of the stream as this instance sees it, also while it is not followed."""
        del request
        return answer(status_of(live, card()))

    @routes.get("/v1/system", scope=Scope.READ, response_model=SystemState)
    async def get_system(request: Request) -> Response:
        """Give what passes through the topics over time, and what could not be used."""
        del request
        return answer(system_of(live))

    @routes.get("/v1/stream", scope=Scope.READ, response_class=Response, openapi_extra=EVENTS)
    async def stream_events(request: Request) -> Response:
        """Send candles, forecasts and scores as they arrive, as server-sent events.

        Events are named ``candle``, ``forecast`` and ``score``. The first one is ``hello``, after
        ``Last-Event-ID`` either ``resumed``, with all that was missed, or ``reset``: load again.
        An id is valid at every instance of the API, and after its restart. While the topics are
        not followed, as after a start, only comments come: a browser gives up for good on any
        other status than 200. A client that reads
        too slowly gets ``dropped``; ``closing`` says that the stream ends, as it does after an
        hour, when the key is revoked or loses its scope, and when the API stops: reconnect with
        the last id.
        """
        wanted = EventFilter(read_symbols(request), read_interval(request), read_kinds(request))
        return listeners.open(request, wanted)

    return routes


class _Listeners:
    """The clients of the event stream, within limits."""

    def __init__(self, live: StreamView, metrics: ApiMetrics, limits: StreamLimits) -> None:
        self._live = live
        self._hub = live.hub
        self._metrics = metrics
        self._limits = limits
        self._by_client: Counter[str] = Counter()
        self._dropped = 0

    def open(self, request: Request, wanted: EventFilter) -> Response:
        """Return the stream, which counts from now on.

        Raises:
            ProblemError: where there are too many, or the key's rate does not allow so long a
                way back to the last event.
        """
        client = request.scope.get("client_id") or (request.client.host if request.client else "")
        if self._by_client[client] >= self._limits.streams_a_client:
            raise _too_many(429, self._limits.streams_a_client, "of one client")
        if self._by_client.total() >= self._limits.streams:
            raise _too_many(503, self._limits.streams, "in all")
        if self._live.connected:
            self._charge(request)
        self._by_client[client] += 1
        self._metrics.subscribers.inc()
        return _EventStream(self._frames(wanted, request), lambda: self._close(client))

    def _close(self, client: str) -> None:
        self._by_client[client] -= 1
        self._by_client += Counter()  # forgets clients without a stream
        self._metrics.subscribers.dec()
        self._metrics.dropped.inc(self._hub.dropped - self._dropped)
        self._dropped = self._hub.dropped

    def _is_followed(self) -> bool:
        return self._live.connected

    def _charge(self, request: Request) -> None:
        """Charge the way back to the last event to the key's rate; raises ``ProblemError``."""
        charge: Callable[[int], None] | None = request.scope.get("charge")
        if charge is not None:
            last = request.headers.get("last-event-id", "")
            charge(self._hub.resume_length(last) // MESSAGES_A_REQUEST)

    async def _frames(self, wanted: EventFilter, request: Request) -> AsyncGenerator[bytes, None]:
        last = request.headers.get("last-event-id")
        if not self._live.connected:
            async for frames in self._until_followed(request):
                yield frames
            if not self._is_followed():
                return
            try:
                self._charge(request)
            except ProblemError:
                yield CLOSING
                return
        await self._hub.reach(last or "", REACH_S)
        subscription = self._hub.subscribe(wanted, last)
        try:
            async for frames in self._until_it_ends(subscription, request):
                yield frames
        finally:
            self._hub.unsubscribe(subscription)

    async def _until_followed(self, request: Request) -> AsyncIterator[bytes]:
        """Yield comments until the topics are followed; at the stream's end ``closing``."""
        is_admitted: Callable[[], bool] = request.scope.get("is_admitted", lambda: True)
        end_s = time.monotonic() + self._limits.longest_s
        next_s = 0.0
        while not self._live.connected:
            if time.monotonic() >= end_s or self._hub.is_shut or not is_admitted():
                yield CLOSING
                return
            if time.monotonic() >= next_s:
                yield RETRY + f": waiting: {self._live.detail}\n\n".encode()
                next_s = time.monotonic() + RETRY_AFTER_S
            await asyncio.sleep(LOOK_S)

    async def _until_it_ends(
        self, subscription: Subscription, request: Request
    ) -> AsyncIterator[bytes]:
        is_admitted: Callable[[], bool] = request.scope.get("is_admitted", lambda: True)
        end_s = time.monotonic() + self._limits.longest_s
        silence_s = min(self._limits.heartbeat_s, self._limits.longest_s)
        async for frames in subscription.frames(silence_s, lambda: self._hub.position):
            yield frames
            if time.monotonic() >= end_s or not is_admitted():
                yield CLOSING
                return


class _EventStream(StreamingResponse):
    """Sends events until they end or the client leaves, and says so however it ends."""

    def __init__(self, events: AsyncGenerator[bytes, None], close: Callable[[], None]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events
        self._close = close

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()
            await self._events.aclose()


class _Scores:
    """Summaries of all series, computed at most every two seconds: they are costly and wanted."""

    def __init__(self, live: StreamView) -> None:
        self._live = live
        self._computed_s = -SCORES_KEPT_S
        self._series: list[dict[str, Any]] = []
        self._overall: list[dict[str, Any]] = []
        self._lock = asyncio.Lock()

    async def answer(self, symbols: frozenset[str] | None, interval: str | None) -> Response:
        """Return the summaries of these series."""
        async with self._lock:
            if time.monotonic() - self._computed_s >= SCORES_KEPT_S:
                await self._compute()
        chosen = [
            series
            for series in self._series
            if (symbols is None or series["symbol"] in symbols)
            and interval in {None, series["interval"]}
        ]
        return answer({"overall": self._overall, "series": chosen})

    async def _compute(self) -> None:
        market = self._live.market
        summaries = []
        drifts: dict[str, list[KeptDrift]] = {}
        for number, series in enumerate(list(market.chosen())):
            if series.drift is not None:
                drifts.setdefault(series.interval, []).append(series.drift)
            if series.scores:
                steps = [asdict(summary) for summary in market.summaries(series)]
                drift = series.drift and msgspec.structs.asdict(series.drift)
                about = {"symbol": series.symbol, "interval": series.interval, "drift": drift}
                summaries.append({**about, "steps": steps})
            if number % 20 == 0:
                await asyncio.sleep(0)
        self._series = summaries
        psi = market.features.psi()
        self._overall = [
            {
                **scores,
                "drift": _mean_drift(drifts.get(scores["interval"], [])),
                "features": _most_drifted(psi.get(scores["interval"], {})),
            }
            for scores in overall_of(self._live)
        ]
        self._computed_s = time.monotonic()


def _mean_drift(drifts: Sequence[KeptDrift]) -> dict[str, Any] | None:
    """Return the drift of an interval's series, as ``IntervalDrift`` has it."""
    if not drifts:
        return None
    return {
        "series": len(drifts),
        "drifting": sum(drift.drifting > 0 for drift in drifts),
        "shift": sum(drift.shift for drift in drifts) / len(drifts),
        "spread": sum(drift.spread for drift in drifts) / len(drifts),
    }


def _most_drifted(psi: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the features with the largest indices, as ``FeaturePsi`` has them."""
    worst = sorted(psi, key=psi.__getitem__, reverse=True)[:MOST_FEATURES]
    return [{"feature": name, "psi": psi[name], "drifts": psi[name] >= THRESHOLD} for name in worst]


def status_of(live: StreamView, card: ModelCard) -> dict[str, Any]:
    """Return the state of the stream, as ``StreamStatus`` has it."""
    latencies = live.market.latencies_ms
    return {
        "connected": live.connected,
        "detail": live.detail,
        "kafka": live.kafka,
        "since_ms": live.since_ms,
        "lag": live.lag,
        "series": len(live.market.series),
        "subscribers": len(live.hub.subscriptions),
        "newest_ms": live.market.newest_made_ms,
        "latency_ms": {
            "p50": quantile(latencies, 0.5),
            "p95": quantile(latencies, 0.95),
            "count": len(latencies),
        }
        if latencies
        else None,
        "model": card.model_dump(mode="json"),
        "scores": overall_of(live, first=True),
    }


def system_of(live: StreamView) -> dict[str, Any]:
    """Return what passes through the topics, as ``SystemState`` has it."""
    topics = dict(zip(TOPICS, live.topics, strict=False))
    refused = sorted(live.pulse.refused.items(), key=lambda entry: -entry[1].count)
    newest = ((series.candles, series.latest) for series in live.market.chosen())
    return {
        "started_ms": live.started_ms,
        "topics": [
            {"kind": kind, "topic": topic, "newest_ms": live.pulse.newest_ms.get(topic)}
            for kind, topic in topics.items()
        ],
        "series": len(live.market.series),
        "waiting": sum(
            made is not None and bool(candles.closes_after(made.as_of_ms))
            for candles, made in newest
        ),
        "span_ms": SPAN_MS,
        "rates": [
            {
                "from_ms": from_ms,
                **{kind: span.messages[topic] for kind, topic in topics.items()},
                "lag": span.lag,
            }
            for from_ms, span in live.pulse.spans()
        ],
        "refused": [
            {
                "topic": topic,
                "reason": reason,
                "count": known.count,
                "newest_ms": known.appended_ms,
                "partition": known.partition,
                "offset": known.offset,
                "detail": known.detail,
            }
            for (topic, reason), known in refused
        ],
    }


def overall_of(live: StreamView, *, first: bool = False) -> list[dict[str, Any]]:
    """Return the summaries of each interval as ``IntervalScores``, of the first step or of all."""
    return [
        {"interval": interval, "steps": [asdict(step) for step in steps]}
        for interval, steps in live.market.overall(first=first).items()
    ]


def latest_of(many: Iterable[MarketSeries]) -> dict[str, Any]:
    """Return the newest forecasts of series, as ``LatestForecasts`` has them."""
    forecasts, behind = [], []
    for series in many:
        newest = series.latest
        if newest is None:
            continue
        forecasts.append(orjson.Fragment(newest.encoded))
        if closes := series.candles.closes_after(newest.as_of_ms):
            about = {"symbol": series.symbol, "interval": series.interval}
            behind.append({**about, "closes_ms": closes})
    return {"forecasts": forecasts, "behind": behind}


def record_of(series: MarketSeries, count: int) -> dict[str, Any]:
    """Return the newest scores of each step of a series, as ``SymbolRecord`` has them."""
    newest = [(step, table.newest(count)) for step, table in sorted(series.scores.items())]
    return {
        "symbol": series.symbol,
        "interval": series.interval,
        "drift": series.drift and msgspec.structs.asdict(series.drift),
        "steps": [
            {"summary": asdict(summarise(rows, step)), "scores": entries(rows)}
            for step, rows in newest
        ],
    }


def require_stream(live: StreamView) -> None:
    """Raise the 503 problem while the topics are not followed."""
    if not live.connected:
        headers = {"retry-after": str(RETRY_AFTER_S)}
        raise problem(503, detail=f"the stream is not followed now: {live.detail}", headers=headers)


def find(live: StreamView, request: Request) -> MarketSeries:
    """Return the series of the symbol in a path; of several intervals the newest."""
    require_stream(live)
    symbol = request.path_params["symbol"]
    chosen = [
        series
        for series in live.market.chosen(frozenset({symbol}), read_interval(request))
        if series.forecasts
    ]
    if not chosen:
        raise _unknown(symbol)
    return max(chosen, key=lambda series: max(series.forecasts))


def held_of(live: StreamView, place: Place, symbol: str, interval: str) -> Series:
    """Return the newest candles of a series that are kept; raises the 404 or 503 problem."""
    require_stream(live)
    series = live.market.series.get((symbol, interval))
    if series is None or not len(series.candles):
        others = [known.interval for known in live.market.chosen(frozenset({symbol}))]
        message = f"expected a series that the stream has, got {symbol} {interval}"
        if others:
            message += f"; of {symbol} it has {', '.join(others)}"
        field = field_name((*place, "interval" if others else "symbol"))
        raise problem(404, FieldError(field=field, rule="unknown", message=message))
    candles = list(series.candles)
    prices = np.array(
        [(kept.open, kept.high, kept.low, kept.close, kept.volume) for kept in candles]
    )
    opened = np.array([kept.open_ms for kept in candles], np.int64)
    return Series(prices, symbol, interval, candles[-1].close_ms, opened)


def read_symbols(request: Request) -> frozenset[str] | None:
    """Return the symbols in a query, None for all."""
    given = request.query_params.getlist("symbols")
    if not given:
        return None
    symbols = frozenset(name for part in given for name in part.split(",") if name)
    if len(symbols) > MAX_SYMBOLS:
        raise broken_field(("symbols",), "too_long", f"at most {MAX_SYMBOLS}", len(symbols))
    return symbols


def read_interval(request: Request) -> str | None:
    """Return the interval in a query, None for all."""
    interval = request.query_params.get("interval")
    if interval is not None and interval not in INTERVALS_MS:
        raise broken_field(("interval",), "unknown", f"one of {', '.join(INTERVALS_MS)}", "another")
    return interval


def read_kinds(request: Request) -> frozenset[str] | None:
    """Return the kinds of events in a query, None for all."""
    given = request.query_params.getlist("events")
    if not given:
        return None
    kinds = frozenset(kind for part in given for kind in part.split(","))
    if not kinds <= KINDS:
        raise broken_field(("events",), "unknown", f"some of {', '.join(sorted(KINDS))}", "others")
    return kinds


def read_count(request: Request) -> int:
    """Return the number of candles in a query."""
    given = request.query_params.get("limit", str(DEFAULT_COUNT))
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 0 < int(given) <= MAX_COUNT):
        raise broken_field(
            ("limit",), "out_of_range", f"a number from 1 to {MAX_COUNT}", given[:20]
        )
    return int(given)


def _unknown(symbol: str) -> Exception:
    message = f"expected a symbol that the stream has, got {symbol[:40]!r}"
    return problem(404, FieldError(field="symbol", rule="unknown", message=message))


def _too_many(status: int, limit: int, whose: str) -> Exception:
    message = f"expected at most {limit} event streams {whose}, got one more"
    reason = FieldError(field="streams", rule="too_many", message=message)
    return problem(status, reason, headers={"retry-after": "5"})
