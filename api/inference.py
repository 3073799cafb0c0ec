"""The Open Inference Protocol, version 2 (REST): the model as inference platforms ask for it.

The protocol's extension "binary data" is not offered; errors are problem documents, as everywhere.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from pydantic.json_schema import SkipJsonSchema

from api.bodies import Body, FieldError
from api.histories import are_valid
from api.predict import Predictor
from api.problems import invalid_body, problem
from shared.forecaster import Prediction
from shared.messages import Message

MAX_WINDOWS: Final = 1_000
INPUT: Final = "candles"
OUTPUTS: Final = ("log_return", "volatility")


class TensorData(Message):
    """One tensor with its numbers."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any] = Field(description="flat, in row-major order, or nested")


class InputTensor(Body):
    """Windows of candles: open, high, low, close, volume; oldest first."""

    name: Literal["candles"]
    shape: tuple[int, int, int] = Field(description="windows, candles of each, 5")
    datatype: Literal["FP64", "FP32"]
    data: list[Any] = Field(description="flat, in row-major order, or nested")
    parameters: dict[str, Any] = Field(default_factory=dict)


class WantedOutput(Body):
    """The name of a tensor that the answer shall hold."""

    name: Literal["log_return", "volatility"]
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(Body):
    """An inference request."""

    id: Annotated[str, Field(max_length=256)] | SkipJsonSchema[None] = None
    inputs: Annotated[tuple[InputTensor, ...], Field(min_length=1, max_length=1)]
    outputs: Annotated[tuple[WantedOutput, ...], Field(max_length=2)] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferAnswer(Message):
    """An inference response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: tuple[TensorData, ...]


class TensorMeta(Message):
    """The form of a tensor; -1 is any size."""

    name: str
    shape: tuple[int, ...]
    datatype: str


class ModelMeta(Message):
    """A model's metadata."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]


class ServerMeta(Message):
    """The server's metadata."""

    name: str
    version: str
    extensions: tuple[str, ...]


class Live(Message):
    """Whether the server is live."""

    live: bool


class Ready(Message):
    """Whether the server, or a model, is ready."""

    ready: bool


def meta_of(predictor: Predictor, name: str) -> ModelMeta:
    """Return the metadata of the model that is served."""
    model = predictor.forecaster
    horizons, levels = len(model.horizons), len(model.quantile_levels)
    return ModelMeta(
        name=name,
        versions=(model.model_version,),
        platform="onnx_onnxruntime",
        inputs=(TensorMeta(name=INPUT, shape=(-1, model.window_length, 5), datatype="FP64"),),
        outputs=(
            TensorMeta(name=OUTPUTS[0], shape=(-1, horizons, levels), datatype="FP64"),
            TensorMeta(name=OUTPUTS[1], shape=(-1, horizons), datatype="FP64"),
        ),
    )


def read_infer(body: bytes) -> InferRequest:
    """Return the request in a body; raises ``ProblemError``."""
    try:
        return InferRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from None


def windows_of(tensor: InputTensor, window_length: int) -> NDArray[np.float64]:
    """Return the windows in a tensor, (B, T, 5), as a window holds them: rounded to 32 bits.

    Raises:
        ProblemError: naming the part of the tensor and the rule.
    """
    batch, candles, columns = tensor.shape
    if not 0 < batch <= MAX_WINDOWS or columns != 5 or candles < window_length:
        expected = f"[1 to {MAX_WINDOWS}, at least {window_length}, 5]"
        raise _bad("shape", "shape", expected, list(tensor.shape))
    try:
        numbers = np.array(tensor.data)
    except ValueError:  # rows of different lengths
        raise _bad("data", "shape", "rows of one length", "others") from None
    if numbers.dtype.kind not in "if":
        raise _bad("data", "float_type", "numbers alone", "others")
    if numbers.size != math.prod(tensor.shape):
        raise _bad("data", "shape", f"{math.prod(tensor.shape)} numbers", numbers.size)
    flat = numbers.astype(np.float64).reshape(-1, 5)
    if not are_valid(flat):
        raise _bad("data", "inconsistent", "candles whose prices agree", "others")
    windows = flat.reshape(batch, candles, 5)[:, -window_length:]
    return windows.astype(np.float32).astype(np.float64)


def infer_answer(request: InferRequest, name: str, version: str, made: Prediction) -> bytes:
    """Return the answer to a request; raises ``ProblemError`` when a number is not finite."""
    tensors = {"log_return": made.log_return, "volatility": made.volatility}
    if not all(np.isfinite(one).all() for one in tensors.values()):
        raise _bad("data", "not_finite", "prices that a finite forecast follows from", "others")
    wanted = [one.name for one in request.outputs] or list(OUTPUTS)
    content: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not None:
        content["id"] = request.id
    content["outputs"] = [
        {
            "name": one,
            "shape": list(tensors[one].shape),
            "datatype": "FP64",
            "data": np.ascontiguousarray(tensors[one]).ravel(),
        }
        for one in wanted
    ]
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _bad(part: str, rule: str, expected: str, got: object) -> Exception:
    field = f"inputs[0].{part}"
    return problem(
        422, FieldError(field=field, rule=rule, message=f"expected {expected}, got {got}")
    )
