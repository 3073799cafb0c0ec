"""The paths of the Open Inference Protocol, version 2."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.edge.openapi import INFER, INFER_VERSION, MODEL, MODEL_VERSION
from api.edge.problems import FieldError, problem
from api.edge.requests import JSON, Bare, answer, read_large, require_json
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
from api.forecast.slicing import Pieces
from shared.window import even_times


def inference_routes(predictor: Predictor, pieces: Pieces, name: str) -> APIRouter:
    """Return the routes of one model."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=Bare)
    version = predictor.forecaster.model_version

    def require(request: Request) -> None:
        given = request.path_params
        if given["name"] != name:
            raise _unknown("name", name)
        if given.get("version", version) != version:
            raise _unknown("version", version)

    @router.get("/", include_in_schema=False)  # as the protocol's OpenAPI document has it
    @router.get("", response_model=ServerMeta)
    async def server(request: Request) -> Response:
        """Give the server's metadata."""
        del request
        return answer({"name": "candlecast", "version": "1", "extensions": []})

    @router.get("/health/live", response_model=Live)
    async def live(request: Request) -> Response:
        """Say that the server is live."""
        del request
        return answer({"live": True})

    @router.get("/health/ready", response_model=Ready)
    async def ready(request: Request) -> Response:
        """Say that the server can infer."""
        del request
        return answer({"live": True, "ready": True})

    @router.get("/models/{name}", response_model=ModelMeta, openapi_extra=MODEL)
    @router.get(
        "/models/{name}/versions/{version}", response_model=ModelMeta, openapi_extra=MODEL_VERSION
    )
    async def model(request: Request) -> Response:
        """Give the model's metadata: the names and forms of its tensors."""
        require(request)
        return Response(meta_of(predictor, name).encode(), media_type=JSON)

    @router.get("/models/{name}/ready", response_model=ModelReady, openapi_extra=MODEL)
    @router.get(
        "/models/{name}/versions/{version}/ready",
        response_model=ModelReady,
        openapi_extra=MODEL_VERSION,
    )
    async def model_ready(request: Request) -> Response:
        """Say that the model can infer."""
        require(request)
        return answer({"name": name, "ready": True})

    @router.post("/models/{name}/infer", response_model=InferAnswer, openapi_extra=INFER)
    @router.post(
        "/models/{name}/versions/{version}/infer",
        response_model=InferAnswer,
        openapi_extra=INFER_VERSION,
    )
    async def infer(request: Request) -> Response:
        """Give the distributions of the log return ahead of windows of candles."""
        require(request)
        require_json(request)
        body = await read_large(request)
        work = read_infer(body, predictor.forecaster.window_length)
        asked, windows = await pieces.do(work)
        times = even_times(len(windows), predictor.forecaster.window_length)
        made = await pieces.do(predictor.infer(windows, times))
        return Response(infer_answer(asked, name, version, made), media_type=JSON)

    return router


def _unknown(field: str, served: str) -> Exception:
    message = f"expected {served}, which is what is served, got another"
    return problem(404, FieldError(field=field, rule="unknown", message=message))
