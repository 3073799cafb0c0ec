"""Requests to an application without a socket."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, TypeVar

import httpx
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from api.app import Options, create_app
from api.edge.problems import Problem
from api.forecast.slicing import Work
from api.openapi import example_history
from shared.forecaster import Forecaster
from shared.metrics import ApiMetrics
from tests.forecasters import PersistenceForecaster

LENGTH = 20

T = TypeVar("T")


def application(forecaster: Forecaster | None = None, **options: Any) -> ASGIApp:
    model = forecaster or PersistenceForecaster(LENGTH, horizons=(1, 5))
    registry = CollectorRegistry()
    return create_app(model, ApiMetrics(registry), registry, replace(Options(), **options))


def at_once(work: Work[T]) -> T:
    """Return what work in pieces returns."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


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
    return [dict(one) for one in example_history(length)]


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
