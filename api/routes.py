"""The paths of the model and of the service itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.batch import read_batch
from api.bodies import (
    FieldError,
    ForecastsAnswer,
    HealthAnswer,
    ModelCard,
    PredictAnswer,
    ProbeAnswer,
)
from api.histories import read_predict
from api.openapi import FORECASTS, METRICS, PREDICT, PROBE
from api.pieces import Pieces
from api.predict import HistoryError, Predictor
from api.problems import problem, shown

JSON: Final = "application/json"

Card = Callable[[], ModelCard]


class Bare(APIRoute):
    """A route whose function takes the request and returns the response, with nothing between.

    FastAPI describes it in the OpenAPI document; its validation of arguments and answers, which
    takes longer than the model, is left out.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def answer(content: Any) -> Response:
    """Return an answer in JSON."""
    return Response(orjson.dumps(content), media_type=JSON)


def predict_routes(predictor: Predictor, pieces: Pieces, card: Card) -> APIRouter:
    """Return the routes that the model answers."""
    router = APIRouter(tags=["forecasts"], route_class=Bare)

    @router.post("/predict", response_model=PredictAnswer, openapi_extra=PREDICT)
    async def predict(request: Request) -> Response:
        """Forecast the closes ahead of a history of candles.

        The same window, features and model as in the stream, so the same numbers. The history
        must be at least as long as the model needs; of a longer one the newest candles are used.
        """
        require_json(request)
        body = await read_small(request)
        received = time.perf_counter()
        try:
            return answer(await predictor.answer(read_predict(body), received))
        except HistoryError as error:
            reason = FieldError(field="history", rule=error.rule, message=str(error))
            raise problem(422, reason) from error

    @router.post("/v1/forecasts", response_model=ForecastsAnswer, openapi_extra=FORECASTS)
    async def forecasts(request: Request) -> Response:
        """Forecast the closes ahead of one or many histories, in full.

        Steps between the trained ones are interpolated: medians linearly in time, the distances
        of the quantiles from them, and the volatility, so that variances are linear in time.
        """
        require_json(request)
        body = await read_large(request)
        received = time.perf_counter()
        asked = await pieces.do(read_batch(body))
        _require_steps(asked.horizons, predictor.forecaster.horizons[-1])
        try:
            made = await pieces.do(predictor.forecasts(asked.histories, asked.horizons))
        except HistoryError as error:
            field = f"histories[{error.number}].candles"
            reason = FieldError(field=field, rule=error.rule, message=str(error))
            raise problem(422, reason) from error
        return answer(
            {
                "latency_ms": round((time.perf_counter() - received) * 1e3, 3),
                "model": card().model_dump(mode="json"),
                "forecasts": made,
            }
        )

    return router


def _require_steps(steps: tuple[int, ...] | None, longest: int) -> None:
    if steps is not None and steps[-1] > longest:
        message = f"expected steps of at most {longest}, got {steps[-1]}"
        raise problem(422, FieldError(field="horizons", rule="less_than_equal", message=message))


def status_routes(predictor: Predictor, registry: CollectorRegistry, card: Card) -> APIRouter:
    """Return the routes that operators and probes ask."""
    router = APIRouter(tags=["status"])

    @router.get("/")
    async def health() -> HealthAnswer:
        """Say that the API serves, and with which model."""
        return HealthAnswer(
            status="ok",
            model_version=predictor.forecaster.model_version,
            window_length=predictor.forecaster.window_length,
        )

    @router.get("/livez", openapi_extra=PROBE)
    async def live() -> ProbeAnswer:
        """Say that the process answers."""
        return ProbeAnswer(ok=True, detail="the event loop answers")

    @router.get("/readyz", openapi_extra=PROBE)
    async def ready() -> ProbeAnswer:
        """Say that requests can be answered."""
        return ProbeAnswer(ok=True, detail="the model is loaded")

    @router.get("/v1/model")
    async def model() -> ModelCard:
        """Give the model's card: version, training span, features, metrics, age."""
        return card()

    @router.get("/metrics", response_class=Response, openapi_extra=METRICS)
    async def metrics(request: Request) -> Response:
        """Give this process's metrics to Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router


async def read_small(request: Request) -> bytes:
    """Return a body that comes at once, as a rule."""
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_large(request: Request) -> bytearray:
    """Return a body that may be large, without the copy that ``Request.body`` makes of it."""
    body = bytearray()
    async for part in request.stream():
        body += part
    return body


def require_json(request: Request) -> None:
    """Refuse a body that its headers do not declare as plain JSON; raises ``ProblemError``."""
    declared = request.headers.get("content-type", "")
    if declared != JSON and declared.partition(";")[0].strip().lower() != JSON:
        _unsupported("content-type", JSON, declared)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        _unsupported("content-encoding", "identity", encoding)


def _unsupported(header: str, expected: str, got: str) -> None:
    message = f"expected {expected}, got {shown(got) if got else 'none'}"
    reason = FieldError(field=header, rule="unsupported", message=message)
    raise problem(415, reason)
