"""Features of the training windows, by interval: what serving measures their drift against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from shared.bundle import (
    CONFIG_NAME,
    CONTEXT,
    INPUTS,
    REFERENCE_NAME,
    Bundle,
    BundleConfig,
    assemble,
    contents_of,
    hashes_of,
)
from shared.context import ContextSpec, unknown
from shared.feature_drift import FeatureBins, Reference, bins_of_values
from shared.forecaster import OnnxForecaster, session_of, with_output
from trainer import panels
from trainer.dataset import Source, SymbolCandles, by_length, windows_at
from trainer.panels import Panel

MOST: Final = 20_000
"""Windows of an interval that are counted at most; their share of the noise is then small."""

BATCH: Final = 128
"""Windows of one call."""

SCALES: Final = "scale_weight"
"""End of the name of the weights that the newest candle's raw features are multiplied by."""


@dataclass(frozen=True)
class Part:
    """Training windows of one symbol."""

    interval: str
    candles: SymbolCandles
    at: NDArray[np.int64]  # positions of the windows' last candles, rising


def of_source(source: Source, least: int) -> list[Part]:
    """Return all windows of a source of training candles, of ``least`` candles at least."""
    return [
        Part(source.interval, candles, np.arange(least - 1, len(candles.open_ms)))
        for candles in source.symbols.values()
    ]


def of_panels(
    data: Sequence[Panel], least: int, longest: int, kept_out: frozenset[str]
) -> list[Part]:
    """Return the windows that a training on all but the test's candles draws from."""
    return [
        Part(
            panel.interval,
            island.candles,
            panels.positions(panel, island, "all", least, longest, kept_out),
        )
        for panel in data
        for island in panel.islands
    ]


def tensor_of(model: bytes) -> str:
    """Return the name of the tensor of a graph that holds the newest candle's features, (B, F).

    Raises:
        ValueError: when the graph is not one that this trainer exports.
    """
    for node in onnx.load_from_string(model).graph.node:
        if node.op_type == "MatMul" and node.input[1].endswith(SCALES):
            return str(node.input[0])
    raise ValueError(
        f"model.onnx: expected a MatMul by {SCALES}, as in graphs of python -m trainer fit, got "
        "none"
    )


def measure(
    config: BundleConfig,
    model: bytes,
    parts: Sequence[Part],
    origin: tuple[str, str],
    advance: Callable[[str], object] = str,
) -> Reference:
    """Return how the features of training windows are distributed.

    Args:
        config: of the bundle.
        model: its graph.
        parts: all training windows; ``MOST`` of an interval are drawn, always the same.
        origin: source of the candles, and their SHA-256.
        advance: called with the name of each interval that is done.

    Raises:
        ValueError: when the graph is not of this trainer, or an interval none of the model's.
    """
    tensor, lengths = tensor_of(model), config.window_lengths
    session = session_of(with_output(model, tensor))
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes[part.interval] += len(part.at)
    windows: dict[str, int] = {}
    intervals: dict[str, dict[str, FeatureBins]] = {}
    for interval in sorted(+sizes):
        if interval not in lengths:
            raise ValueError(
                f"{interval}: expected candles of {', '.join(lengths)}, which the model is for"
            )
        some = [part for part in parts if part.interval == interval]
        values = np.concatenate(
            list(
                _values(
                    session, tensor, some, lengths[interval], MOST / sizes[interval], config.context
                )
            )
        )
        windows[interval] = len(values)
        intervals[interval] = {
            name: bins_of_values(column)
            for name, column in zip(config.features, values.T, strict=True)
        }
        advance(interval)
    source, digest = origin
    return Reference(
        source=source, sha256=digest, tensor=tensor, windows=windows, intervals=intervals
    )


def _values(
    session: ort.InferenceSession,
    tensor: str,
    parts: Sequence[Part],
    lengths: Sequence[int],
    share: float,
    spec: ContextSpec | None,
) -> Iterator[NDArray[np.floating[Any]]]:
    """Yield the features of a share of some windows, in batches (B, F)."""
    rng = np.random.default_rng(0)
    for part in parts:
        kept = part.at[rng.random(len(part.at)) < share]
        for length, at in by_length(kept, lengths):
            for window in windows_at(part.candles, length, at, BATCH):
                inputs = dict(zip((*INPUTS, CONTEXT), window, strict=False))
                if spec is None:
                    inputs.pop(CONTEXT, None)
                else:
                    inputs.setdefault(CONTEXT, unknown(spec, len(window[0])))
                yield session.run((tensor,), inputs)[0]


def extra_files(reference: Reference) -> dict[str, bytes]:
    """Return a reference as what is added to a bundle, files by name."""
    return {REFERENCE_NAME: reference.model_dump_json().encode() + b"\n"}


def write(loaded: Bundle, reference: Reference, folder: Path) -> BundleConfig:
    """Write a bundle with a reference into a folder, perhaps its own; return its config."""
    extra = extra_files(reference)
    config = loaded.config.model_copy(update={"extra_files": hashes_of(extra)})
    document = config.model_dump_json(indent=2).encode() + b"\n"
    contents = {**contents_of(loaded.path), **extra, CONFIG_NAME: document}
    assembled = assemble(folder, contents.__getitem__)
    OnnxForecaster(assembled)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return config
