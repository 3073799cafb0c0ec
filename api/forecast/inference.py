"""The Open Inference Protocol, version 2 (REST): the model as inference platforms ask for it.

The protocol's extension "binary data" is not offered; errors are problem documents, as everywhere.
"""

from __future__ import annotations

from array import array
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import orjson
from pydantic import Field, ValidationError
from pydantic.json_schema import SkipJsonSchema

from api.edge.problems import ProblemError, broken_field, invalid_body, not_json
from api.edge.requests import MAX_BODY_BYTES
from api.forecast.bodies import Body
from api.forecast.histories import Array, are_valid, newest
from api.forecast.predict import Predictor
from api.forecast.slicing import Work
from shared.forecaster import Prediction
from shared.messages import Message

MAX_WINDOWS: Final = 1_000
INPUT: Final = "candles"
OUTPUTS: Final = ("log_return", "volatility")

NUMBERS_BYTES: Final = 16_384
"""Of a tensor's data that are read at once."""

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_FLAT: Final = msgspec.json.Decoder(list[float])


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
    """Whether the server is ready."""

    live: bool = Field(description="as the protocol names it")
    ready: bool


class ModelReady(Message):
    """Whether a model is ready."""

    name: str
    ready: bool


def meta_of(predictor: Predictor, name: str) -> ModelMeta:
    """Return the metadata of the model that is served."""
    model = predictor.forecaster
    horizons, levels = len(model.horizons), len(model.quantile_levels)
    return ModelMeta(
        name=name,
        versions=(model.model_version,),
        platform="onnx_onnxv1",
        inputs=(TensorMeta(name=INPUT, shape=(-1, model.window_length, 5), datatype="FP64"),),
        outputs=(
            TensorMeta(name=OUTPUTS[0], shape=(-1, horizons, levels), datatype="FP64"),
            TensorMeta(name=OUTPUTS[1], shape=(-1, horizons), datatype="FP64"),
        ),
    )


def read_infer(body: bytes | bytearray, window_length: int) -> Work[tuple[InferRequest, Array]]:
    """Return the request in a body and its windows, (B, T, 5), by work in small pieces.

    The windows are rounded to 32 bits, as a window of the stream holds them.

    Raises:
        ProblemError: naming the field and the rule.
    """
    outline, data = _put_aside(body)
    yield
    if len(outline) > MAX_BODY_BYTES:
        expected = f"at most {MAX_BODY_BYTES} bytes beside the tensor's data"
        raise broken_field(("body",), "too_large", expected, len(outline))
    try:
        request = InferRequest.model_validate_json(outline)
    except ValidationError as error:
        raise invalid_body(error) from None
    batch, candles, columns = request.inputs[0].shape
    if not 0 < batch <= MAX_WINDOWS or columns != 5 or candles < window_length:
        expected = f"[1 to {MAX_WINDOWS}, at least {window_length}, 5]"
        raise _bad("shape", "shape", expected, [batch, candles, columns])
    histories = yield from _numbers(data, (batch, candles, columns))
    windows = np.empty((batch, window_length, 5))
    for number, one in enumerate(histories):
        if not are_valid(one):
            raise _bad("data", "inconsistent", "candles whose prices agree", "others")
        windows[number] = newest(one, window_length)
        yield
    return request, windows


def _put_aside(body: bytes | bytearray) -> tuple[bytes | bytearray, bytes]:
    """Return a body whose tensor has no data, and these data; what is odd stays as it is."""
    try:
        request = _OBJECT.decode(body)
        inputs = _OBJECTS.decode(request["inputs"])
        data = bytes(inputs[0]["data"])
    except (msgspec.ValidationError, LookupError):
        return body, b""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if len(body) <= MAX_BODY_BYTES:
            return body, b""
        raise not_json("body", str(error)) from None
    if not data.startswith(b"["):
        return body, b""
    inputs[0]["data"] = msgspec.Raw(b"[]")
    request["inputs"] = msgspec.Raw(msgspec.json.encode(inputs))
    return msgspec.json.encode(request), data


def _numbers(data: bytes, shape: tuple[int, int, int]) -> Work[Array]:
    """Return the numbers of an array in JSON, flat or nested as the shape is."""
    numbers = array("d")
    arrays = begin = 0
    while begin < len(data):
        comma = data.find(b",", begin + NUMBERS_BYTES)
        end = comma if comma >= 0 else len(data)
        part = data[begin:end]
        try:
            numbers.extend(_FLAT.decode(b"[" + part.translate(None, b"[]") + b"]"))
        except msgspec.MsgspecError:
            raise _bad("data", "float_type", "numbers alone", "others") from None
        arrays += part.count(b"[")
        begin = end + 1
        yield
    batch, candles, columns = shape
    if len(numbers) != batch * candles * columns:
        raise _bad("data", "shape", f"{batch * candles * columns} numbers", len(numbers))
    if arrays not in {1, 1 + batch, 1 + batch + batch * candles}:
        raise _bad("data", "shape", "flat numbers, or nested as the shape is", "others")
    return np.frombuffer(numbers).reshape(shape)


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


def _bad(part: str, rule: str, expected: str, got: object) -> ProblemError:
    return broken_field(("inputs", 0, part), rule, expected, got)
