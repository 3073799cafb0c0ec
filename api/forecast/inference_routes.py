"""Routes of the Open Inference Protocol, version 2."""

from __future__ import annotations

from typing import Final

from fastapi import Request
from starlette.responses import Response

from api.edge.compression import MIN_PACKED_BYTES, accepted, pack, unpack
from api.edge.keys import Scope
from api.edge.openapi import INFER, INFER_VERSION, MODEL, MODEL_VERSION
from api.edge.problems import FieldError, problem
from api.edge.requests import JSON, MAX_LARGE_BODY_BYTES, OCTETS, answer, read_body, require_type
from api.edge.routing import Routes
from api.edge.slicing import Slicer
from api.forecast.inference import (
    BINARY_EXTENSION,
    InferContent,
    ModelMeta,
    ModelReady,
    ServerLive,
    ServerMeta,
    ServerReady,
    infer_content,
    json_length,
    meta_of,
    read_infer,
)
from api.forecast.model_card import name_of
from api.forecast.predict import Predictor
from shared.forecaster import Forecaster, lengths_of

JSON_LENGTH: Final = "inference-header-content-length"
"""The header with the length of the JSON before tensors in binary."""


def inference_routes(predictor: Predictor, slicer: Slicer) -> Routes:
    """Return the routes of the models that are served."""
    routes = Routes("open inference protocol", prefix="/v2")
    served = _Served(predictor, slicer)

    # the protocol's OpenAPI document has the slash
    @routes.get("/", scope=Scope.READ, include_in_schema=False)
    @routes.get("", scope=Scope.READ, response_model=ServerMeta)
    async def get_server(_: Request) -> Response:
        """Give the server's metadata."""
        return answer(ServerMeta(name="candlecast", version="1", extensions=(BINARY_EXTENSION,)))

    @routes.get("/health/live", scope=Scope.READ, response_model=ServerLive)
    async def get_server_live(_: Request) -> Response:
        """Say that the server is live."""
        return answer(ServerLive(live=True))

    @routes.get("/health/ready", scope=Scope.READ, response_model=ServerReady)
    async def get_server_ready(_: Request) -> Response:
        """Say that the server can infer."""
        return answer(ServerReady(live=True, ready=True))

    for path, with_model, with_infer, of in (
        ("/models/{name}", MODEL, INFER, ""),
        ("/models/{name}/versions/{version}", MODEL_VERSION, INFER_VERSION, "_version"),
    ):
        describe = routes.get(
            path,
            scope=Scope.READ,
            response_model=ModelMeta,
            openapi_extra=with_model,
            operation_id=f"get_served_model{of}",
        )
        describe(served.model)
        say_ready = routes.get(
            path + "/ready",
            scope=Scope.READ,
            response_model=ModelReady,
            openapi_extra=with_model,
            operation_id=f"get_served_model{of}_ready",
        )
        say_ready(served.model_ready)
        infer = routes.post(
            path + "/infer",
            scope=Scope.PREDICT,
            max_body_bytes=MAX_LARGE_BODY_BYTES,
            openapi_extra=with_infer,
            operation_id=f"infer{of}",
            response_class=Response,
        )
        infer(served.infer)
    return routes


class _Served:
    """The endpoints of the served models; any other gives a 404 problem."""

    def __init__(self, predictor: Predictor, slicer: Slicer) -> None:
        self._predictor = predictor
        self._slicer = slicer

    async def model(self, request: Request) -> Response:
        """Give the model's metadata: the names and forms of its tensors."""
        forecaster = self._model(request)
        name = name_of(forecaster)
        versions = {model.model_version: None for model in self._named(name)}
        return answer(meta_of(forecaster, name, tuple(versions)))

    async def model_ready(self, request: Request) -> Response:
        """Say that the model can infer."""
        return answer(ModelReady(name=name_of(self._model(request)), ready=True))

    async def infer(self, request: Request) -> Response:
        """Give the distributions of the log return ahead of windows of candles.

        Inputs and outputs are the tensors of the model's graph, in JSON or in binary, each for
        itself; a context may be left out, as one of which nothing is known. Request and answer may
        be in gzip or deflate.
        """
        forecaster = self._model(request)
        require_type(request, JSON, OCTETS, "")
        encoding = request.headers.get("content-encoding", "identity")
        packed = await read_body(request)
        body = await self._slicer.run(unpack(packed, encoding, request.scope["body_share"]))
        json_bytes = json_length(request.headers.get(JSON_LENGTH), len(body))
        given = await self._slicer.run(
            read_infer(body, json_bytes, lengths_of(forecaster), forecaster.context)
        )
        inference = self._predictor.infer(forecaster, given.candles, given.open_ms, given.context)
        prediction = await self._slicer.run(inference)
        version = forecaster.model_version
        content = await self._slicer.run(
            infer_content(given.request, name_of(forecaster), version, prediction)
        )
        return await self._respond(request, content)

    def _model(self, request: Request) -> Forecaster:
        """Return the model that a path names, the one for the whole of a request."""
        given = request.path_params
        named = self._named(given["name"])
        if not named:
            raise _unknown("name", name_of(self._predictor.forecaster))
        version = given.get("version", named[0].model_version)
        for forecaster in named:
            if forecaster.model_version == version:
                return forecaster
        raise _unknown("version", named[0].model_version)

    def _named(self, name: str) -> list[Forecaster]:
        """Return the models of a name, the one that answers without an interval first."""
        served = (self._predictor.forecaster, *self._predictor.models.all())
        return [model for model in served if name_of(model) == name]

    async def _respond(self, request: Request, content: InferContent) -> Response:
        headers = {"vary": "accept-encoding"}
        if content.json_bytes is not None:
            headers[JSON_LENGTH] = str(content.json_bytes)
        body = content.body
        encoding = accepted(request.headers.get("accept-encoding", ""))
        if encoding is not None and len(body) >= MIN_PACKED_BYTES:
            headers["content-encoding"] = encoding
            body = await self._slicer.run(pack(body, encoding))
        media_type = JSON if content.json_bytes is None else OCTETS
        return Response(body, media_type=media_type, headers=headers)


def _unknown(field: str, served: str) -> Exception:
    message = f"expected {served}, which is what is served, got another"
    return problem(404, FieldError(field=field, rule="unknown", message=message))
