"""Exports a fitted model as a bundle: ONNX graph, weights, scalers, golden windows, config."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from shared import bundle
from shared.bundle import (
    CONFIG_NAME,
    CONTEXT,
    GOLDEN_NAME,
    INPUTS,
    ONNX_NAME,
    OUTPUTS,
    SCALERS_NAME,
    WEIGHTS_NAME,
    Bundle,
    BundleConfig,
    BundleError,
    DataSpan,
    Golden,
    hashes_of,
)
from shared.candles import MAX_CANDLES
from shared.context import ContextSpec, unknown
from shared.forecaster import TOLERANCE, Forecaster, OnnxForecaster, Prediction
from shared.forecasts import MEDIAN
from trainer.blend import in_words
from trainer.context import inputs_of
from trainer.dataset import Inputs
from trainer.features import FEATURES, window_length
from trainer.fit import Fitted
from trainer.network import Blend, Model, PooledHar, Shape, drift_of
from trainer.reference import Part, extra_files, measure
from trainer.registry import TILE

log = logging.getLogger("trainer")

OPSET: Final = 20
"""Version of the ONNX operators in the graph."""

IR_VERSION: Final = 10
"""Version of the ONNX file format, that of ONNX 1.16."""

LSTM_INPUTS: Final = 4
"""Inputs that the LSTM node keeps: input, weights, recurrent weights, biases."""

GOLDEN: Final = 4
"""Number of golden windows: a bundle holds their forecasts, and loading it repeats them."""

BATCH: Final = 128
"""Number of windows in one model call while the graph is checked."""


Windows = Iterable[Inputs]
"""Batches of windows."""


class ExportError(Exception):
    """A graph that does not compute what the model does."""


@torch.no_grad()
def to_onnx(model: Model | Blend) -> bytes:
    """Return the graph ``candles`` (B, T, 5), ``open_ms`` (B, T) -> log returns, volatilities.

    That of a model with context has the input ``context`` (B, C, K) too.
    The same weights give the same bytes: what the exporter notes of source files is taken out.
    """
    length = model.length + 7 * TILE  # an example; T is left open
    candles = torch.ones(2, length, 5, dtype=torch.float64)
    open_ms = torch.arange(length).expand(2, -1).contiguous()
    batch = torch.export.Dim("B")
    candle = torch.export.Dim("T", min=model.length, max=MAX_CANDLES)
    inputs, names, shapes = [candles, open_ms], list(INPUTS), [{0: batch, 1: candle}] * 2
    if model.context:
        inputs.append(torch.ones(2, *model.context.shape))
        names.append(CONTEXT)
        shapes.append({0: batch})
    with _quiet():
        program = torch.onnx.export(
            model,
            tuple(inputs),
            input_names=names,
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamic_shapes=tuple(shapes),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export gave no program")
    for node in program.model.graph:
        if node.op_type == "LSTM":  # initial states are zero by default, and need no nodes
            node.resize_inputs(LSTM_INPUTS)
    RemoveUnusedNodesPass()(program.model)
    graph = _bare(program.model_proto)
    onnx.checker.check_model(graph)
    data: bytes = graph.SerializeToString(deterministic=True)  # type: ignore[no-untyped-call]
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own progress out of the log."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _bare(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without names of source files, stack traces and the exporter's version."""
    graph.ir_version = IR_VERSION
    graph.producer_name, graph.producer_version = "candlecast", ""
    del graph.metadata_props[:]
    inner = graph.graph
    parts: list[Any] = [
        inner,
        *inner.node,
        *inner.input,
        *inner.output,
        *inner.value_info,
        *inner.initializer,
    ]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    del inner.value_info[:]
    inner.name = "candlecast"
    return graph


def rebuild(loaded: Bundle) -> Model | Blend:
    """Return the PyTorch model of a bundle, from its weights; custom features must be registered.

    Raises:
        ValueError: when a feature of it is not known here.
    """
    config = loaded.config
    window_length(_of_candles(config), int(str(config.training["sequence_length"])))
    state = torch.load(loaded.path / WEIGHTS_NAME, weights_only=True)
    parts = len(state["shares"]) if "shares" in state else 0
    members = [_member(config, state, f"members.{number}.") for number in range(parts)]
    model = Blend(members, [0.0] * parts) if parts else _network(config, state, "")
    model.load_state_dict(state)
    return model.eval()


def _member(
    config: BundleConfig, state: Mapping[str, torch.Tensor], prefix: str
) -> Model | PooledHar:
    """Return an empty member of a blend, whose weights' names begin with ``prefix``."""
    if f"{prefix}unit" in state:
        return PooledHar(_shape(config, 0))
    return _network(config, state, prefix)


def _network(config: BundleConfig, state: Mapping[str, torch.Tensor], prefix: str) -> Model:
    """Return an empty model of the sizes of its weights."""
    hidden = state[f"{prefix}network.lstm.weight_hh_l0"].shape[1]
    steps = int(str(config.training["sequence_length"]))
    return Model(_of_candles(config), steps, _shape(config, hidden), config.context)


def _of_candles(config: BundleConfig) -> tuple[str, ...]:
    """Return the features of the candles, without those of the context."""
    return tuple(name for name in config.features if name not in inputs_of(config.context))


def _shape(config: BundleConfig, hidden: int) -> Shape:
    return Shape(
        features=len(config.features),
        hidden=hidden,
        horizons=len(config.horizons),
        levels=len(config.quantile_levels),
        median=config.quantile_levels.index(MEDIAN),
        drift=drift_of(tuple(config.features)),
    )


@torch.no_grad()
def largest_difference(model: Model | Blend, forecaster: Forecaster, windows: Windows) -> float:
    """Return how far PyTorch and ONNX Runtime are apart at most; NaN when either is not finite.

    Args:
        model: as trained.
        forecaster: its graph, as served.
        windows: in batches.

    Raises:
        ExportError: when a window's numbers depend on the others of its batch.
    """
    apart = 0.0
    for inputs in windows:
        served = forecaster.predict(*inputs)
        ours = model(*map(torch.from_numpy, inputs))
        for mine, theirs in zip(ours, (served.log_return, served.volatility), strict=True):
            apart = np.maximum(apart, np.abs(mine.numpy() - theirs).max())  # keeps NaN
        _check_batch(forecaster, inputs, served)
    return float(apart)


def _check_batch(forecaster: Forecaster, inputs: Inputs, whole: Prediction) -> None:
    """Compare the last windows of a batch, alone and three together, with the whole batch."""
    for count in (1, 3):
        alone = forecaster.predict(*(array[-count:] for array in inputs))
        if not np.array_equal(alone.log_return, whole.log_return[-count:], equal_nan=True):
            raise ExportError(
                "a window's numbers depend on its batch: take logarithms and the like of whole "
                "series (B, T) or of values at the newest steps, whose count is a multiple of 4"
            )


@dataclass(frozen=True)
class Exported:
    """A checked graph and all that becomes its bundle, still in memory."""

    fitted: Fitted
    contents: Mapping[str, bytes]  # files by name
    config: BundleConfig
    forecaster: OnnxForecaster

    def with_reference(self, parts: Sequence[Part]) -> Exported:
        """Return the same with the features of its training windows.

        A graph whose features are not found goes without: drift of features is then not measured.
        """
        span = self.config.data
        model = self.contents[ONNX_NAME]
        try:
            reference = measure(self.config, model, parts, (span.source, span.sha256))
        except ValueError as error:
            log.warning("the bundle has no reference of features: %s", error)
            return self
        extra = extra_files(reference)
        config = self.config.model_copy(update={"extra_files": hashes_of(extra)})
        return replace(self, contents={**self.contents, **extra}, config=config)

    def write(self, folder: Path, metrics: Mapping[str, float]) -> BundleConfig:
        """Write a bundle that ``shared.bundle.load`` accepts; return its config.

        Args:
            folder: made if missing; files of a former bundle are replaced.
            metrics: to keep with it, beside what its context is worth.
        """
        of_context = dict(item for worth in self.fitted.worth for item in worth.metrics().items())
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.contents.items():
            (folder / file).write_bytes(content)
        config = self.config.model_copy(update={"metrics": {**metrics, **of_context}})
        (folder / CONFIG_NAME).write_text(config.model_dump_json(indent=2) + "\n", "utf-8")
        return config


def export(
    fitted: Fitted,
    seen: Callable[[int], Windows],
    check_on: Callable[[int], Windows],
    name: str,
    intervals: Sequence[str],
    data: DataSpan,
) -> Exported:
    """Return a fitted model as a graph, after checking that both compute the same.

    Args:
        fitted: the model, with what explains it.
        seen: gives windows that it was trained on, in batches of the given size; the first become
            the golden ones.
        check_on: gives all windows, such as the test set's, in batches of the given size, on which
            PyTorch and ONNX Runtime must agree within ``TOLERANCE``.
        name: the model's, without a version.
        intervals: of the candles that it is for.
        data: what it was trained on.

    Raises:
        ExportError: when they do not agree.
    """
    graph = to_onnx(fitted.model)
    golden = _golden(graph, next(iter(seen(GOLDEN))), fitted.model.context)
    contents = {
        ONNX_NAME: graph,
        WEIGHTS_NAME: _saved(partial(torch.save, fitted.model.state_dict())),
        SCALERS_NAME: _saved(partial(joblib.dump, fitted.scalers)),
        GOLDEN_NAME: golden.to_bytes(),
    }
    config = _config(fitted, name, intervals, data, hashes_of(contents))
    try:
        forecaster = OnnxForecaster(Bundle(Path(config.model_version), config, graph, golden))
    except BundleError as error:
        raise ExportError(str(error)) from error
    apart = largest_difference(fitted.model, forecaster, check_on(BATCH))
    if not apart <= TOLERANCE:
        raise ExportError(f"PyTorch and ONNX: expected within {TOLERANCE:g}, got {apart:g} apart")
    return Exported(fitted, contents, config, forecaster)


def _saved(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _golden(graph: bytes, windows: Inputs, spec: ContextSpec | None) -> Golden:
    """Return windows with the graph's forecasts; of a context the last window knows nothing."""
    candles, open_ms, *closes = windows
    inputs = dict(zip(INPUTS, (candles, open_ms), strict=True))
    if spec:
        inputs[CONTEXT] = closes[0].copy() if closes else unknown(spec, len(candles))
        inputs[CONTEXT][-1] = np.nan
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    log_return, volatility = session.run(OUTPUTS, inputs)
    return Golden(candles, open_ms, log_return, volatility, inputs.get(CONTEXT))


def _config(
    fitted: Fitted,
    name: str,
    intervals: Sequence[str],
    data: DataSpan,
    files: dict[str, str],
) -> BundleConfig:
    config = fitted.config
    return BundleConfig(
        name=name,
        model_version=bundle.version_of(name, files),
        intervals=tuple(intervals),
        inputs=bundle.tensor_inputs(context=fitted.model.context),
        outputs=bundle.tensor_outputs(len(config.horizons), len(config.quantile_levels)),
        window_length=config.window_length,
        window_lengths={name: config.window_lengths(name) for name in intervals},
        horizons=config.horizons,
        quantile_levels=config.quantile_levels,
        context=fitted.model.context,
        features={
            **{name: FEATURES[name].description for name in config.features},
            **inputs_of(fitted.model.context),
        },
        data=data,
        training=_training(fitted),
        metrics={},
        files=files,
    )


def _training(fitted: Fitted) -> dict[str, bundle.Setting]:
    """Return how the model was trained, for people to read."""
    config = asdict(fitted.config)
    for name in ("features", "horizons", "quantile_levels", "context"):
        del config[name]
    return {
        **{
            key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
        },
        "seed": fitted.seed,
        "epochs": fitted.epochs,
        "train_samples": fitted.train_samples,
        "validation_samples": fitted.validation_samples,
        **({"mix": in_words(fitted.choice.mix)} if fitted.choice else {}),
        **({"context": list(map(str, fitted.worth))} if fitted.worth else {}),
    }
