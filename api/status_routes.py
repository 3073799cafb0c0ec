"""Routes for operators and probes: health, model card, metrics."""

from __future__ import annotations

from fastapi import Request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import Field
from starlette.responses import Response

from api.edge.keys import Scope
from api.edge.openapi import METRICS, PROBE
from api.edge.requests import answer
from api.edge.routing import OPEN, Routes
from api.forecast.bodies import ModelCard
from api.forecast.predict import Predictor
from api.forecast.routes import MakeCard
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


def status_routes(predictor: Predictor, registry: CollectorRegistry, card: MakeCard) -> Routes:
    """Return the routes for operators and probes."""
    routes = Routes("status")

    @routes.get("/", scope=Scope.READ, response_model=HealthAnswer)
    async def health(_: Request) -> Response:
        """Say that the API serves, and with which model."""
        return answer(
            HealthAnswer(
                status="ok",
                model_version=predictor.forecaster.model_version,
                window_length=predictor.forecaster.window_length,
            )
        )

    @routes.get("/livez", scope=OPEN, response_model=ProbeAnswer, openapi_extra=PROBE)
    async def live(_: Request) -> Response:
        """Say that the process answers."""
        return answer(ProbeAnswer(ok=True, detail="the event loop answers"))

    @routes.get("/readyz", scope=OPEN, response_model=ProbeAnswer, openapi_extra=PROBE)
    async def ready(_: Request) -> Response:
        """Say that requests can be answered."""
        return answer(ProbeAnswer(ok=True, detail="the model is loaded"))

    @routes.get("/v1/model", scope=Scope.READ, response_model=ModelCard)
    async def model(_: Request) -> Response:
        """Give the model's card: version, training span, features, metrics, age."""
        return answer(card())

    @routes.get("/metrics", scope=Scope.ADMIN, response_class=Response, openapi_extra=METRICS)
    async def metrics(request: Request) -> Response:
        """Give this process's metrics to Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return routes
