"""The application: routes, errors and middleware around one model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp

from api.access import Access, AccessRules
from api.bodies import MAX_BODY_BYTES, ModelCard
from api.card import card_of, name_of
from api.follower import Live
from api.hub import Hub
from api.inference_routes import inference_routes
from api.logs import AccessLog
from api.market import Market
from api.middleware import CRASH, BodyLimit, Direct, Measure
from api.openapi import describe
from api.pages import page_routes
from api.pieces import Pieces
from api.predict import Predictor
from api.problems import ProblemError, problem
from api.routes import predict_routes, status_routes
from api.stream_routes import StreamLimits, stream_routes
from shared.bundle import BundleConfig
from shared.forecaster import Forecaster
from shared.metrics import ApiMetrics
from shared.process import now_ms


@dataclass(frozen=True)
class Options:
    """What may differ from one application to another; the defaults are those of a test."""

    config: BundleConfig | None = None  # of the model, if it has a bundle
    access: AccessRules = field(default_factory=AccessRules)
    streams: StreamLimits = field(default_factory=StreamLimits)
    max_body_bytes: int = MAX_BODY_BYTES
    cors_origins: Sequence[str] = ()
    over_tls: bool = False
    log: AccessLog | None = None
    live: Live = field(default_factory=lambda: Live(Market(), Hub()))
    background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()  # while it serves


def create_app(
    forecaster: Forecaster, metrics: ApiMetrics, registry: CollectorRegistry, options: Options
) -> ASGIApp:
    """Return the API over one model; ``/metrics`` serves ``registry``, which has ``metrics``."""
    metrics.model.info({"version": forecaster.model_version})
    predictor = Predictor(forecaster, metrics)

    def card() -> ModelCard:
        return card_of(forecaster, options.config, now_ms())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work()) for work in options.background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if options.log is not None:
                options.log.flush()

    app = FastAPI(
        title="Candlecast",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={
            ProblemError: _on_problem,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_crash,
        },
    )
    pieces = Pieces()
    hot = predict_routes(predictor, pieces, card)
    app.include_router(hot)
    app.include_router(status_routes(predictor, registry, card))
    app.include_router(stream_routes(options.live, metrics, card, options.streams))
    app.include_router(inference_routes(predictor, pieces, name_of(forecaster, options.config)))
    app.include_router(page_routes())
    describe(app, forecaster.window_length)
    return _surrounded(app, hot, metrics, options)


def _surrounded(app: FastAPI, hot: APIRouter, metrics: ApiMetrics, options: Options) -> ASGIApp:
    """Return the application behind its doors.

    They stand outside of FastAPI's own layers, so that every answer passes them, that of a crash
    too, and the busiest path passes nothing else.
    """
    inner: ASGIApp = Direct(app, "POST", "/predict", hot)
    inner = BodyLimit(inner, options.max_body_bytes)
    inner = Access(inner, options.access)
    if options.cors_origins:
        inner = CORSMiddleware(
            inner,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "last-event-id", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return Measure(inner, metrics, options.log, over_tls=options.over_tls)


async def _on_problem(_: Request, error: ProblemError) -> Response:
    return error.response()


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    """Answer what the router itself refuses: an unknown path, a method that a path lacks."""
    detail = {
        404: f"{request.url.path}: no such path",
        405: f"{request.url.path}: does not answer {request.method}",
    }.get(error.status_code, error.detail)
    return problem(error.status_code, detail=detail, headers=error.headers).response()


async def _on_disconnect(_: Request, __: Exception) -> Response:
    """Answer nobody: the client left before its body had come."""
    return problem(400, detail="the client left before its body had come").response()


async def _on_crash(_: Request, __: Exception) -> Response:
    """Say nothing of the cause to the client; ``Measure`` logs it."""
    return CRASH.response()
