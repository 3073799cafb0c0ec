"""A fitted ensemble to files: ONNX with scaling inside, weights, scalers, config.

The graph is built node by node from the weights, so that it has nothing but what serving needs
and the same weights give the same bytes, whatever exporter PyTorch ships.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared import bundle
from shared.bundle import BundleConfig, DataSpan
from trainer.fit import Fitted
from trainer.network import CLIP, MAX_LOG_SCALE, Ensemble, Shape

Floats = NDArray[np.floating[Any]]

OPSET: Final = 17
IR_VERSION: Final = 8

TOLERANCE: Final = 1e-5
"""Largest difference between PyTorch and ONNX Runtime, of log returns and volatilities."""


class ExportError(Exception):
    """A graph that does not compute what the network does."""


class _Graph:
    """Nodes and constants, in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node; return the names of its outputs."""
        number = len(self.nodes)
        names = [f"{kind}_{number}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; return its name."""
        return self.add(kind, *inputs, **attributes)[0]

    def constant(self, values: Floats | NDArray[np.int64]) -> str:
        """Append a constant; return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def weight(self, tensor: torch.Tensor) -> str:
        return self.constant(tensor.detach().numpy().astype(np.float32))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def shape(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def clip(self, value: str, limit: float) -> str:
        return self.one("Clip", value, self.number(-limit), self.number(limit))


def to_onnx(model: Ensemble, sequence_length: int) -> bytes:
    """Return the graph ``features`` (B, L, F) -> ``log_return`` (B, H, Q), ``volatility`` (B, H).

    It computes what ``Ensemble.forward`` does. One window costs nodes, not arithmetic: so all that
    an exponential multiplies are columns of one matrix, members' gaps, medians and variances, and
    their sums over members, and over the gaps below a quantile, are one product with ``_sums``.
    """
    graph = _Graph()
    sizes = model.shape
    n, h, q = sizes.members, sizes.horizons, sizes.levels
    columns = n * h * (q + 1)
    scaled = graph.one("MatMul", "features", graph.weight(model.input_weight))
    inputs = graph.clip(graph.one("Add", scaled, graph.weight(model.input_bias)), CLIP)
    head = graph.one(
        "Gemm",
        _lstm(graph, model, inputs),
        graph.constant(_head(sizes, model.head_weight)),
        graph.constant(_head(sizes, model.head_bias)),
    )
    gaps, log_factors = graph.add("Split", head, graph.shape(columns, columns), outputs=2, axis=1)
    square = graph.one("Add", graph.one("Mul", gaps, gaps), graph.number(4.0))
    twice = graph.one("Add", gaps, graph.one("Sqrt", square))  # 2 x squareplus, 2 for a gap of 0
    one = np.ones((1, 1, 1), np.float32)
    squared = graph.constant(_columns(sizes, one, one, 2 * one))
    clipped = graph.one("Mul", graph.clip(log_factors, MAX_LOG_SCALE), squared)
    factors = graph.one("Exp", graph.one("Add", clipped, _log_scales(graph, model)))
    sums = graph.one("MatMul", graph.one("Mul", twice, factors), graph.constant(_sums(model)))
    returns, variance = graph.add("Split", sums, graph.shape(h * q, h), outputs=2, axis=1)
    _output(graph, "Reshape", "log_return", returns, graph.shape(-1, h, q))
    _output(graph, "Sqrt", "volatility", variance)
    return _serialised(graph, model, sequence_length)


def _columns(sizes: Shape, gaps: Floats, medians: Floats, variances: Floats) -> Floats:
    """Return columns (..., nH(Q + 1)): gaps (n, H, Q - 1), then medians and variances (n, H).

    Each argument is broadcast to its columns.
    """
    n, h, q = sizes.members, sizes.horizons, sizes.levels
    leading = max((one.shape[:-3] for one in (gaps, medians, variances)), key=len)
    parts = [
        np.broadcast_to(one, (*leading, n, h, width)).reshape(*leading, n * h * width)
        for one, width in ((gaps, q - 1), (medians, 1), (variances, 1))
    ]
    return np.concatenate(parts, axis=-1)


def _head(sizes: Shape, tensor: torch.Tensor) -> Floats:
    """Return the head's weight or bias for gaps of all columns, then for their log factors.

    Medians and variances have gaps of 0; medians have a log factor of 0.
    """
    values = tensor.detach().numpy()
    values = values.reshape(*values.shape[:-1], sizes.members, sizes.horizons, sizes.levels + 1)
    log_scale, log_volatility, gaps = np.split(values, [1, 2], axis=-1)
    nothing = np.zeros_like(log_scale)
    columns = [
        _columns(sizes, gaps, nothing, nothing),
        _columns(sizes, log_scale, nothing, log_volatility),
    ]
    return np.concatenate(columns, axis=-1)


def _log_scales(graph: _Graph, model: Ensemble) -> str:
    """Return the name of the log of trust times scale of each column, (B, nH(Q + 1))."""
    sizes = model.shape
    n, h = sizes.members, sizes.horizons

    def scales(tensor: torch.Tensor) -> Floats:
        values = tensor.detach().numpy()
        spread, level, strangeness = np.split(values, [n * h, 2 * n * h], axis=-1)
        spread = spread.reshape(*spread.shape[:-1], n, h, 1)
        columns = _columns(sizes, spread, spread, 2 * level.reshape(spread.shape))
        strange = strangeness * np.sqrt(-model.distrust.detach().numpy())  # (..., n)
        return np.concatenate([columns, strange, -strange], axis=-1)

    newest = graph.one("Gather", "features", graph.constant(np.array(-1)), axis=1)  # (B, F)
    both = graph.one(
        "Gemm",
        newest,
        graph.constant(scales(model.scale_weight)),
        graph.constant(scales(model.scale_bias)),
    )
    columns = n * h * (sizes.levels + 1)
    log_scale, strange, opposite = graph.add(
        "Split", both, graph.shape(columns, n, n), outputs=3, axis=1
    )
    log_trust = graph.one("LogSoftmax", graph.one("Mul", strange, opposite), axis=1)  # (B, n)
    own = np.eye(n, dtype=np.float32)[:, :, None, None]
    each = graph.constant(_columns(sizes, own, own, own))
    return graph.one("Gemm", log_trust, each, log_scale)


def _sums(model: Ensemble) -> Floats:
    """Return the matrix (nH(Q + 1), HQ + H) from columns, doubled, to quantiles and variances."""
    n, h, q = model.shape.members, model.shape.horizons, model.shape.levels
    level, gap = np.arange(q)[:, None], np.arange(q - 1)
    median = model.shape.median
    # The quantile is the median plus the gaps between, or minus them.
    between = 1.0 * ((gap < level) & (gap >= median)) - 1.0 * ((gap >= level) & (gap < median))
    same = np.eye(h)[:, None, None, :, None]  # (H, 1, 1, H, 1)
    own = np.ones((1, 1, n, 1, 1))
    location = model.location.detach().numpy()[..., None]  # (n, H, 1)
    nothing = np.zeros((h, q, 1, 1, 1))
    quantiles = _columns(
        model.shape, same * own * between[:, None, None, :], same * location + nothing, nothing
    )
    nothing = np.zeros((h, 1, 1, 1))
    variances = _columns(model.shape, nothing, nothing, np.eye(h)[:, None, :, None])
    rows = np.concatenate([quantiles.reshape(h * q, -1), variances])
    return (0.5 * rows.T).astype(np.float32)


def _lstm(graph: _Graph, model: Ensemble, inputs: str) -> str:
    """Return the name of the last state, (B, n x hidden). ONNX orders gates i, o, f, c."""
    size = model.shape.members * model.shape.hidden

    def gates(name: str) -> NDArray[np.float32]:
        values = model.lstm.get_parameter(name).detach().numpy()
        return values.reshape(4, size, -1)[[0, 3, 1, 2]].reshape(4 * size, -1)

    bias = np.concatenate([gates("bias_ih_l0"), gates("bias_hh_l0")])[:, 0]
    _, last = graph.add(
        "LSTM",
        graph.one("Transpose", inputs, perm=[1, 0, 2]),  # (L, B, F)
        graph.constant(gates("weight_ih_l0")[None]),
        graph.constant(gates("weight_hh_l0")[None]),
        graph.constant(bias[None]),
        outputs=2,
        hidden_size=size,
    )
    return graph.one("Squeeze", last, graph.shape(0))


def _output(graph: _Graph, kind: str, name: str, *inputs: str, **attributes: Any) -> None:
    graph.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))


def _serialised(graph: _Graph, model: Ensemble, sequence_length: int) -> bytes:
    shape = model.shape
    made = helper.make_graph(
        graph.nodes,
        "candlecast",
        [_tensor_info("features", "B", sequence_length, shape.features)],
        [
            _tensor_info("log_return", "B", shape.horizons, shape.levels),
            _tensor_info("volatility", "B", shape.horizons),
        ],
        graph.constants,
    )
    opset = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)  # type: ignore[no-untyped-call]
    return data


def _tensor_info(name: str, *sizes: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes))


def largest_difference(model: Ensemble, graph: bytes, features: NDArray[np.float32]) -> float:
    """Return how far PyTorch and ONNX Runtime are apart at most, over windows (B, L, F)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"features": features})
    with torch.no_grad():
        ours = model(torch.from_numpy(features))
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(ours, theirs, strict=True))


def write_bundle(
    folder: Path,
    fitted: Fitted,
    check_on: NDArray[np.float32],
    name: str,
    interval: str,
    data: DataSpan,
    metrics: dict[str, float],
) -> BundleConfig:
    """Write a bundle that ``shared.bundle.load`` accepts; return its config.

    Args:
        folder: made if missing; files of a former bundle are replaced.
        fitted: what to write.
        check_on: raw features (B, L, F), such as the test set's, on which PyTorch and ONNX
            Runtime must agree within ``TOLERANCE``.
        name: the model's, without a version.
        interval: of the candles.
        data: what it was trained on.
        metrics: to keep with it.

    Raises:
        ExportError: when they do not agree; nothing is written then.
    """
    graph = to_onnx(fitted.model, fitted.config.sequence_length)
    apart = largest_difference(fitted.model, graph, check_on)
    if not apart <= TOLERANCE:
        raise ExportError(f"PyTorch and ONNX: expected within {TOLERANCE:g}, got {apart:g} apart")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / bundle.ONNX_NAME).write_bytes(graph)
    torch.save(fitted.model.state_dict(), folder / bundle.WEIGHTS_NAME)
    joblib.dump(fitted.scalers, folder / bundle.SCALERS_NAME)
    hashes = {file: bundle.file_hash(folder / file) for file in bundle.FILE_NAMES}
    settings = fitted.config
    config = BundleConfig(
        name=name,
        model_version=bundle.version_of(name, hashes),
        interval=interval,
        sequence_length=settings.sequence_length,
        window_length=settings.window_length,
        features=settings.features,
        horizons=settings.horizons,
        quantile_levels=settings.quantile_levels,
        data=data,
        training=_training(fitted),
        metrics=metrics,
        files=hashes,
    )
    (folder / bundle.CONFIG_NAME).write_text(config.model_dump_json(indent=2) + "\n", "utf-8")
    return config


def _training(
    fitted: Fitted,
) -> dict[str, str | int | float | bool | list[int] | list[float] | None]:
    config = fitted.config
    return {
        "scalings": ", ".join(config.scalings),
        "hidden": config.hidden,
        "dropout": config.dropout,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "batch": config.batch,
        "max_epochs": config.max_epochs,
        "patience": config.patience,
        "average": config.average,
        "volatility_weight": config.volatility_weight,
        "stop_weight": config.stop_weight,
        "drift_share": config.drift_share,
        "ratio_power": config.ratio_power,
        "reach": config.reach,
        "validation_share": config.validation_share,
        "seed": fitted.seed,
        "epochs": [best + 1 for best in fitted.best_epochs],
        "train_samples": fitted.train_samples,
        "validation_samples": fitted.validation_samples,
    }
