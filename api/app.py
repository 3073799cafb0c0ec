"""The application: routes, errors and middleware around one model."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.bodies import MAX_BODY_BYTES
from api.middleware import BodyLimit, Measure
from api.openapi import describe
from api.predict import Predictor
from api.problems import ProblemError, problem
from api.routes import predict_routes, status_routes
from shared.forecaster import Forecaster
from shared.metrics import ApiMetrics

log = logging.getLogger(__name__)


def create_app(
    forecaster: Forecaster, registry: CollectorRegistry, *, max_body_bytes: int = MAX_BODY_BYTES
) -> FastAPI:
    """Return the API over one model; its metrics go to ``registry``, which ``/metrics`` serves."""
    metrics = ApiMetrics(registry)
    metrics.model.info({"version": forecaster.model_version})
    predictor = Predictor(forecaster, metrics)
    app = FastAPI(
        title="Candlecast",
        version="1.0.0",
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
    app.include_router(predict_routes(predictor))
    app.include_router(status_routes(predictor, registry))
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_middleware(Measure, metrics=metrics)  # outermost: it sees every answer
    describe(app, forecaster.window_length)
    return app


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
    """Say nothing of the cause to the client; the server logs it."""
    return problem(500, detail="an error on our side; it has been logged").response()
