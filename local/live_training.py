"""``--live-training``: a weak first model, a trainer beside the stream, and what happens in words.

The first model is small, trained for a moment on the oldest eighth of the candles. The trainer
looks at the stream every other second, trains challengers on it alone, and promotes what the gate
lets through; worker and API swap while the replay runs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from local.accounting import ModelScores
from local.process import tail
from local.screen import close_time
from local.settings import LocalSettings
from local.system import OURS, PartFailed
from shared import bundle
from shared.leash import Leash

FEATURES: Final = ",".join([
    "log-return", "range-volatility-1", "range-volatility-5", "range-volatility-22",
    "range-volatility-120", "return-range-ratio", "usual-gap",
])  # fmt: skip
"""Features of all models: few, whose network is exported in seconds and not in half a minute."""

FIRST: Final = (
    "--test-share", "0.87", "--hidden", "4", "--max-epochs", "1", "--tracking-uri", "",
    "--features", FEATURES,
)  # fmt: skip
"""How the first model is trained: hardly, on the oldest eighth of the candles."""

CHALLENGERS: Final = {
    "CANDLECAST_TRAINER_FIT_ALONE": "true",  # the built-in model has seen the bundled candles
    "CANDLECAST_TRAINER_FEATURES": FEATURES,
    "CANDLECAST_TRAINER_HIDDEN": "16",
    "CANDLECAST_TRAINER_MAX_EPOCHS": "3",
    "OMP_NUM_THREADS": "1",  # threads that wait for each other beside busy services are slower
}
"""How challengers are trained: in some ten seconds."""

WATCH: Final = (
    "--min-windows", "5500", "--test-share", "0.3", "--poll-seconds", "2",
    "--cooldown-hours", "0.003", "--every-hours", "0.015", "--max-runs", "1000",
    "--metrics-port", "0",
)  # fmt: skip
"""The trainer's pace: years pass in minutes."""


@contextmanager
def prepared(settings: LocalSettings, say: Callable[[str], object]) -> Iterator[LocalSettings]:
    """Train the first model; yield the settings with it, and with a model store of the run's own.

    Args:
        settings: of the run.
        say: called with a line for people.

    Raises:
        PartFailed: when training is not installed, or fails.
    """
    if any(find_spec(name) is None for name in ("torch", "mlflow")):
        raise PartFailed(
            "--live-training: expected PyTorch and MLflow, got none: "
            'pip install "candlecast[train]"'
        )
    with tempfile.TemporaryDirectory(prefix="candlecast-models-") as temporary:
        folder = Path(temporary)
        say("training a weak first model on the oldest eighth of the candles: some seconds")
        _train_first(settings, folder)
        first = bundle.load(folder / "first").config
        until = close_time(first.data.last_ms)
        say(f"{first.model_version} serves first, which knows the candles until {until}")
        own: dict[str, object] = {"model": folder / "first"}
        if "models" not in settings.model_fields_set:
            own["models"] = str(folder / "store")
        yield settings.model_copy(update=own)


def _train_first(settings: LocalSettings, folder: Path) -> None:
    data = ["--data", str(settings.path)] if settings.path is not None else []
    command = [
        sys.executable, "-P", "-m", "trainer", "train", *FIRST, "--no-progress",
        "--out", str(folder / "first"), "--interval", settings.interval, *data,
        *settings.reading_flags(),
    ]  # fmt: skip
    if settings.symbols:
        command += ["--symbols", ",".join(settings.symbols)]
    environment = os.environ | {"PYTHONPATH": str(OURS)}
    with (folder / "first.log").open("wb") as log, Leash() as leash:
        child = leash.start(command, output=log, env=environment)
        try:
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            leash.release(child.pid)
    if code:
        raise PartFailed(f"the first model's training failed:\n{tail(folder / 'first.log')}")


def watch_flags(settings: LocalSettings, folder: Path) -> list[str]:
    """Return the flags of ``trainer watch``, but for Kafka's.

    Args:
        settings: of the run, as ``prepared`` gives them.
        folder: of the run.
    """
    return [
        *WATCH, "--intervals", settings.interval, "--models", settings.models,
        "--model", str(settings.model), "--snapshots", str(folder / "snapshots"),
        "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}",
    ]  # fmt: skip


class Story:
    """What trainer and worker do, as lines for people, each of them once."""

    def __init__(self, log: Path, interval: str) -> None:
        self._log = log
        self._interval = interval
        self._read = 0  # bytes of the log
        self._serving = ""

    def news(self, version: str, as_of_ms: int) -> list[str]:
        """Return what is new.

        Args:
            version: of the model that made the newest forecast.
            as_of_ms: close of the candle that it was made at, UTC.
        """
        at = close_time(as_of_ms)
        lines = [f"{at}: {line}" for line in self._logged()]
        if version != self._serving:
            if self._serving:
                lines.append(f"{at}: the worker forecasts by {version}, no longer {self._serving}")
            self._serving = version
        return lines

    def _logged(self) -> Iterator[str]:
        """Yield what the trainer's watch has logged since of the interval."""
        try:
            with self._log.open("rb") as stream:
                stream.seek(self._read)
                new = stream.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                message = str(json.loads(line)["message"])
            except (ValueError, KeyError, TypeError):
                continue  # of the training's tables
            if message.startswith(f"{self._interval}: "):
                yield f"trainer: {message.partition(': ')[2]}"


def in_words(models: Mapping[str, ModelScores]) -> list[str]:
    """Return in words how good each model's forecasts were, in the order in which they served."""
    in_order = sorted(models.items(), key=lambda item: item[1].first_ms)
    return [
        f"{version}: {scores.horizons:,} scores from {close_time(scores.first_ms)} to "
        f"{close_time(scores.last_ms)}; against no model's its quantiles are "
        f"{_compared(scores.raw_skill)}, as published {_compared(scores.skill)}"
        for version, scores in in_order
    ]


def _compared(skill: float) -> str:
    return f"{abs(100 * skill):.1f} % {'better' if skill >= 0 else 'worse'}"
