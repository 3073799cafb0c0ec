"""The paths that operators and probes ask."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import Field
from starlette.responses import Response

from api.edge.openapi import METRICS, PROBE
from api.forecast.bodies import ModelCard
from api.forecast.predict import Predictor
from api.forecast.routes import Card
from shared.messages import Message


class HealthAnswer(Message):
    """That the API serves, and which model."""

    status: str
    model_version: str
    window_length: int = Field(description="candles that a history must hold at least")


class ProbeAnswer(Message):
    """The answer to a probe, with the reason in words."""

    ok: bool
    detail: str


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
