"""The ASGI application: routes and middleware around one model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import orjson
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from api.background import Background
from api.edge.access import Access, AccessRules
from api.edge.logs import AccessLog
from api.edge.middleware import Measure
from api.edge.requests import BodyBudget
from api.edge.routing import Dispatch, Routes
from api.edge.slicing import Slicer
from api.edge.traced import Traced
from api.forecast.bodies import ModelCard
from api.forecast.inference_routes import inference_routes
from api.forecast.model_card import card_of
from api.forecast.predict import Predictor
from api.forecast.routes import predict_routes
from api.openapi import complete
from api.pages import page_routes
from api.status_routes import ModelsAnswer, Views, status_routes
from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from api.stream.routes import StreamLimits, held_of, stream_routes
from shared.catalogue import Catalogue
from shared.forecaster import ContextOf, Models, without_context
from shared.metrics import ApiMetrics
from shared.process import now_ms
from shared.status import Health
from shared.traces import Traces

NO_STORE: Final = Catalogue(store="", generation=0, champions=(), versions=())
"""What is listed of models that are of no store."""


@dataclass(frozen=True)
class Options:
    """Choices of an application; the defaults are those of a test."""

    catalogue: Callable[[], Catalogue] = lambda: NO_STORE
    model_state: Callable[[], str] = lambda: ""  # how the models are, in words
    access: AccessRules = field(default_factory=AccessRules)
    streams: StreamLimits = field(default_factory=StreamLimits)
    cors_origins: Sequence[str] = ()
    over_tls: bool = False
    log: AccessLog | None = None
    live: StreamView = field(default_factory=lambda: StreamView(Market(), Hub()))
    context_of: ContextOf = without_context
    background: Background = field(default_factory=Background)  # while it serves
    traces: Traces | None = None


def create_app(
    models: Models, metrics: ApiMetrics, registry: CollectorRegistry, options: Options
) -> ASGIApp:
    """Return the API over models; ``/metrics`` serves ``registry``, which has ``metrics``."""
    live = options.live
    predictor = Predictor(
        models,
        metrics,
        lambda *of: live.market.learned(*of) if live.connected else None,
        options.context_of,
    )
    forecaster = predictor.forecaster
    metrics.model.info({"version": forecaster.model_version})

    def card() -> ModelCard:
        return card_of(predictor.forecaster, now_ms())

    slicer = Slicer()
    described = [
        predict_routes(predictor, slicer, card, partial(held_of, live)),
        status_routes(registry, _views(predictor, card, options)),
        stream_routes(options.live, metrics, card, options.streams),
        inference_routes(predictor, slicer),
    ]
    app = _described_app(described, options)
    guarded = [route for routes in described for route in routes.guarded]
    document = complete(app.openapi(), guarded, forecaster.window_length, forecaster.horizons[-1])
    guarded += page_routes(orjson.dumps(document)).guarded
    dispatch = Dispatch(app, guarded, Access(options.access), BodyBudget(), slicer)
    return _surrounded(dispatch, metrics, options)


def _views(predictor: Predictor, card: Callable[[], ModelCard], options: Options) -> Views:
    def models() -> ModelsAnswer:
        return ModelsAnswer(state=options.model_state(), **dict(options.catalogue()))

    return Views(predictor, card, models, lambda: _health(options), options.model_state)


def _health(options: Options) -> Health:
    """Return what /livez says: of the work beside the requests, then of the stream."""
    health = options.background.health()
    return health if not health.ok else options.live.health()


def _described_app(described: Sequence[Routes], options: Options) -> FastAPI:
    """Return FastAPI's application, which has the life span and makes the OpenAPI document."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        options.background.start()
        try:
            yield
        finally:
            await options.background.stop()
            if options.log is not None:
                options.log.flush()

    app = FastAPI(
        title="Candlecast",
        version="1",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for routes in described:
        app.include_router(routes.router)
    return app


def _surrounded(inner: ASGIApp, metrics: ApiMetrics, options: Options) -> ASGIApp:
    """Return the application within the middleware that every answer passes, also a crash's."""
    if options.cors_origins:
        inner = CORSMiddleware(
            inner,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "last-event-id", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    measured = Measure(inner, metrics, options.log, over_tls=options.over_tls)
    return measured if options.traces is None else Traced(measured, options.traces)
