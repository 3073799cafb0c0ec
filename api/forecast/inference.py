"""The Open Inference Protocol, version 2 (REST): the model's graph for any client of the protocol.

Inputs and outputs are the graph's own, with the extension for tensors in binary. Errors are problem
documents, as everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from api.edge.problems import ProblemError, broken_field, invalid_body
from api.edge.slicing import Work
from api.forecast import tensors
from api.forecast.histories import are_valid, require_content
from api.forecast.outline import Outline, end_of_numbers, outline_of
from api.forecast.tensors import NUMBERS_ROWS, AnyArray
from shared.bundle import CONTEXT, TensorSpec, tensor_inputs, tensor_outputs
from shared.context import Closes, ContextSpec
from shared.forecaster import Forecaster, Prediction, lengths_of
from shared.messages import Message

MAX_WINDOWS: Final = 1_000
"""Most windows in one request."""

BINARY_EXTENSION: Final = "binary_tensor_data"
"""The protocol's name for tensors in binary after the JSON."""

Parameters = dict[str, Any]


class InputTensor(Message):
    """A tensor of the request; its data are here, or in binary after the JSON.

    Unknown fields and parameters are ignored, as the protocol demands.
    """

    name: str = Field(description="candles, open_ms, or context for a model that reads one")
    shape: tuple[int, ...] = Field(max_length=8, description="windows first")
    datatype: str = Field(description="FP64 for candles, INT64 for open_ms, FP32 for context")
    data: Any = Field(None, description="numbers, flat in row-major order or nested")
    parameters: Parameters = Field(default={}, description="binary_data_size, of data in binary")


class RequestedOutput(Message):
    """A tensor that the answer shall hold."""

    name: str = Field(description="log_return or volatility")
    parameters: Parameters = Field(default={}, description="binary_data: true for data in binary")


class InferRequest(Message):
    """An inference request."""

    id: Annotated[str | None, Field(max_length=256)] = None
    inputs: Annotated[tuple[InputTensor, ...], Field(min_length=1, max_length=8)]
    outputs: Annotated[tuple[RequestedOutput, ...], Field(max_length=8)] = ()
    parameters: Parameters = Field(default={}, description="binary_data_output: true for binary")


class OutputTensor(Message):
    """A tensor of the answer; its data are here, or in binary after the JSON."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[float] | None = Field(None, description="flat, in row-major order")
    parameters: Parameters | None = Field(None, description="binary_data_size, of data in binary")


class InferAnswer(Message):
    """An inference response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: tuple[OutputTensor, ...]


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


class ServerLive(Message):
    """Liveness of the server."""

    live: bool


class ServerReady(Message):
    """Readiness of the server."""

    live: bool = Field(description="as the protocol names it")
    ready: bool


class ModelReady(Message):
    """Readiness of a model."""

    name: str
    ready: bool


@dataclass(frozen=True)
class InferBody:
    """An inference request with its windows, valid and exactly as they were given."""

    request: InferRequest
    candles: NDArray[np.float64]  # (B, T, 5)
    open_ms: NDArray[np.int64]  # (B, T)
    context: Closes | None  # (B, C, K); None where the request has none


def meta_of(model: Forecaster, name: str, versions: tuple[str, ...]) -> ModelMeta:
    """Return the metadata of a served model, whose name has these versions."""
    lengths = lengths_of(model)
    return ModelMeta(
        name=name,
        versions=versions,
        platform="onnx_onnxv1",
        inputs=_meta(tensor_inputs(min(lengths) if len(lengths) == 1 else -1, model.context)),
        outputs=_meta(tensor_outputs(len(model.horizons), len(model.quantile_levels))),
    )


def _meta(specs: Mapping[str, TensorSpec]) -> tuple[TensorMeta, ...]:
    return tuple(
        TensorMeta(name=name, shape=spec.shape, datatype=spec.datatype)
        for name, spec in specs.items()
    )


def read_infer(
    body: bytes | bytearray,
    json_bytes: int | None,
    lengths: Collection[int],
    context: ContextSpec | None = None,
) -> Work[InferBody]:
    """Return the request in a body.

    Args:
        body: JSON, followed by the tensors that are in binary.
        json_bytes: length of the JSON; None when it is the whole body.
        lengths: candles that the windows may hold, T; all of a request hold the same number.
        context: that the model reads, if any; a request may leave it out, as one that is unknown.

    Raises:
        ProblemError: naming the field and the rule.
    """
    require_content(body, '{"inputs": [...]}')
    text = body if json_bytes is None else body[:json_bytes]
    binary = memoryview(body)[len(text) :]
    outline = yield from outline_of(text, "data", end_of_numbers)
    try:
        request = InferRequest.model_validate_json(outline.text)
    except ValidationError as error:
        raise invalid_body(error) from None
    _require_inputs(request, lengths, context)
    _require_outputs(request)
    found: dict[str, AnyArray] = {}
    for number, tensor in enumerate(request.inputs):
        size = _binary_size(number, tensor, len(binary))
        if size is not None:
            place = ("inputs", number, "parameters", "binary_data_size")
            found[tensor.name] = tensors.from_binary(
                binary[:size], tensor.datatype, tensor.shape, place
            )
            binary = binary[size:]
            yield
        else:
            found[tensor.name] = yield from _from_json(number, tensor, outline)
    if len(binary):
        raise broken_field(("body",), "too_long", "no bytes after the tensors", len(binary))
    outline.require_all_read()
    yield from _require_windows(request, found)
    return InferBody(request, found["candles"], found["open_ms"], found.get(CONTEXT))


def _require_inputs(
    request: InferRequest, lengths: Collection[int], context: ContextSpec | None
) -> None:
    """Refuse inputs other than the graph's; raises ``ProblemError``."""
    batch = (*request.inputs[0].shape, 0)[0]
    windows = next((tensor for tensor in request.inputs if tensor.name != CONTEXT), None)
    length = (*windows.shape, 0, 0)[1] if windows else 0
    specs = tensor_inputs(length, context)
    for number, tensor in enumerate(request.inputs):
        place = ("inputs", number)
        spec = specs.get(tensor.name)
        if spec is None:
            expected = f"one of {', '.join(specs)}"
            raise broken_field((*place, "name"), "unknown", expected, repr(tensor.name[:40]))
        if tensor.datatype != spec.datatype:
            got = repr(tensor.datatype[:40])
            raise broken_field((*place, "datatype"), "datatype", spec.datatype, got)
        sizes = spec.shape[1:]
        fixed = tensor.name == CONTEXT or length in lengths
        if not fixed or tensor.shape[1:] != sizes or not 0 < tensor.shape[0] <= MAX_WINDOWS:
            first = str(sizes[0]) if fixed else " or ".join(map(str, sorted(lengths)))
            expected = f"[{', '.join([f'1 to {MAX_WINDOWS}', first, *map(str, sizes[1:])])}]"
            raise broken_field((*place, "shape"), "shape", expected, list(tensor.shape))
        if tensor.shape[0] != batch:
            expected = f"{batch} windows, as in inputs[0]"
            raise broken_field((*place, "shape"), "shape", expected, tensor.shape[0])
    names = [tensor.name for tensor in request.inputs]
    for name in specs:
        if names.count(name) > 1 or (name != CONTEXT and name not in names):
            expected = f"{name} once, one of {', '.join(specs)}"
            raise broken_field(("inputs",), "missing", expected, names)


def _require_outputs(request: InferRequest) -> None:
    for number, output in enumerate(request.outputs):
        if output.name not in tensor_outputs(1, 1):
            expected = f"one of {', '.join(tensor_outputs(1, 1))}"
            got = repr(output.name[:40])
            raise broken_field(("outputs", number, "name"), "unknown", expected, got)


def _binary_size(number: int, tensor: InputTensor, left: int) -> int | None:
    """Return the size of a tensor in binary, None for one in JSON; raises ``ProblemError``."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return None
    place = ("inputs", number, "parameters", "binary_data_size")
    if tensor.data is not None:
        raise broken_field(place, "inconsistent", "data in JSON or in binary", "both")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
        expected = f"a size of at most {left}, which is what follows the JSON"
        raise broken_field(place, "inconsistent", expected, str(size)[:20])
    return size


def _from_json(number: int, tensor: InputTensor, outline: Outline) -> Work[AnyArray]:
    place = ("inputs", number, "data")
    array = outline.array(tensor.data)
    if array is None:
        if not isinstance(tensor.data, list):
            got = "nothing" if tensor.data is None else "another value"
            raise broken_field(place, "missing", "an array of numbers", got)
        array = memoryview(json.dumps(tensor.data).encode())  # its key was written with escapes
    return tensors.from_json(array, tensor.datatype, tensor.shape, place)


def _require_windows(request: InferRequest, found: Mapping[str, AnyArray]) -> Work[None]:
    """Refuse candles, times and closes that no market has; raises ``ProblemError``."""
    places = {tensor.name: ("inputs", i, "data") for i, tensor in enumerate(request.inputs)}
    candles, open_ms, context = found["candles"], found["open_ms"], found.get(CONTEXT)
    for first in range(0, len(candles), NUMBERS_ROWS):
        some = slice(first, first + NUMBERS_ROWS)
        if not are_valid(candles[some].reshape(-1, 5)):
            expected = "candles whose prices agree"
            raise broken_field(places["candles"], "inconsistent", expected, "others")
        times = open_ms[some]
        if times.min() < 0 or times.max() >= 1 << 53 or (np.diff(times, axis=1) <= 0).any():
            expected = "rising times in UTC milliseconds"
            raise broken_field(places["open_ms"], "not_rising", expected, "others")
        if context is not None and np.isinf(context[some]).any():
            expected = "closes that 32 bits hold; 0, or NaN in binary, where one is unknown"
            raise broken_field(places[CONTEXT], "not_finite", expected, "others")
        yield


@dataclass(frozen=True)
class InferContent:
    """The content of an inference response."""

    body: bytes
    json_bytes: int | None  # None when the whole body is JSON


def infer_content(
    request: InferRequest, name: str, version: str, prediction: Prediction
) -> Work[InferContent]:
    """Return the answer to a request; raises ``ProblemError`` when a number is not finite."""
    found: dict[str, AnyArray] = {
        "log_return": prediction.log_return,
        "volatility": prediction.volatility,
    }
    if not all(np.isfinite(tensor).all() for tensor in found.values()):
        expected = "prices that a finite forecast follows from"
        raise broken_field(("inputs",), "not_finite", expected, "others")
    all_binary = request.parameters.get("binary_data_output") is True
    wanted = request.outputs or tuple(RequestedOutput(name=name) for name in found)
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in wanted:
        tensor = found[output.name].astype(np.float32, copy=False)
        entry: dict[str, Any] = {
            "name": output.name,
            "shape": list(tensor.shape),
            "datatype": "FP32",
        }
        if output.parameters.get("binary_data", all_binary) is True:
            binary.append(tensors.to_binary(tensor, "FP32"))
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
            yield
        else:
            entry["data"] = orjson.Fragment((yield from tensors.to_json(tensor)))
        outputs.append(entry)
    content: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not None:
        content["id"] = request.id
    text = orjson.dumps(content | {"outputs": outputs})
    return InferContent(b"".join((text, *binary)), len(text) if binary else None)


def json_length(header: str | None, body_bytes: int) -> int | None:
    """Return the length of the JSON in a body by its header; None when it is all of it.

    Raises:
        ProblemError: when the header is not a length within the body.
    """
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 12):
        raise _bad_length(body_bytes, header[:20])
    if int(header) > body_bytes:
        raise _bad_length(body_bytes, header)
    return int(header)


def _bad_length(body_bytes: int, got: str) -> ProblemError:
    expected = f"the length of the JSON, at most {body_bytes}"
    return broken_field(("inference-header-content-length",), "out_of_range", expected, got)
