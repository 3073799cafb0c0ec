"""Clients of the Open Inference Protocol as they are, against the API as a real process."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from local.ports import HOST
from shared import bundle
from shared.leash import Leash
from tests.candles import walk
from tests.integration.api.test_serving import Api, start
from tests.integration.processes import Processes

pytestmark = pytest.mark.integration

BUNDLE = bundle.load(bundle.default_path())
NAME, VERSION = BUNDLE.config.name, BUNDLE.config.model_version
OUTPUTS = ("log_return", "volatility")
ENCODINGS = (None, "gzip", "deflate")

Tensors = dict[str, NDArray[Any]]


def triton() -> Any:
    """Return Triton's client for HTTP; not at import, so that CI sees its lack as a failure."""
    return pytest.importorskip("tritonclient.http")


def kserve_client() -> Any:
    """Return kserve's client alone.

    The package's own ``__init__`` imports its server too, whose requirements exclude ours.
    """
    spec = importlib.util.find_spec("kserve")
    if spec is None:
        pytest.skip("kserve is not installed")
    sys.modules.setdefault("kserve", importlib.util.module_from_spec(spec))
    return importlib.import_module("kserve.inference_client")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, leash: Leash) -> Iterator[Api]:
    with Processes(tmp_path_factory.mktemp("api"), leash) as processes:
        yield start(processes)


@pytest.fixture(scope="module", params=BUNDLE.config.window_lengths["1d"])
def tensors(request: pytest.FixtureRequest) -> Tensors:
    """Windows of each length, whose prices no 32-bit float holds."""
    length = request.param
    candles = walk(length + 39)
    rows = np.array(
        [[candle.open, candle.high, candle.low, candle.close, candle.volume] for candle in candles]
    )
    scale = np.random.default_rng(4).uniform(1, 2, (40, 1, 1))
    times = np.array([candle.open_ms for candle in candles], np.int64)
    return {
        "candles": np.stack([rows[at : at + length] for at in range(40)]) * scale,
        "open_ms": np.stack([times[at : at + length] for at in range(40)]),
    }


@pytest.fixture(scope="module")
def expected(tensors: Tensors) -> Tensors:
    """What ONNX Runtime gives for the same inputs, without any code of ours."""
    session = ort.InferenceSession(
        BUNDLE.onnx, ort.SessionOptions(), providers=["CPUExecutionProvider"]
    )
    return dict(zip(OUTPUTS, session.run(OUTPUTS, tensors), strict=True))


def assert_same(got: Tensors, expected: Tensors) -> None:
    assert set(got) <= set(OUTPUTS)
    for name, numbers in got.items():
        assert numbers.dtype == np.float32
        np.testing.assert_array_equal(numbers, expected[name])


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[Any]:
    with triton().InferenceServerClient(f"{HOST}:{api.port}") as client:
        yield client


def triton_inputs(tensors: Tensors, in_binary: tuple[str, ...], client: Any = None) -> list[Any]:
    inputs = []
    for name, numbers in tensors.items():
        datatype = "FP64" if numbers.dtype == np.float64 else "INT64"
        tensor = (client or triton()).InferInput(name, list(numbers.shape), datatype)
        tensor.set_data_from_numpy(numbers, binary_data=name in in_binary)
        inputs.append(tensor)
    return inputs


def triton_outputs(in_binary: dict[str, bool] | None) -> list[Any] | None:
    if in_binary is None:
        return None
    output = triton().InferRequestedOutput
    return [output(name, binary_data=binary) for name, binary in in_binary.items()]


def arrays_of(result: Any, names: tuple[str, ...] = OUTPUTS) -> Tensors:
    return {name: result.as_numpy(name) for name in names}


def test_triton_sees_the_server_and_the_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, VERSION)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    meta = client.get_model_metadata(NAME)
    config = BUNDLE.config
    assert meta == client.get_model_metadata(NAME, VERSION)
    assert {entry["name"]: entry["shape"] for entry in meta["inputs"]} == {
        name: list(spec.shape) for name, spec in config.inputs.items()
    }
    assert {entry["name"]: entry["datatype"] for entry in meta["outputs"]} == {
        name: spec.datatype for name, spec in config.outputs.items()
    }


WANTED: tuple[dict[str, bool] | None, ...] = (
    None,  # all, in binary
    {"log_return": True, "volatility": True},
    {"log_return": False, "volatility": False},
    {"volatility": True, "log_return": False},
    {"volatility": False},
)


@pytest.mark.parametrize(
    "in_binary", [(), ("candles",), ("open_ms",), ("candles", "open_ms")], ids="-".join
)
def test_triton_infers_in_every_form(
    client: Any, tensors: Tensors, expected: Tensors, in_binary: tuple[str, ...]
) -> None:
    for wanted, request, response in itertools.product(WANTED, ENCODINGS, ENCODINGS):
        result = client.infer(
            NAME,
            triton_inputs(tensors, in_binary),
            outputs=triton_outputs(wanted),
            request_id="order 17",
            request_compression_algorithm=request,
            response_compression_algorithm=response,
        )
        assert_same(arrays_of(result, tuple(wanted or OUTPUTS)), expected)
        answer = result.get_response()
        assert (answer["id"], answer["model_name"]) == ("order 17", NAME)
        assert answer["model_version"] == VERSION


def test_triton_infers_with_every_option(client: Any, tensors: Tensors, expected: Tensors) -> None:
    inputs = triton_inputs(tensors, ("candles", "open_ms"))
    result = client.infer(
        NAME,
        inputs,
        model_version=VERSION,
        sequence_id=3,
        sequence_start=True,
        priority=1,
        timeout=1_000_000,
        parameters={"desk": "rates", "level": 3},
    )
    assert_same(arrays_of(result), expected)
    assert_same(arrays_of(client.async_infer(NAME, inputs).get_result()), expected)


def test_a_single_window_gives_the_numbers_that_it_gives_in_a_batch(
    client: Any, tensors: Tensors, expected: Tensors
) -> None:
    for row in range(3):
        window = {name: numbers[row : row + 1] for name, numbers in tensors.items()}
        result = client.infer(NAME, triton_inputs(window, ("candles",)))
        assert_same(
            arrays_of(result), {name: array[row : row + 1] for name, array in expected.items()}
        )


def test_triton_names_the_field_of_an_error(client: Any, tensors: Tensors) -> None:
    short = {name: numbers[:, 1:] for name, numbers in tensors.items()}
    with pytest.raises(triton().InferenceServerException, match=r"inputs\[0\]\.shape: expected"):
        client.infer(NAME, triton_inputs(short, ("candles", "open_ms")))
    with pytest.raises(triton().InferenceServerException, match="which is what is served"):
        client.infer("other", triton_inputs(tensors, ()))
    shuffled = tensors | {"open_ms": tensors["open_ms"][:, ::-1].copy()}
    with pytest.raises(triton().InferenceServerException, match=r"inputs\[1\]\.data: .*rising"):
        client.infer(NAME, triton_inputs(shuffled, ("open_ms",)))


def test_tritons_asyncio_client_infers(api: Api, tensors: Tensors, expected: Tensors) -> None:
    aio: Any = importlib.import_module("tritonclient.http.aio")

    async def infer() -> None:
        async with aio.InferenceServerClient(f"{HOST}:{api.port}") as client:
            assert await client.is_model_ready(NAME)
            for in_binary in ((), ("candles", "open_ms")):
                inputs = triton_inputs(tensors, in_binary, aio)
                assert_same(arrays_of(await client.infer(NAME, inputs)), expected)

    asyncio.run(infer())


def kserve_request(tensors: Tensors, *, in_binary: bool, binary_output: bool) -> Any:
    kinds = importlib.import_module("kserve.protocol.infer_type")
    inputs = []
    for name, numbers in tensors.items():
        datatype = "FP64" if numbers.dtype == np.float64 else "INT64"
        tensor = kinds.InferInput(name, list(numbers.shape), datatype)
        tensor.set_data_from_numpy(numbers, binary_data=in_binary)
        inputs.append(tensor)
    return kinds.InferRequest(
        NAME, inputs, request_id="17", parameters={"binary_data_output": binary_output}
    )


def test_kserve_infers_in_every_form(api: Api, tensors: Tensors, expected: Tensors) -> None:
    kserve = kserve_client()
    url = f"http://{HOST}:{api.port}"

    async def infer() -> None:
        config = kserve.RESTConfig(protocol="v2")
        async with kserve.InferenceRESTClient(config) as client:
            assert await client.is_server_live(url)
            assert await client.is_server_ready(url)
            assert await client.is_model_ready(url, NAME)
            assert not await client.is_model_ready(url, "other")
            for in_binary, binary_output in itertools.product((False, True), repeat=2):
                request = kserve_request(tensors, in_binary=in_binary, binary_output=binary_output)
                answer = await client.infer(url, request, model_name=NAME)
                assert (answer.id, answer.model_name) == ("17", NAME)
                got = {output.name: output.as_numpy() for output in answer.outputs}
                assert set(got) == set(OUTPUTS)
                assert_same(got, expected)

    asyncio.run(infer())


def test_kserve_infers_of_plain_dictionaries(api: Api, tensors: Tensors, expected: Tensors) -> None:
    kserve = kserve_client()
    data = {
        "model_name": NAME,
        "inputs": [
            {
                "name": name,
                "shape": list(numbers.shape),
                "datatype": "FP64" if numbers.dtype == np.float64 else "INT64",
                "data": numbers.tolist(),
            }
            for name, numbers in tensors.items()
        ],
    }

    async def infer() -> None:
        url = f"http://{HOST}:{api.port}"
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
            answer = await client.infer(url, data, model_name=NAME)
            assert_same({output.name: output.as_numpy() for output in answer.outputs}, expected)

    asyncio.run(infer())


def test_a_thousand_windows_are_answered(client: Any, tensors: Tensors, expected: Tensors) -> None:
    shortest = tensors["open_ms"].shape[1] == BUNDLE.config.window_length
    times = 25 if shortest else 5  # as many as a body holds in JSON
    many = {name: np.concatenate([numbers] * times) for name, numbers in tensors.items()}
    same = {name: np.concatenate([numbers] * times) for name, numbers in expected.items()}
    for in_binary in ((), ("candles", "open_ms")):
        assert_same(arrays_of(client.infer(NAME, triton_inputs(many, in_binary))), same)
