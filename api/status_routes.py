"""Routes for operators and probes: health, model card, metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import Field
from starlette.responses import Response

from api.edge.keys import Scope
from api.edge.openapi import METRICS, PROBE
from api.edge.requests import JSON, answer
from api.edge.routing import OPEN, Routes
from api.forecast.bodies import ModelCard
from api.forecast.predict import Predictor
from api.forecast.routes import MakeCard
from shared.catalogue import Catalogue
from shared.messages import Message
from shared.metrics import known_format
from shared.status import Health


class HealthAnswer(Message):
    """That the API serves, and which model."""

    status: str
    model_version: str
    window_length: int = Field(description="candles that a history must hold at least")


class ProbeAnswer(Message):
    """The answer to a probe, with the reason in words."""

    ok: bool
    detail: str


class ModelsAnswer(Catalogue):
    """Champions and versions of the model store, and how what serves is."""

    state: str = Field(description="what serves, or why not what the store says")


@dataclass(frozen=True)
class Views:
    """What the routes show."""

    predictor: Predictor
    card: MakeCard
    models: Callable[[], ModelsAnswer]
    liveness: Callable[[], Health]
    model_state: Callable[[], str]  # in words


def status_routes(registry: CollectorRegistry, views: Views) -> Routes:
    """Return the routes for operators and probes."""
    routes = Routes("status")
    predictor, card, liveness = views.predictor, views.card, views.liveness

    @routes.get("/", scope=Scope.READ, response_model=HealthAnswer)
    async def get_health(_: Request) -> Response:
        """Say that the API serves, and with which model."""
        return answer(
            HealthAnswer(
                status="ok",
                model_version=predictor.forecaster.model_version,
                window_length=predictor.forecaster.window_length,
            )
        )

    @routes.get("/livez", scope=OPEN, response_model=ProbeAnswer, openapi_extra=PROBE)
    async def get_liveness(_: Request) -> Response:
        """Say whether the process does its work; if not, why and since when."""
        return _probe(liveness())

    @routes.get("/readyz", scope=OPEN, response_model=ProbeAnswer, openapi_extra=PROBE)
    async def get_readiness(_: Request) -> Response:
        """Say that requests can be answered, and how the stream is."""
        state = views.model_state() or "the model is loaded"
        return _probe(Health(ok=True, detail=f"{state}; {liveness().detail}"))

    @routes.get("/v1/model", scope=Scope.READ, response_model=ModelCard)
    async def get_model(_: Request) -> Response:
        """Give the model's card: version, training span, features, metrics, age."""
        return answer(card())

    @routes.get("/v1/models", scope=Scope.READ, response_model=ModelsAnswer)
    async def list_models(_: Request) -> Response:
        """List the champions, and every version with its data, code, run and figures.

        A forecast's model_version is the version of one of them. Read again when the champions
        change.
        """
        return answer(views.models())

    @routes.get("/metrics", scope=Scope.ADMIN, response_class=Response, openapi_extra=METRICS)
    async def get_metrics(request: Request) -> Response:
        """Give this process's metrics to Prometheus."""
        encode, content_type = choose_encoder(known_format(request.headers.get("accept", "")))
        return Response(encode(registry), headers={"content-type": content_type})

    return routes


def _probe(health: Health) -> Response:
    said = ProbeAnswer(ok=health.ok, detail=health.detail)
    return Response(said.encode(), 200 if health.ok else 503, media_type=JSON)
