"""Requests to an application without a socket."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from api.app import Options, create_app
from api.edge.problems import Problem
from api.openapi import example_history
from shared.context import Closes
from shared.forecaster import Forecaster, ModelSet, Prediction
from shared.metrics import ApiMetrics
from tests.forecasters import PersistenceForecaster

LENGTH = 20


class Stub:
    """A forecaster that does as told."""

    model_version = "stub-1"
    intervals = ("1d",)
    context = None
    window_length = LENGTH
    horizons = (1,)
    quantile_levels = (0.05, 0.5, 0.95)

    def __init__(self, *, seconds: float = 0.0, fault: Exception | None = None) -> None:
        self.seconds = seconds
        self.fault = fault
        self.seen: NDArray[np.float64] | None = None

    def lengths(self, interval: str) -> tuple[int, ...]:
        del interval
        return (self.window_length,)

    def predict(
        self,
        candles: NDArray[np.float64],
        open_ms: NDArray[np.int64],
        context: Closes | None = None,
    ) -> Prediction:
        del open_ms, context
        self.seen = candles
        time.sleep(self.seconds)
        if self.fault:
            raise self.fault
        return Prediction(np.array([[[-0.1, 0.0, 0.1]]]), np.array([[0.02]]))


def application(
    forecaster: Forecaster | None = None,
    by_interval: dict[str, Forecaster] | None = None,
    **options: Any,
) -> ASGIApp:
    model = forecaster or PersistenceForecaster(LENGTH, horizons=(1, 5))
    registry = CollectorRegistry()
    models = ModelSet(model, by_interval or {})
    return create_app(models, ApiMetrics(registry), registry, replace(Options(), **options))


def call(app: ASGIApp, method: str, path: str, **request: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


def predict(app: ASGIApp, history: object) -> httpx.Response:
    return call(app, "POST", "/predict", json={"history": history})


def post(app: ASGIApp, body: bytes, path: str = "/predict") -> httpx.Response:
    return call(app, "POST", path, content=body, headers={"content-type": "application/json"})


def history(length: int = LENGTH) -> list[dict[str, Any]]:
    return [dict(candle) for candle in example_history(length)]


def problem_of(response: httpx.Response) -> Problem:
    """Return the problem document of an answer, after checking that it is one."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content)
    assert problem.status == response.status_code
    assert problem.title
    assert problem.detail
    assert problem.error == problem.detail
    assert set(response.json()) == {"type", "title", "status", "detail", "error", "errors"}
    return problem
