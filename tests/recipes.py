"""Bundles with tiny graphs, whose numbers tests can compute themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared import bundle
from shared.bundle import (
    CONFIG_NAME,
    GOLDEN_NAME,
    INPUTS,
    ONNX_NAME,
    OUTPUTS,
    SCALERS_NAME,
    WEIGHTS_NAME,
    BundleConfig,
    DataSpan,
    Golden,
)
from shared.window import even_times

GOLDEN_WINDOWS = 2


@dataclass(frozen=True)
class Recipe:
    """A model that expects the drift again and again, with a constant spread around it."""

    name: str = "tiny"
    drift: float = 0.0  # log return of each candle ahead
    spread: float = 0.01
    window_length: int = 3
    horizons: tuple[int, ...] = (1, 5)
    levels: tuple[float, ...] = (0.05, 0.5, 0.95)
    intervals: tuple[str, ...] = ("1d",)
    trained_until_ms: int = 1_000_000_000_000
    pickled: bytes = b"weights"  # content of the files that serving never reads

    def median(self, step: int) -> float:
        """Return the median log return of a step."""
        return self.drift * step

    def contents(self) -> dict[str, bytes]:
        """Return the files of the bundle by name."""
        graph, log_return = self._graph()
        shape = (GOLDEN_WINDOWS, self.window_length)
        golden = Golden(
            np.full((*shape, 5), 100.0),
            even_times(*shape),
            np.repeat(log_return, GOLDEN_WINDOWS, axis=0),
            np.full((GOLDEN_WINDOWS, len(self.horizons)), self.spread, np.float32),
        )
        files = {
            ONNX_NAME: graph,
            WEIGHTS_NAME: self.pickled,
            SCALERS_NAME: self.pickled,
            GOLDEN_NAME: golden.to_bytes(),
        }
        config = self._config(bundle.hashes_of(files))
        return files | {CONFIG_NAME: config.model_dump_json().encode()}

    def write(self, folder: Path) -> Path:
        """Write the bundle to a folder; return it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents().items():
            (folder / name).write_bytes(content)
        return folder

    def _config(self, files: dict[str, str]) -> BundleConfig:
        return BundleConfig(
            name=self.name,
            model_version=bundle.version_of(self.name, files),
            intervals=self.intervals,
            inputs=bundle.tensor_inputs(),
            outputs=bundle.tensor_outputs(len(self.horizons), len(self.levels)),
            window_length=self.window_length,
            window_lengths=dict.fromkeys(self.intervals, (self.window_length,)),
            horizons=self.horizons,
            quantile_levels=self.levels,
            features={},
            data=DataSpan(
                source="none",
                symbols=("A",),
                first_ms=0,
                last_ms=self.trained_until_ms,
                candles=1,
                sha256="0" * 64,
            ),
            training={},
            metrics={},
            files=files,
        )

    def _graph(self) -> tuple[bytes, NDArray[np.float32]]:
        """Return a graph that adds constants to zeros of the batch's size, and the constants."""
        step = np.array(self.horizons, np.float32)[None, :, None]
        offsets = np.linspace(-1, 1, len(self.levels), dtype=np.float32)[None, None, :]
        log_return = (step * self.drift + offsets * self.spread).astype(np.float32)  # (1, H, Q)
        volatility = np.full((1, len(self.horizons)), self.spread, np.float32)
        constants: dict[str, NDArray[Any]] = {
            "log_return_1": log_return,
            "volatility_1": volatility,
            "zero": np.zeros(1, np.float64),
            "starts": np.array([0, 0], np.int64),
            "ends": np.array([1, 1], np.int64),
            "axes": np.array([1, 2], np.int64),
            "squeezed": np.array([2], np.int64),
        }
        nodes = [
            helper.make_node("Slice", [INPUTS[0], "starts", "ends", "axes"], ["first"]),
            helper.make_node("Mul", ["first", "zero"], ["zeros64"]),
            helper.make_node("Cast", ["zeros64"], ["zeros"], to=TensorProto.FLOAT),  # (B, 1, 1)
            helper.make_node("Add", ["zeros", "log_return_1"], [OUTPUTS[0]]),
            helper.make_node("Squeeze", ["zeros", "squeezed"], ["zeros2"]),  # (B, 1)
            helper.make_node("Add", ["zeros2", "volatility_1"], [OUTPUTS[1]]),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [
                helper.make_tensor_value_info(
                    INPUTS[0], TensorProto.DOUBLE, ["B", self.window_length, 5]
                ),
                helper.make_tensor_value_info(
                    INPUTS[1], TensorProto.INT64, ["B", self.window_length]
                ),
            ],
            [
                helper.make_tensor_value_info(
                    OUTPUTS[0], TensorProto.FLOAT, ["B", *log_return.shape[1:]]
                ),
                helper.make_tensor_value_info(
                    OUTPUTS[1], TensorProto.FLOAT, ["B", len(self.horizons)]
                ),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()  # type: ignore[no-untyped-call]
        return data, log_return
