"""The paths of the stream: newest forecasts, what came of old ones, events, scores, status."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson
from fastapi import Request
from starlette.responses import Response, StreamingResponse

from api.edge.keys import Scope
from api.edge.openapi import EVENTS, HISTORY, STREAM, SYMBOL
from api.edge.problems import FieldError, broken_field, problem
from api.edge.requests import answer
from api.edge.routing import Routes
from api.forecast.bodies import ModelCard
from api.stream.bodies import ForecastHistory, LatestForecasts, ScoresAnswer, StreamStatus
from api.stream.follower import Live
from api.stream.hub import CLOSING, Hub, Subscription, Wanted
from api.stream.market import MarketSeries, quantile
from shared.candles import INTERVALS_MS
from shared.forecasts import Forecast
from shared.metrics import ApiMetrics

KINDS: Final = frozenset({"candle", "forecast", "score"})
MAX_SYMBOLS: Final = 1_000
DEFAULT_COUNT: Final = 100
MAX_COUNT: Final = 1_000
RETRY_AFTER_S: Final = 2
SCORES_KEPT_S: Final = 2.0
REACH_S: Final = 2.0
"""How long a client waits whose id is of an instance that is ahead of this one."""


@dataclass(frozen=True)
class StreamLimits:
    """How many may listen, and for how long."""

    streams: int = 200
    streams_a_client: int = 20
    heartbeat_s: float = 15.0
    longest_s: float = 3_600.0  # then it ends, and the client comes back


def stream_routes(
    live: Live, metrics: ApiMetrics, card: Callable[[], ModelCard], limits: StreamLimits
) -> Routes:
    """Return the routes that the topics answer."""
    routes = Routes("stream")
    scores = _Scores(live)
    listeners = _Listeners(live.hub, metrics, limits)

    @routes.get(
        "/v1/forecasts", scope=Scope.READ, response_model=LatestForecasts, openapi_extra=STREAM
    )
    async def latest(request: Request) -> Response:
        """Give the newest forecast of each symbol and interval, by symbol."""
        require_stream(live)
        symbols, interval = read_symbols(request), read_interval(request)
        found = (one.latest for one in live.market.chosen(symbols, interval))
        fragments = [orjson.Fragment(one.encoded) for one in found if one is not None]
        return answer({"forecasts": fragments})

    @routes.get(
        "/v1/forecasts/{symbol:path}/history",
        scope=Scope.READ,
        response_model=ForecastHistory,
        openapi_extra=HISTORY,
    )
    async def history(request: Request) -> Response:
        """Give the last candles of a symbol and the forecasts made at them, with what came."""
        count = read_count(request)
        series = find(live, request)
        candles = series.candles[-count:]
        first_ms = candles[0].close_ms if candles else 0
        made = sorted(series.forecasts)
        chosen = [series.forecasts[at] for at in made if at >= first_ms][-count:]
        return answer(
            {
                "symbol": series.symbol,
                "interval": series.interval,
                "candles": [one.as_json() for one in candles],
                "forecasts": [one.as_json() for one in chosen],
            }
        )

    @routes.get(
        "/v1/forecasts/{symbol:path}",
        scope=Scope.READ,
        response_model=Forecast,
        openapi_extra=SYMBOL,
    )
    async def newest(request: Request) -> Response:
        """Give the newest forecast of a symbol."""
        past = find(live, request).latest
        if past is None:
            raise _unknown(request.path_params["symbol"])
        return answer(orjson.Fragment(past.encoded))

    @routes.get("/v1/scores", scope=Scope.READ, response_model=ScoresAnswer, openapi_extra=STREAM)
    async def all_scores(request: Request) -> Response:
        """Give the live accuracy, coverage and drift of each symbol and of all together."""
        require_stream(live)
        return await scores.answer(read_symbols(request), read_interval(request))

    @routes.get("/v1/status", scope=Scope.READ, response_model=StreamStatus)
    async def status(request: Request) -> Response:
        """Say how the stream is seen from here, whether or not it is followed."""
        del request
        return answer(status_of(live, card()))

    @routes.get("/v1/stream", scope=Scope.READ, response_class=Response, openapi_extra=EVENTS)
    async def stream(request: Request) -> Response:
        """Send candles, forecasts and scores as they come, as server-sent events.

        Events are named ``candle``, ``forecast`` and ``score``. The first one is ``hello``, after
        ``Last-Event-ID`` either ``resumed``, with all that was missed, or ``reset``: load anew.
        An id is good at every instance of the API, and after its restart. A client that reads too
        slowly is sent ``dropped``; ``closing`` says that the stream ends, as it does after an
        hour, when the key is revoked and when the API stops: come back with the last id.
        """
        require_stream(live)
        wanted = Wanted(read_symbols(request), read_interval(request), read_kinds(request))
        events = listeners.open(request, wanted)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    return routes


class _Listeners:
    """The clients of the event stream, no more than the limits allow."""

    def __init__(self, hub: Hub, metrics: ApiMetrics, limits: StreamLimits) -> None:
        self._hub = hub
        self._metrics = metrics
        self._limits = limits
        self._by_client: Counter[str] = Counter()
        self._dropped = 0

    def open(self, request: Request, wanted: Wanted) -> AsyncIterator[bytes]:
        """Return what to send; raises ``ProblemError`` where there are too many."""
        client = request.scope.get("client_id") or (request.client.host if request.client else "")
        if self._by_client[client] >= self._limits.streams_a_client:
            raise _too_many(429, self._limits.streams_a_client, "of one client")
        if self._by_client.total() >= self._limits.streams:
            raise _too_many(503, self._limits.streams, "in all")
        return self._frames(client, wanted, request)

    async def _frames(self, client: str, wanted: Wanted, request: Request) -> AsyncIterator[bytes]:
        self._by_client[client] += 1
        self._metrics.subscribers.inc()
        try:
            last = request.headers.get("last-event-id")
            await self._hub.reach(last or "", REACH_S)
            subscription = self._hub.subscribe(wanted, last)
            try:
                async for frames in self._until_it_ends(subscription, request):
                    yield frames
            finally:
                self._hub.unsubscribe(subscription)
        finally:
            self._by_client[client] -= 1
            self._by_client += Counter()  # forgets who has none
            self._metrics.subscribers.dec()
            self._metrics.dropped.inc(self._hub.dropped - self._dropped)
            self._dropped = self._hub.dropped

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


class _Scores:
    """Summaries of all series, made anew at most every two seconds: many ask, they cost much."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._made = -SCORES_KEPT_S
        self._series: list[dict[str, Any]] = []
        self._overall: list[dict[str, Any]] = []
        self._lock = asyncio.Lock()

    async def answer(self, symbols: frozenset[str] | None, interval: str | None) -> Response:
        """Return the summaries of these series."""
        async with self._lock:
            if time.monotonic() - self._made >= SCORES_KEPT_S:
                await self._make()
        chosen = [
            one
            for one in self._series
            if (symbols is None or one["symbol"] in symbols) and interval in {None, one["interval"]}
        ]
        return answer({"overall": self._overall, "series": chosen})

    async def _make(self) -> None:
        market = self._live.market
        made = []
        for number, series in enumerate(list(market.chosen())):
            if series.scores:
                steps = [asdict(one) for one in market.summaries(series)]
                made.append({"symbol": series.symbol, "interval": series.interval, "steps": steps})
            if number % 20 == 0:
                await asyncio.sleep(0)
        self._series, self._overall = made, [asdict(one) for one in market.overall()]
        self._made = time.monotonic()


def status_of(live: Live, card: ModelCard) -> dict[str, Any]:
    """Return the state of the stream, as ``StreamStatus`` has it."""
    latencies = live.market.latencies_ms
    overall = live.market.overall()
    return {
        "connected": live.connected,
        "detail": live.detail,
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
        "drift": asdict(overall[0].drift) if overall else None,
    }


def require_stream(live: Live) -> None:
    """Raise the 503 problem while the topics are not followed."""
    if not live.connected:
        headers = {"retry-after": str(RETRY_AFTER_S)}
        raise problem(503, detail=f"the stream is not followed now: {live.detail}", headers=headers)


def find(live: Live, request: Request) -> MarketSeries:
    """Return the series that a path names: of several intervals the one that is newest."""
    require_stream(live)
    symbol = request.path_params["symbol"]
    found = [
        one
        for one in live.market.chosen(frozenset({symbol}), read_interval(request))
        if one.forecasts
    ]
    if not found:
        raise _unknown(symbol)
    return max(found, key=lambda one: max(one.forecasts))


def read_symbols(request: Request) -> frozenset[str] | None:
    """Return the symbols that a query asks for, None if for all."""
    given = request.query_params.getlist("symbols")
    if not given:
        return None
    symbols = frozenset(one for part in given for one in part.split(",") if one)
    if len(symbols) > MAX_SYMBOLS:
        raise broken_field(("symbols",), "too_long", f"at most {MAX_SYMBOLS}", len(symbols))
    return symbols


def read_interval(request: Request) -> str | None:
    """Return the interval that a query asks for, None if for all."""
    interval = request.query_params.get("interval")
    if interval is not None and interval not in INTERVALS_MS:
        raise broken_field(("interval",), "unknown", f"one of {', '.join(INTERVALS_MS)}", "another")
    return interval


def read_kinds(request: Request) -> frozenset[str] | None:
    """Return the kinds of events that a query asks for, None if for all."""
    given = request.query_params.get("events")
    if given is None:
        return None
    kinds = frozenset(given.split(","))
    if not kinds <= KINDS:
        raise broken_field(("events",), "unknown", f"some of {', '.join(sorted(KINDS))}", "others")
    return kinds


def read_count(request: Request) -> int:
    """Return how many candles a query asks for."""
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
