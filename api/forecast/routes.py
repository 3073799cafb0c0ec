"""Routes for forecasts on demand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from fastapi import Request
from starlette.responses import Response

from api.edge.keys import Scope
from api.edge.openapi import FORECASTS, PREDICT
from api.edge.problems import FieldError, problem
from api.edge.requests import (
    MAX_BODY_BYTES,
    MAX_LARGE_BODY_BYTES,
    answer,
    read_body,
    require_json,
)
from api.edge.routing import Routes
from api.edge.slicing import Slicer
from api.forecast.batch import read_batch
from api.forecast.bodies import ForecastsAnswer, ModelCard, PredictAnswer
from api.forecast.histories import HeldOf, Series, read_predict
from api.forecast.predict import Predictor, UnusableHistory

MakeCard = Callable[[], ModelCard]
"""Returns the card of the served model, with its age now."""


def predict_routes(predictor: Predictor, slicer: Slicer, card: MakeCard, held_of: HeldOf) -> Routes:
    """Return the routes that call the model; ``held_of`` gives the stream's own windows."""
    routes = Routes("forecasts")

    @routes.post(
        "/predict",
        scope=Scope.PREDICT,
        max_body_bytes=MAX_BODY_BYTES,
        response_model=PredictAnswer,
        openapi_extra=PREDICT,
    )
    async def predict(request: Request) -> Response:
        """Forecast the closes ahead of a history of candles.

        The same window, features and model as in the stream, so the same numbers as in the
        stream's ``raw_quantiles``: nothing here is calibrated. The history
        must be at least as long as the model needs; of a longer one the newest candles are used.
        """
        require_json(request)
        body = await read_body(request)
        received = time.perf_counter()
        try:
            return answer(await predictor.answer(read_predict(body), received))
        except UnusableHistory as error:
            reason = FieldError(field="history", rule=error.rule, message=str(error))
            raise problem(422, reason) from error

    @routes.post(
        "/v1/forecasts",
        scope=Scope.PREDICT,
        max_body_bytes=MAX_LARGE_BODY_BYTES,
        response_model=ForecastsAnswer,
        openapi_extra=FORECASTS,
    )
    async def create_forecasts(request: Request) -> Response:
        """Forecast the closes ahead of one or many histories, in full.

        Steps between the trained ones are interpolated: medians linearly in time, the distances
        of the quantiles from them, and the volatility, so that variances are linear in time.

        A history without candles is the stream's own, of the newest candles that this instance
        holds; 404 says why there is none, or that it is too short.

        A history with symbol and interval whose forecasts the stream has scored gets calibrated
        quantiles, corrected as the stream's next forecast of that series, and ``calibration`` says
        so. That is null, and the quantiles are the model's own, for any other, and where the
        stream is not followed.
        """
        require_json(request)
        body = await read_body(request)
        received = time.perf_counter()
        batch = await slicer.run(read_batch(body))
        histories = [
            history if len(history.candles) else _held(number, history, held_of)
            for number, history in enumerate(batch.histories)
        ]
        _require_steps(batch.horizons, predictor.longest_step(histories))
        try:
            forecasts = await slicer.run(predictor.forecasts(histories, batch.horizons))
        except UnusableHistory as error:
            given = batch.histories[error.number]
            field, message = f"histories[{error.number}].candles", str(error)
            if not len(given.candles):
                message += f" of {given.symbol} {given.interval} that the stream has here"
            reason = FieldError(field=field, rule=error.rule, message=message)
            raise problem(422 if len(given.candles) else 404, reason) from error
        return answer(
            {
                "latency_ms": round((time.perf_counter() - received) * 1e3, 3),
                "model": card().model_dump(mode="json"),
                "forecasts": forecasts,
            }
        )

    return routes


def _held(number: int, asked: Series, held_of: HeldOf) -> Series:
    held = held_of(("histories", number), asked.symbol or "", asked.interval or "")
    return replace(held, above=asked.above)


def _require_steps(steps: tuple[int, ...] | None, longest: int) -> None:
    if steps is not None and steps[-1] > longest:
        message = f"expected steps of at most {longest}, got {steps[-1]}"
        raise problem(422, FieldError(field="horizons", rule="less_than_equal", message=message))
