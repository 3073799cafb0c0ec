"""The paths that the API serves."""

from __future__ import annotations

import time
from typing import Final

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import ValidationError
from starlette.responses import Response

from api.bodies import FieldError, HealthAnswer, PredictAnswer, PredictRequest, ProbeAnswer
from api.openapi import PREDICT, PROBE
from api.predict import HistoryError, Predictor
from api.problems import invalid_body, problem, shown

JSON: Final = "application/json"


def predict_routes(predictor: Predictor) -> APIRouter:
    """Return the routes that the model answers."""
    router = APIRouter(tags=["forecasts"])

    @router.post("/predict", response_model=PredictAnswer, openapi_extra=PREDICT)
    async def predict(request: Request) -> Response:
        """Forecast the closes ahead of a history of candles.

        The same window, features and model as in the stream, so the same numbers. The history
        must be at least as long as the model needs; of a longer one the newest candles are used.
        """
        require_json(request)
        body = await request.body()
        received = time.perf_counter()
        history = read_request(body).history
        try:
            answer = predictor.answer(history, received)
        except HistoryError as error:
            reason = FieldError(field="history", rule=error.rule, message=str(error))
            raise problem(422, reason) from error
        return Response(answer.encode(), media_type=JSON)

    return router


def status_routes(predictor: Predictor, registry: CollectorRegistry) -> APIRouter:
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
        return ProbeAnswer(ok=True, detail=f"model {predictor.forecaster.model_version} is loaded")

    @router.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """Give this process's metrics to Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router


def read_request(body: bytes) -> PredictRequest:
    """Return the request in a body; raises ``ProblemError``."""
    if not body:
        message = 'expected {"history": [...]} as JSON, got nothing'
        raise problem(400, FieldError(field="body", rule="empty", message=message))
    try:
        return PredictRequest.__pydantic_validator__.validate_json(body)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise invalid_body(error) from None


def require_json(request: Request) -> None:
    """Refuse a body that its headers do not declare as plain JSON; raises ``ProblemError``."""
    declared = request.headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        _unsupported("content-type", JSON, declared)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        _unsupported("content-encoding", "identity", encoding)


def _unsupported(header: str, expected: str, got: str) -> None:
    message = f"expected {expected}, got {shown(got) if got else 'none'}"
    reason = FieldError(field=header, rule="unsupported", message=message)
    raise problem(415, reason)
