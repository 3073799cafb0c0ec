"""A model on disk: what was trained, on what, and how to run it; loading verifies all of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CONFIG_NAME: Final = "config.json"
ONNX_NAME: Final = "model.onnx"
WEIGHTS_NAME: Final = "model.pth"
SCALERS_NAME: Final = "scalers.joblib"
FILE_NAMES: Final = (ONNX_NAME, WEIGHTS_NAME, SCALERS_NAME)
FORMAT: Final = 1


class BundleError(Exception):
    """A bundle that is missing, incomplete, damaged or of another format."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSpan(_Part):
    """What a model was trained on."""

    source: str
    symbols: tuple[str, ...]
    first_ms: int  # opening time of the first candle, UTC
    last_ms: int  # opening time of the last candle that training or early stopping saw, UTC
    candles: int
    sha256: str  # of the candles as used


class BundleConfig(_Part):
    """``config.json``: all that serving needs to know of a model, and its provenance."""

    format: int = FORMAT
    name: str
    model_version: str
    interval: str  # of the candles it was trained on
    sequence_length: Annotated[int, Field(ge=1)]  # steps of the LSTM, L
    window_length: Annotated[int, Field(ge=2, le=1024)]  # candles that the features need, T
    features: tuple[str, ...]
    horizons: tuple[int, ...]  # candles ahead, rising
    quantile_levels: tuple[float, ...]  # rising, the median among them
    data: DataSpan
    training: dict[str, str | int | float | bool | list[int] | list[float] | None]
    metrics: dict[str, float]
    files: dict[str, str]  # name -> SHA-256


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Serving reads the ONNX file alone and never unpickles the others."""

    path: Path
    config: BundleConfig

    @property
    def onnx(self) -> bytes:
        """The ONNX graph, serialised.

        ``features`` (B, L, F) -> ``log_return`` (B, H, Q) and ``volatility`` (B, H).
        """
        return (self.path / ONNX_NAME).read_bytes()


def default_path() -> Path:
    """Return the folder of the bundle that comes with Candlecast."""
    return Path(str(files("shared") / "models" / "default"))


def load(path: Path) -> Bundle:
    """Return the bundle in a folder after checking its format and every file's hash.

    Raises:
        BundleError: naming the file, the expected and the got.
    """
    config_path = path / CONFIG_NAME
    try:
        config = BundleConfig.model_validate_json(config_path.read_bytes())
    except OSError as error:
        raise BundleError(f"{config_path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{config_path}: not a bundle's config: {error}") from error
    if config.format != FORMAT:
        raise BundleError(f"{config_path}: expected format {FORMAT}, got {config.format}")
    if set(config.files) != set(FILE_NAMES):
        raise BundleError(
            f"{config_path}: expected the files {sorted(FILE_NAMES)}, got {sorted(config.files)}"
        )
    for name, expected in config.files.items():
        _verify(path / name, expected)
    version = version_of(config.name, config.files)
    if config.model_version != version:
        raise BundleError(
            f"{config_path}: expected model_version {version} by the files' hashes, "
            f"got {config.model_version}"
        )
    return Bundle(path, config)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def version_of(name: str, hashes: dict[str, str]) -> str:
    """Return a model's version: its name and 12 digits over the hash of what it computes."""
    return f"{name}-{hashes[ONNX_NAME][:12]}"


def _verify(path: Path, expected: str) -> None:
    try:
        got = file_hash(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if got != expected:
        raise BundleError(f"{path}: damaged: expected SHA-256 {expected}, got {got}")
