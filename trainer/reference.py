"""Features of the training windows, by interval: what serving measures their drift against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from shared.bundle import (
    CONFIG_NAME,
    FEATURES_NAME,
    FEATURES_OUTPUT,
    REFERENCE_NAME,
    Bundle,
    BundleConfig,
    assemble,
    contents_of,
    hashes_of,
)
from shared.feature_drift import FeatureBins, Reference, bins_of_values
from shared.forecaster import OnnxForecaster, features_of, session_of
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


def graph_of(model: bytes, features: Sequence[str]) -> bytes:
    """Return the part of a model's graph that gives the newest candle's raw features, (B, F).

    Raises:
        ValueError: when the graph is not one that this trainer exports.
    """
    whole = onnx.load_from_string(model)
    newest = next(
        (
            node.input[0]
            for node in whole.graph.node
            if node.op_type == "MatMul" and node.input[1].endswith(SCALES)
        ),
        None,
    )
    if newest is None:
        raise ValueError(
            f"model.onnx: expected a MatMul by {SCALES}, as in graphs of python -m trainer fit, "
            "got none"
        )
    graph = whole.graph
    wanted, nodes = {newest}, []
    for node in reversed(graph.node):  # in the order of a graph, so that users come before makers
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input)
    renamed = onnx.helper.make_node("Identity", [newest], [FEATURES_OUTPUT])
    output = onnx.helper.make_tensor_value_info(
        FEATURES_OUTPUT, onnx.TensorProto.FLOAT, ["B", len(features)]
    )
    part = onnx.helper.make_model(
        onnx.helper.make_graph(
            [*reversed(nodes), renamed],
            graph.name,
            list(graph.input),
            [output],
            [tensor for tensor in graph.initializer if tensor.name in wanted],
        ),
        opset_imports=list(whole.opset_import),
        ir_version=whole.ir_version,
        producer_name=whole.producer_name,
    )
    onnx.checker.check_model(part)
    data: bytes = part.SerializeToString(deterministic=True)  # type: ignore[no-untyped-call]
    return data


def measure(
    graph: bytes,
    features: Sequence[str],
    lengths: Mapping[str, Sequence[int]],
    parts: Sequence[Part],
    origin: tuple[str, str],
    advance: Callable[[str], object] = str,
) -> Reference:
    """Return how the features of training windows are distributed.

    Args:
        graph: of the features.
        features: their names, F of them.
        lengths: that a window of an interval may have.
        parts: all training windows; ``MOST`` of an interval are drawn, always the same.
        origin: source of the candles, and their SHA-256.
        advance: called with the name of each interval that is done.

    Raises:
        ValueError: when an interval has windows and is none of the model's.
    """
    session = session_of(graph)
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
            list(_values(session, some, lengths[interval], MOST / sizes[interval]))
        )
        windows[interval] = len(values)
        intervals[interval] = {
            name: bins_of_values(column) for name, column in zip(features, values.T, strict=True)
        }
        advance(interval)
    return Reference(source=origin[0], sha256=origin[1], windows=windows, intervals=intervals)


def _values(
    session: ort.InferenceSession, parts: Sequence[Part], lengths: Sequence[int], share: float
) -> Iterator[NDArray[np.floating[Any]]]:
    """Yield the features of a share of some windows, in batches (B, F)."""
    rng = np.random.default_rng(0)
    for part in parts:
        kept = part.at[rng.random(len(part.at)) < share]
        for length, at in by_length(kept, lengths):
            for candles, open_ms in windows_at(part.candles, length, at, BATCH):
                yield features_of(session, candles, open_ms)


def extra_files(
    config: BundleConfig,
    model: bytes,
    parts: Sequence[Part],
    origin: tuple[str, str],
    advance: Callable[[str], object] = str,
) -> dict[str, bytes]:
    """Return the graph of a bundle's features and their reference, as files by name.

    Args:
        config: of the bundle.
        model: its graph.
        parts: the windows that it was trained on.
        origin: source of the candles, and their SHA-256.
        advance: called with the name of each interval that is done.

    Raises:
        ValueError: when the bundle's graph is not of this trainer, or there are no windows.
    """
    features = tuple(config.features)
    graph = graph_of(model, features)
    reference = measure(graph, features, config.window_lengths, parts, origin, advance)
    document = reference.model_dump_json() + "\n"
    return {FEATURES_NAME: graph, REFERENCE_NAME: document.encode()}


def write(loaded: Bundle, extra: Mapping[str, bytes], folder: Path) -> BundleConfig:
    """Write a bundle with extra files into a folder, perhaps its own; return its config."""
    config = loaded.config.model_copy(update={"extra_files": hashes_of(extra)})
    document = config.model_dump_json(indent=2).encode() + b"\n"
    contents = {**contents_of(loaded.path), **extra, CONFIG_NAME: document}
    assembled = assemble(folder, contents.__getitem__)
    OnnxForecaster(assembled)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return config
