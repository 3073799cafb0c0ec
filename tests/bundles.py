"""Small bundles for tests, right but for what a test changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared import bundle
from shared.bundle import Golden
from shared.context import ContextSpec, unknown
from shared.feature_drift import FeatureBins, Reference
from shared.window import even_times

LENGTH: Final = 4

FEATURES: Final = "features"
"""Name of the tensor of a bundle's graph that holds the newest close as the only feature."""


def graph_of(
    horizons: int, levels: int, outputs: Any = None, context: ContextSpec | None = None
) -> onnx.GraphProto:
    """Return a graph whose forecasts are constants: rising quantiles, or ``outputs``.

    With a context the volatility is higher by the sum of its known closes.
    """
    rising = np.linspace(-0.1, 0.1, levels, dtype=np.float32)
    log_return = np.tile(rising, (1, horizons, 1)) if outputs is None else outputs[0]
    volatility = np.full((1, horizons), 0.01, np.float32) if outputs is None else outputs[1]
    nodes = [
        helper.make_node("ReduceMean", ["candles", "axes"], ["mean"], keepdims=0),  # (B,)
        helper.make_node("Mul", ["mean", "zero"], ["nought"]),
        helper.make_node("Cast", ["nought"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["candles", "newest"], ["row"], axis=1),  # (B, 5)
        helper.make_node("Gather", ["row", "close"], ["price"], axis=1),  # (B, 1)
        helper.make_node("Cast", ["price"], [FEATURES], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float", "one"], ["column"]),  # (B, 1)
        helper.make_node("Unsqueeze", ["column", "one"], ["cube"]),  # (B, 1, 1)
        helper.make_node("Add", ["cube", "returns"], ["log_return"]),
        helper.make_node("Add", ["column", "spread"], ["volatility"]),
    ]
    inputs = [
        helper.make_tensor_value_info("candles", TensorProto.DOUBLE, ["B", LENGTH, 5]),
        helper.make_tensor_value_info("open_ms", TensorProto.INT64, ["B", LENGTH]),
    ]
    if context:
        nodes[-1:] = [
            helper.make_node("Greater", ["context", "nought32"], ["is_known"]),
            helper.make_node("Where", ["is_known", "context", "nought32"], ["known"]),
            helper.make_node("ReduceSum", ["known", "axes"], ["sums"], keepdims=0),  # (B,)
            helper.make_node("Unsqueeze", ["sums", "one"], ["sum"]),  # (B, 1)
            helper.make_node("Add", ["column", "sum"], ["raised"]),
            helper.make_node("Add", ["raised", "spread"], ["volatility"]),
        ]
        inputs.append(
            helper.make_tensor_value_info("context", TensorProto.FLOAT, ["B", *context.shape])
        )
    constants = {
        "nought32": np.float32(0.0),
        "axes": np.array([1, 2]),
        "zero": np.array(0.0),
        "one": np.array([1]),
        "newest": np.array(-1),
        "close": np.array([3]),
        "returns": np.asarray(log_return, np.float32),
        "spread": np.asarray(volatility, np.float32),
    }
    return helper.make_graph(
        nodes,
        "constant",
        inputs,
        [
            helper.make_tensor_value_info("log_return", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("volatility", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )


def write(
    folder: Path,
    *,
    horizons: tuple[int, ...] = (1, 5),
    levels: tuple[float, ...] = (0.05, 0.5, 0.95),
    graph: onnx.GraphProto | None = None,
    golden: Golden | bytes | None = None,
    context: ContextSpec | None = None,
    **config: Any,
) -> Path:
    """Write a bundle and return its folder; hashes and version fit whatever is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = graph or graph_of(len(horizons), len(levels), context=context)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(made, opset_imports=opset, ir_version=9)
    graph_bytes = bytes(model.SerializeToString())  # type: ignore[no-untyped-call]
    if golden is None:
        golden = right_golden(len(horizons), len(levels), context)
    contents = {
        bundle.ONNX_NAME: graph_bytes,
        bundle.GOLDEN_NAME: golden if isinstance(golden, bytes) else golden.to_bytes(),
        bundle.WEIGHTS_NAME: b"",
        bundle.SCALERS_NAME: b"",
    }
    hashes = bundle.hashes_of(contents)
    length = config.get("window_length", LENGTH)
    tensors = {
        "inputs": bundle.tensor_inputs(context=context),
        "outputs": bundle.tensor_outputs(len(horizons), len(levels)),
    }
    about: dict[str, Any] = {
        "format": bundle.FORMAT,
        "name": "stub",
        "model_version": bundle.version_of("stub", hashes),
        "intervals": ["1d"],
        **{
            kind: {name: spec.model_dump() for name, spec in specs.items()}
            for kind, specs in tensors.items()
        },
        "window_length": LENGTH,
        "window_lengths": {name: [length] for name in config.get("intervals", ["1d"])},
        "horizons": list(horizons),
        "quantile_levels": list(levels),
        **({"context": context.model_dump()} if context else {}),
        "features": {},
        "data": {
            "source": "test", "symbols": ["A"], "first_ms": 0, "last_ms": 1, "candles": 4,
            "sha256": "",
        },
        "training": {},
        "metrics": {},
        "files": hashes,
    } | config  # fmt: skip
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / bundle.CONFIG_NAME).write_text(json.dumps(about))
    return folder


def right_golden(horizons: int, levels: int, context: ContextSpec | None = None) -> Golden:
    """Return the golden windows of a constant graph, the context unknown."""
    rising = np.linspace(-0.1, 0.1, levels, dtype=np.float32)
    return Golden(
        np.full((2, LENGTH, 5), 100.0),
        even_times(2, LENGTH),
        np.tile(rising, (2, horizons, 1)),
        np.full((2, horizons), 0.01, np.float32),
        unknown(context, 2) if context else None,
    )


def reference_of(intervals: dict[str, dict[str, FeatureBins]], tensor: str = FEATURES) -> Reference:
    """Return a reference of 20,000 windows of each interval."""
    windows = dict.fromkeys(intervals, 20_000)
    return Reference(source="test", sha256="", tensor=tensor, windows=windows, intervals=intervals)


def add_reference(
    folder: Path, reference: Reference | bytes, names: tuple[str, ...] = ("close",)
) -> Path:
    """Add features and a reference to a bundle; the hash fits whatever is in it."""
    data = reference if isinstance(reference, bytes) else reference.model_dump_json().encode()
    (folder / bundle.REFERENCE_NAME).write_bytes(data)
    config = json.loads((folder / bundle.CONFIG_NAME).read_bytes())
    extra = bundle.hashes_of({bundle.REFERENCE_NAME: data})
    config |= {"features": dict.fromkeys(names, ""), "extra_files": extra}
    (folder / bundle.CONFIG_NAME).write_text(json.dumps(config))
    return folder
