"""Bundles that would stop what serves them, or mislead it: each is refused when it is loaded."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnx import TensorProto

from shared import bundle
from shared.bundle import BundleError
from shared.context import ContextSpec
from shared.forecaster import Due, ModelSet, OnnxForecaster, forecast
from shared.forecasts import MAX_FORECAST_BYTES, Forecast
from shared.window import Window
from tests import bundles
from tests.candles import walk

GOLDEN: Final = bundles.right_golden(2, 3)
CONTEXT: Final = ContextSpec(symbols=("^VIX",), interval="1d", length=4)
NAN: Final = np.full((1, 2, 3), np.nan)
SPREAD: Final = np.full((1, 2), 0.01)


def golden(**changes: Any) -> dict[str, Any]:
    return {"golden": replace(GOLDEN, **changes)}


def given_back(log_return: Any, volatility: Any = SPREAD) -> dict[str, Any]:
    """Return a graph with some outputs, and golden windows that agree with it."""
    rows = [np.repeat(np.asarray(item, np.float32), 2, axis=0) for item in (log_return, volatility)]
    graph = bundles.graph_of(2, 3, (log_return, volatility))
    return {"graph": graph, **golden(log_return=rows[0], volatility=rows[1])}


def outside() -> Any:
    """Return a graph with a tensor that lies in a file of the working directory."""
    graph = bundles.graph_of(2, 3)
    tensor = next(item for item in graph.initializer if item.name == "returns")
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")  # type: ignore[no-untyped-call]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "outside.bin"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return graph


def archive_of_zeros() -> bytes:
    """Return an archive of 90 kB that would be 90 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("candles", "open_ms", "log_return", "volatility"):
            archive.writestr(f"{name}.npy", bytes(24 << 20))
    return stream.getvalue()


MANY_LEVELS: Final = tuple(round(0.01 * level, 2) for level in range(1, 100))

HOSTILE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "horizon of 0": ({"horizons": (0, 1)}, "horizons"),
    "negative horizon": ({"horizons": (-3, 1)}, "horizons"),
    "horizon beyond a message's": ({"horizons": (1, 4096)}, "horizons"),
    "no horizons": ({"horizons": ()}, "horizons"),
    "falling horizons": ({"horizons": (5, 1)}, "rising"),
    "horizon twice": ({"horizons": (1, 1)}, "rising"),
    "too many horizons": ({"horizons": tuple(range(1, 80))}, "horizons"),
    "no median": ({"levels": (0.05, 0.95)}, "median"),
    "level of 0": ({"levels": (0.0, 0.5)}, "quantile_levels"),
    "level of 1": ({"levels": (0.5, 1.0)}, "quantile_levels"),
    "falling levels": ({"levels": (0.5, 0.1)}, "rising"),
    "no levels": ({"levels": ()}, "quantile_levels"),
    "levels and horizons beyond a message": (
        {"horizons": tuple(range(1, 40)), "levels": MANY_LEVELS},
        f"at most {MAX_FORECAST_BYTES} bytes",
    ),
    "NaN": (given_back(NAN), "golden forecasts"),
    "volatility of NaN": (given_back(np.zeros((1, 2, 3)), SPREAD * np.nan), "golden forecasts"),
    "infinity": (given_back(NAN + np.inf), "golden forecasts"),
    "falling quantiles": (given_back([[[0.1, 0, -0.1]] * 2]), "not messages"),
    "endless prices": (given_back([[[0, 0, 400.0]] * 2]), "not messages"),
    "negative volatility": (given_back(np.zeros((1, 2, 3)), -SPREAD), "not messages"),
    "a horizon too few": ({"graph": bundles.graph_of(1, 3)}, "log_return"),
    "a level too many": ({"graph": bundles.graph_of(2, 4)}, "log_return"),
    "a tensor elsewhere": ({"graph": outside()}, "ONNX Runtime refuses the graph"),
    "golden windows of noise": ({"golden": b"noise"}, "not the golden windows"),
    "golden bomb": ({"golden": archive_of_zeros()}, "bytes unpacked"),
    "no golden windows": (
        golden(**{name: array[:0] for name, array in vars(GOLDEN).items() if array is not None}),
        "1 to 1024 windows",
    ),
    "golden windows of another length": (golden(candles=np.ones((2, 9, 5))), "candles: expected"),
    "golden windows of text": (golden(open_ms=np.array([["a"] * 4] * 2)), "open_ms: expected"),
    "golden prices of NaN": (golden(candles=np.full((2, 4, 5), np.nan)), "finite prices"),
    "a context that golden windows lack": (
        {"context": CONTEXT, **golden()},
        "context: expected ((2, 4, 1), dtype('float32')), got none",
    ),
    "golden windows of an unknown context": (
        golden(context=np.ones((2, 4, 1), np.float32)),
        "context: expected none, got ((2, 4, 1)",
    ),
    "a context that the graph lacks": (
        {"context": CONTEXT, "graph": bundles.graph_of(2, 3)},
        "ONNX Runtime refuses the graph",
    ),
    "the same context twice": (
        {"context": CONTEXT.model_copy(update={"symbols": ("A", "A")})},
        "each once",
    ),
    "unknown interval": ({"intervals": ["7y"]}, "intervals"),
    "name of a terminal": ({"name": "\x1b[2J"}, "name"),
    "endless window": ({"window_length": 1 << 30}, "window_length"),
    "another file": ({"files": {"../../etc/passwd": "0" * 64}}, "expected the files"),
    "another version": ({"model_version": "stub-0"}, "expected model_version"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused(name: str, tmp_path: Path) -> None:
    changes, words = HOSTILE[name]
    folder = bundles.write(tmp_path / "bundle", **changes)
    with pytest.raises(BundleError, match=re.escape(words)) as refused:
        OnnxForecaster(bundle.load(folder))
    assert "\x1b" not in str(refused.value)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(300 << 20)


@pytest.mark.parametrize("spoil", [fifo, huge, Path.unlink, lambda path: path.write_bytes(b"\xff")])
@pytest.mark.parametrize("name", [bundle.CONFIG_NAME, *bundle.FILE_NAMES])
def test_a_file_of_another_kind_or_size_is_refused(
    name: str, spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = bundles.write(tmp_path / "bundle")
    spoil(folder / name)
    with pytest.raises(BundleError, match=name):
        bundle.load(folder)


def test_a_tensor_in_the_working_directory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rising = np.linspace(-0.1, 0.1, 3, dtype=np.float32)
    np.tile(rising, (1, 2, 1)).tofile("outside.bin")
    folder = bundles.write(tmp_path / "bundle", graph=outside())
    with pytest.raises(BundleError, match="External data path"):
        OnnxForecaster(bundle.load(folder))


def test_the_largest_forecasts_that_fit_are_messages(tmp_path: Path) -> None:
    """Where a bundle is taken, every forecast that it makes is."""
    steps = tuple(range(1, 65))
    folder = bundles.write(tmp_path / "bundle", horizons=steps, levels=(0.05, 0.5, 0.95))
    model = OnnxForecaster(bundle.load(folder))
    window = Window(bundles.LENGTH)
    for candle in walk(bundles.LENGTH):
        window, _ = window.push(candle)
    due = Due("X" * 32, "1mo", 1_900_000_000_000, 1.0123456789012345e-17, window)
    [message] = forecast(ModelSet(model), [due], 1)
    assert len(Forecast.decode(message.encode()).horizons) == 64
