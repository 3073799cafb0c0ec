"""Bundle: a model on disk, with its provenance and golden forecasts; loading verifies it all."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.candles import INTERVALS_MS, MAX_CANDLES
from shared.context import Closes, ContextSpec
from shared.feature_drift import Reference
from shared.forecasts import MAX_HORIZONS, MAX_LEVELS, MAX_VERSION, MEDIAN
from shared.messages import describe
from shared.settings import ServiceSettings

CONFIG_NAME: Final = "config.json"
ONNX_NAME: Final = "model.onnx"
WEIGHTS_NAME: Final = "model.pth"
SCALERS_NAME: Final = "scalers.joblib"
GOLDEN_NAME: Final = "golden.npz"
FILE_NAMES: Final = (ONNX_NAME, WEIGHTS_NAME, SCALERS_NAME, GOLDEN_NAME)
REFERENCE_NAME: Final = "reference.json"
EXTRA_NAMES: Final = (REFERENCE_NAME,)
"""Files that a bundle may have: what the drift of features is measured by."""

FORMAT: Final = 3

MAX_FILE_BYTES: Final = 64 << 20
"""Largest file of a bundle; the default bundle's graph has 0.3 MB."""

MAX_CONFIG_BYTES: Final = 1 << 20
"""Largest config; the default bundle's has 10 kB."""

MAX_GOLDEN: Final = 1024
"""Most golden windows."""

INPUTS: Final = ("candles", "open_ms")
"""Names of the graph's input tensors."""

CONTEXT: Final = "context"
"""Name of one more, of a model that reads the closes of other symbols."""

OUTPUTS: Final = ("log_return", "volatility")
"""Names of the graph's output tensors."""


Setting = str | int | float | bool | list[int] | list[float] | list[str] | None
"""Value of a setting of the training, for people to read."""


class BundleError(Exception):
    """A bundle that is missing, incomplete, damaged or of another format."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataPart(_Part):
    """One of several files of candles that a model was trained on."""

    source: str
    interval: str
    symbols: int
    first_ms: int  # opening time of the first candle, UTC
    last_ms: int  # of the last
    candles: int
    sha256: str  # of the candles as used


class DataSpan(_Part):
    """The candles that a model was trained on."""

    source: str
    symbols: tuple[str, ...]
    first_ms: int  # opening time of the first candle, UTC
    last_ms: int  # opening time of the last candle that training or early stopping saw, UTC
    candles: int
    sha256: str  # of the candles as used
    parts: tuple[DataPart, ...] = ()  # where they are of several files


class TensorSpec(_Part):
    """The form of one tensor of the graph; -1 is any number of windows, or of their candles."""

    datatype: Literal["FP64", "FP32", "INT64"]
    shape: tuple[int, ...]


class BundleConfig(_Part):
    """``config.json``: all that serving needs to know of a model, and its provenance."""

    format: int = FORMAT
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
    model_version: Annotated[str, Field(max_length=MAX_VERSION, pattern=r"^[\w.+-]+$")]
    intervals: tuple[str, ...]  # of the candles it is for
    inputs: dict[str, TensorSpec]  # of the graph, by name
    outputs: dict[str, TensorSpec]
    window_length: Annotated[int, Field(ge=2, le=MAX_CANDLES)]  # candles that a forecast needs
    window_lengths: dict[str, tuple[int, ...]]  # interval -> lengths that a window may have, T
    horizons: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_CANDLES)], ...],
        Field(min_length=1, max_length=MAX_HORIZONS),
    ]  # candles ahead, rising; the bounds are a forecast message's
    quantile_levels: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(min_length=1, max_length=MAX_LEVELS),
    ]  # rising, with the median
    context: ContextSpec | None = None  # what it reads beside a series's own candles
    features: dict[str, str]  # name -> description, for people
    data: DataSpan
    training: dict[str, Setting]
    metrics: dict[str, float]
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]  # name -> SHA-256
    extra_files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = {}  # the same
    code: str = ""  # version of Candlecast that trained it, with the commit where it is known
    run: str = ""  # MLflow run that it was trained in

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, values in (("horizons", self.horizons), ("levels", self.quantile_levels)):
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name}: expected rising numbers, got {values}")
        if MEDIAN not in self.quantile_levels:
            raise ValueError(f"levels: expected the median among them, got {self.quantile_levels}")
        unknown = [name for name in self.intervals if name not in INTERVALS_MS]
        if unknown or not self.intervals:
            raise ValueError(f"intervals: expected some of {', '.join(INTERVALS_MS)}")
        if set(self.window_lengths) != set(self.intervals):
            raise ValueError(f"window_lengths: expected those of {', '.join(self.intervals)}")
        for name, lengths in self.window_lengths.items():
            rising = bool(lengths) and list(lengths) == sorted(set(lengths))
            if not rising or lengths[0] != self.window_length or lengths[-1] > MAX_CANDLES:
                raise ValueError(
                    f"window_lengths: {name}: expected rising numbers from {self.window_length} "
                    f"to {MAX_CANDLES} at most, got {lengths}"
                )
        for given, expected in (
            (self.inputs, self.graph_inputs),
            (self.outputs, self.graph_outputs),
        ):
            if given != expected:
                raise ValueError(f"tensors: expected {expected}, got {given}")
        return self

    @property
    def file_names(self) -> tuple[str, ...]:
        """The bundle's files but its config."""
        return (*self.files, *self.extra_files)

    @property
    def graph_inputs(self) -> dict[str, TensorSpec]:
        """The inputs that a graph of these sizes has."""
        return tensor_inputs(context=self.context)

    @property
    def graph_outputs(self) -> dict[str, TensorSpec]:
        """The outputs that a graph of these sizes has."""
        return tensor_outputs(len(self.horizons), len(self.quantile_levels))


def tensor_inputs(candles: int = -1, context: ContextSpec | None = None) -> dict[str, TensorSpec]:
    """Return the graph's inputs: open, high, low, close, volume, and opening times in UTC ms.

    A model with context has one more: the newest closes of each context symbol, oldest first; what
    is not above 0, NaN included, is unknown.

    Args:
        candles: of a window; by default any number that the model takes.
        context: that the model reads, if any.
    """
    inputs = {
        "candles": TensorSpec(datatype="FP64", shape=(-1, candles, 5)),
        "open_ms": TensorSpec(datatype="INT64", shape=(-1, candles)),
    }
    if context:
        inputs[CONTEXT] = TensorSpec(datatype="FP32", shape=(-1, *context.shape))
    return inputs


def tensor_outputs(horizons: int, levels: int) -> dict[str, TensorSpec]:
    """Return the graph's outputs: quantiles of the log return, and volatility per candle."""
    return {
        "log_return": TensorSpec(datatype="FP32", shape=(-1, horizons, levels)),
        "volatility": TensorSpec(datatype="FP32", shape=(-1, horizons)),
    }


@dataclass(frozen=True)
class Golden:
    """Windows and the forecasts that the graph gave for them when it was exported."""

    candles: NDArray[np.float64]  # (G, T, 5)
    open_ms: NDArray[np.int64]  # (G, T)
    log_return: NDArray[np.float32]  # (G, H, Q)
    volatility: NDArray[np.float32]  # (G, H)
    context: Closes | None = None  # (G, C, K), of a model that reads one

    @property
    def inputs(self) -> tuple[NDArray[np.float64], NDArray[np.int64], Closes | None]:
        """The windows, as a forecaster takes them."""
        return self.candles, self.open_ms, self.context

    def to_bytes(self) -> bytes:
        """Return the windows and forecasts as an ``.npz`` archive."""
        stream = io.BytesIO()
        arrays = {name: array for name, array in vars(self).items() if array is not None}
        np.savez_compressed(stream, **arrays)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """Return an archive's content; raises ``ValueError`` or ``KeyError`` for another one."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_FILE_BYTES:
            raise ValueError(f"expected at most {MAX_FILE_BYTES} bytes unpacked, got {size}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = cls.__annotations__.keys() - ({CONTEXT} - set(arrays.files))
            return cls(**{name: arrays[name] for name in names})

    def check(self, lengths: Collection[int], context: ContextSpec | None = None) -> None:
        """Raise ``ValueError`` unless it holds windows of one of the lengths, with finite prices.

        Args:
            lengths: that a window may have, rising.
            context: that the model reads, if any.
        """
        count = len(self.open_ms)
        held = self.open_ms.shape[-1]
        length = held if held in lengths else min(lengths)
        if not 1 <= count <= MAX_GOLDEN:
            raise ValueError(f"expected 1 to {MAX_GOLDEN} windows, got {count}")
        known = None if self.context is None else (self.context.shape, self.context.dtype)
        expected = ((count, *context.shape), np.dtype(np.float32)) if context else None
        if known != expected:
            raise ValueError(f"context: expected {expected or 'none'}, got {known or 'none'}")
        for name, array, shape, datatype in (
            ("candles", self.candles, (count, length, 5), np.float64),
            ("open_ms", self.open_ms, (count, length), np.int64),
        ):
            if array.shape != shape or array.dtype != datatype:
                raise ValueError(
                    f"{name}: expected {np.dtype(datatype)} {shape}, got {array.dtype} "
                    f"{array.shape}"
                )
        if not np.isfinite(self.candles).all() or not (self.candles[..., :4] > 0).all():
            raise ValueError("candles: expected finite prices above 0")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, with the very bytes whose hashes were checked.

    Serving runs the graph alone: ``candles`` (B, T, 5), ``open_ms`` (B, T) and, where the config
    has one, ``context`` (B, C, K) -> ``log_return`` (B, H, Q) and ``volatility`` (B, H). It never
    unpickles the other files.
    """

    path: Path
    config: BundleConfig
    onnx: bytes
    golden: Golden
    reference: Reference | None = None  # of the training windows' features


def default_path() -> Path:
    """Return the folder of the bundle that comes with Candlecast."""
    return Path(str(files("shared") / "models" / "default"))


class ServingSettings(ServiceSettings):
    """Which model a process serves."""

    help_title: ClassVar[str] = "model"

    model: Path = Field(
        default_factory=default_path,
        description="folder of the model bundle that serves where the store names no champion; by "
        "default the built-in one",
    )


def load(path: Path) -> Bundle:
    """Return the bundle in a folder after checking its format and every file's hash.

    Raises:
        BundleError: naming the file, the expected and the got.
    """
    return assemble(path, lambda name: _read(path / name, most_bytes(name)))


def assemble(path: Path, read: Callable[[str], bytes]) -> Bundle:
    """Return a bundle of files from anywhere, after the checks of ``load``; raises as it does.

    Args:
        path: what the bundle is called in errors.
        read: returns a file's content by its name.
    """
    config = read_config(path / CONFIG_NAME, read(CONFIG_NAME))
    if set(config.files) != set(FILE_NAMES):
        raise BundleError(
            f"{path / CONFIG_NAME}: expected the files {sorted(FILE_NAMES)}, "
            f"got {sorted(config.files)}"
        )
    if config.extra_files and set(config.extra_files) != set(EXTRA_NAMES):
        raise BundleError(
            f"{path / CONFIG_NAME}: expected the extra files {sorted(EXTRA_NAMES)} or none, "
            f"got {sorted(config.extra_files)}"
        )
    contents = {
        name: _verified(path / name, read(name), digest)
        for name, digest in (config.files | config.extra_files).items()
    }
    version = version_of(config.name, config.files)
    if config.model_version != version:
        raise BundleError(
            f"{path / CONFIG_NAME}: expected model_version {version} by the files' hashes, "
            f"got {config.model_version}"
        )
    try:
        golden = Golden.from_bytes(contents[GOLDEN_NAME])
        lengths = {length for some in config.window_lengths.values() for length in some}
        golden.check(lengths, config.context)
    except Exception as error:  # NumPy and zipfile raise many kinds for a damaged archive
        raise BundleError(f"{path / GOLDEN_NAME}: not the golden windows: {error}") from error
    reference = None
    if REFERENCE_NAME in contents:
        reference = _reference(path / REFERENCE_NAME, contents[REFERENCE_NAME], config)
    return Bundle(path, config, contents[ONNX_NAME], golden, reference)


def _reference(path: Path, data: bytes, config: BundleConfig) -> Reference:
    try:
        reference = Reference.model_validate_json(data)
        reference.require_features(tuple(config.features))
    except ValidationError as error:
        reasons = "; ".join(map(describe, error.errors(include_url=False)[:5]))
        raise BundleError(f"{path}: not the features of training: {reasons}") from None
    except ValueError as error:
        raise BundleError(f"{path}: not the features of training: {error}") from None
    return reference


def contents_of(path: Path) -> dict[str, bytes]:
    """Return the files of the bundle in a folder by name; raises ``BundleError``."""
    data = _read(path / CONFIG_NAME, most_bytes(CONFIG_NAME))
    extra = read_config(path / CONFIG_NAME, data).extra_files.keys() & set(EXTRA_NAMES)
    names = (*FILE_NAMES, *sorted(extra))
    contents = {name: _read(path / name, most_bytes(name)) for name in names}
    return contents | {CONFIG_NAME: data}


def most_bytes(name: str) -> int:
    """Return the most bytes that a file of a bundle may have."""
    return MAX_CONFIG_BYTES if name in {CONFIG_NAME, REFERENCE_NAME} else MAX_FILE_BYTES


def read_config(path: Path, data: bytes) -> BundleConfig:
    """Return the config in a file's content; raises ``BundleError`` naming ``path``."""
    try:
        version = _Format.model_validate_json(data).format
        if version != FORMAT:
            raise BundleError(
                f"{path}: expected format {FORMAT}, got {version}, which another version of "
                "Candlecast made. Make a new bundle: python -m trainer fit --data CANDLES --out "
                "BUNDLE"
            )
        return BundleConfig.model_validate_json(data)
    except ValidationError as error:
        reasons = "; ".join(map(describe, error.errors(include_url=False)[:5]))
        raise BundleError(f"{path}: not a bundle's config: {reasons}") from None


class _Format(BaseModel):
    """Field that the config of any version has."""

    format: int


def _read(path: Path, most: int) -> bytes:
    """Return a regular file of bounded size; a FIFO or a device would never end."""
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path}: expected a regular file, got another kind")
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise BundleError(f"{path}: expected at most {most} bytes, got more")
    return data


def _verified(path: Path, data: bytes, expected: str) -> bytes:
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise BundleError(f"{path}: expected SHA-256 {expected}, got {got}: the file is damaged")
    return data


def hashes_of(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file, in hexadecimal digits."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def version_of(name: str, hashes: Mapping[str, str]) -> str:
    """Return a model's version: its name and 12 digits over the hash of what it computes."""
    return f"{name}-{hashes[ONNX_NAME][:12]}"
