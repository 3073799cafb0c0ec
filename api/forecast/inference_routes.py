"""The paths of the Open Inference Protocol, version 2."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from api.edge.keys import Scope
from api.edge.openapi import INFER, INFER_VERSION, MODEL, MODEL_VERSION
from api.edge.problems import FieldError, problem
from api.edge.requests import JSON, MAX_LARGE_BODY_BYTES, answer, read_large, require_json
from api.edge.routing import Routes
from api.forecast.inference import (
    InferAnswer,
    Live,
    ModelMeta,
    ModelReady,
    Ready,
    ServerMeta,
    infer_answer,
    meta_of,
    read_infer,
)
from api.forecast.predict import Predictor
from api.forecast.slicing import Slicer
from shared.window import even_times


def inference_routes(predictor: Predictor, slicer: Slicer, name: str) -> Routes:
    """Return the routes of one model."""
    routes = Routes("open inference protocol", prefix="/v2")
    version = predictor.forecaster.model_version

    def require(request: Request) -> None:
        given = request.path_params
        if given["name"] != name:
            raise _unknown("name", name)
        if given.get("version", version) != version:
            raise _unknown("version", version)

    # the protocol's OpenAPI document has the slash
    @routes.get("/", scope=Scope.READ, include_in_schema=False)
    @routes.get("", scope=Scope.READ, response_model=ServerMeta)
    async def server(request: Request) -> Response:
        """Give the server's metadata."""
        del request
        return answer({"name": "candlecast", "version": "1", "extensions": []})

    @routes.get("/health/live", scope=Scope.READ, response_model=Live)
    async def live(request: Request) -> Response:
        """Say that the server is live."""
        del request
        return answer({"live": True})

    @routes.get("/health/ready", scope=Scope.READ, response_model=Ready)
    async def ready(request: Request) -> Response:
        """Say that the server can infer."""
        del request
        return answer({"live": True, "ready": True})

    @routes.get("/models/{name}", scope=Scope.READ, response_model=ModelMeta, openapi_extra=MODEL)
    @routes.get(
        "/models/{name}/versions/{version}",
        scope=Scope.READ,
        response_model=ModelMeta,
        openapi_extra=MODEL_VERSION,
    )
    async def model(request: Request) -> Response:
        """Give the model's metadata: the names and forms of its tensors."""
        require(request)
        return Response(meta_of(predictor, name).encode(), media_type=JSON)

    @routes.get(
        "/models/{name}/ready", scope=Scope.READ, response_model=ModelReady, openapi_extra=MODEL
    )
    @routes.get(
        "/models/{name}/versions/{version}/ready",
        scope=Scope.READ,
        response_model=ModelReady,
        openapi_extra=MODEL_VERSION,
    )
    async def model_ready(request: Request) -> Response:
        """Say that the model can infer."""
        require(request)
        return answer({"name": name, "ready": True})

    @routes.post(
        "/models/{name}/infer",
        scope=Scope.PREDICT,
        max_body_bytes=MAX_LARGE_BODY_BYTES,
        response_model=InferAnswer,
        openapi_extra=INFER,
    )
    @routes.post(
        "/models/{name}/versions/{version}/infer",
        scope=Scope.PREDICT,
        max_body_bytes=MAX_LARGE_BODY_BYTES,
        response_model=InferAnswer,
        openapi_extra=INFER_VERSION,
    )
    async def infer(request: Request) -> Response:
        """Give the distributions of the log return ahead of windows of candles."""
        require(request)
        require_json(request)
        body = await read_large(request)
        work = read_infer(body, predictor.forecaster.window_length)
        asked, windows = await slicer.run(work)
        times = even_times(len(windows), predictor.forecaster.window_length)
        made = await slicer.run(predictor.infer(windows, times))
        return Response(infer_answer(asked, name, version, made), media_type=JSON)

    return routes


def _unknown(field: str, served: str) -> Exception:
    message = f"expected {served}, which is what is served, got another"
    return problem(404, FieldError(field=field, rule="unknown", message=message))
