"""A challenger's training: a process of its own, whose memory ends with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from shared.kafka import KafkaSettings
from shared.leash import Leash
from trainer.settings import Tracked
from trainer.tracking import Tracker, TrackingError
from trainer.watch_settings import WatchSettings

log = logging.getLogger("trainer")

OURS: Final = Path(__file__).parents[1]
"""Folder of our packages."""

BEHIND: Final = 10
"""Niceness of a training."""

STOP_S: Final = 10.0  # for a training to end that is to end


def train(
    settings: WatchSettings,
    interval: str,
    until: date | None,
    folder: Path,
    check: Callable[[], None],
) -> str:
    """Train a challenger; return what went wrong, "" if nothing.

    Args:
        settings: those of the watch.
        interval: of the candles.
        until: it sees the candles before that date alone; all if None.
        folder: that its bundle is written to.
        check: called each second; what it raises ends the training.
    """
    settings = _tracked(settings, interval)
    seen = f"the candles before {until}" if until else "all candles"
    log.info("%s: training on %s", interval, seen)
    # without the current directory on the path: a user's folder may be called trainer or shared
    command = [sys.executable, "-P", "-m", "trainer", *arguments(settings, interval, until, folder)]
    path = os.pathsep.join([str(OURS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    # the training ends with this process, even a killed one
    with Leash() as leash, leash.start(command, env=environment) as child:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, BEHIND)  # what serves beside it goes first
        try:
            while child.poll() is None:
                check()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(1)
        finally:
            if child.poll() is None:
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(STOP_S)
                child.kill()
            leash.release(child.pid)
    return f"the training ended with exit code {child.returncode}" if child.returncode else ""


def _tracked(settings: WatchSettings, interval: str) -> WatchSettings:
    """Return the settings without MLflow where it is away, which is to cost no training."""
    if settings.tracking_uri:
        try:
            Tracker(settings.tracking_uri, experiment_of(settings, interval))
        except TrackingError as error:
            log.warning("%s: the training is not in MLflow: %s", interval, error)
            return settings.model_copy(update={"tracking_uri": ""})
    return settings


def arguments(
    settings: WatchSettings, interval: str, until: date | None, folder: Path
) -> list[str]:
    """Return the arguments of the ``fit`` that trains a challenger.

    How it trains is what ``[trainer.fit]`` of the settings file and its variables say.
    """
    shared = {*KafkaSettings.model_fields, *Tracked.model_fields, "snapshots"}
    own = {"experiment", "progress"}
    flags = [
        f"--{name.replace('_', '-')}={_as_flag(value)}"
        for name in sorted((shared - own) & settings.model_fields_set)
        if not isinstance(value := getattr(settings, name), SecretStr)
    ]
    return [
        "fit", "--data", "kafka", "--interval", interval,
        *(["--until", until.isoformat()] if until else []),
        "--out", str(folder), "--no-progress", "--no-compare",
        "--experiment", experiment_of(settings, interval), *flags,
    ]  # fmt: skip


def experiment_of(settings: WatchSettings, interval: str) -> str:
    """Return the MLflow experiment, and registered model, of an interval."""
    return f"{settings.experiment}-{interval}"


def _as_flag(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)
