"""Hyperparameter search: Optuna's TPE on rolling origins, with hopeless trials pruned."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from trainer import protocol
from trainer.dataset import Source
from trainer.evaluate import losses
from trainer.fit import Epoch
from trainer.fit_config import QUARTER, REQUIRED, FitConfig
from trainer.tracking import Run

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "returns": ("scaled-return", "scaled-gap"),
    "momentum": ("sma-ratio", "rsi"),
    "volume": ("log-volume",),
    "quarters": QUARTER,
}
"""Groups of features that a trial takes or leaves together; the others are required."""


MAX_STEPS: Final = 30
"""Most steps of the LSTM that a trial takes."""

HEARTBEAT_SECONDS: Final = 15
"""Time between signs of life of a trial; after two without any its process has died."""

Objective = Callable[[optuna.Trial], float]


class SearchError(ValueError):
    """A search whose storage cannot be used."""


@dataclass(frozen=True)
class Task:
    """The data and the fixed settings of a search."""

    source: Source  # no candle from the last origin on
    config: FitConfig  # what is not searched
    origins_ms: Sequence[int]
    seed: int
    within: Callable[[str], object] = str  # called with the epoch that a trial is in


def open_study(storage: str, name: str, seed: int) -> optuna.Study:
    """Return the study of that name with its trials, a new study if there is none.

    Raises:
        SearchError: when the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        kept = _storage(storage)
        study = optuna.create_study(storage=kept, study_name=name, load_if_exists=True)
        # a resumed search must not propose the trials of the first part again
        sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
        return optuna.load_study(storage=kept, study_name=name, sampler=sampler, pruner=pruner)
    except Exception as error:  # SQLAlchemy's own, which share no public class with Optuna's
        line = str(error).splitlines()[0]
        raise SearchError(f"{storage}: cannot be used for a search: {line}") from error


def _storage(url: str) -> optuna.storages.RDBStorage:
    """Return a storage that fails a trial whose process was killed instead of running it forever.

    The process that resumes the search sees that the trial is silent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT_SECONDS)


def propose(trial: optuna.Trial, config: FitConfig) -> FitConfig:
    """Return the config of a trial."""
    groups = [name for name in GROUPS if trial.suggest_categorical(name, [True, False])]
    features = (*REQUIRED, *(feature for name in groups for feature in GROUPS[name]))
    return replace(
        config,
        features=features,
        sequence_length=trial.suggest_int("sequence_length", 4, MAX_STEPS),
        learning_rate=trial.suggest_float("learning_rate", 3e-4, 3e-2, log=True),
        hidden=trial.suggest_int("hidden", 4, 64, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.7),
    )


def objective(task: Task, parent: Run, done: Callable[[str], object]) -> Objective:
    """Return what Optuna minimises: the mean relative pinball loss of the folds."""

    def measure(trial: optuna.Trial) -> float:
        config = propose(trial, task.config)
        losses: list[float] = []
        folds = len(task.origins_ms) - 1
        with parent.nested(f"trial {trial.number}") as run:
            run.params(trial.params)
            show = _epochs_of(trial.number, losses, folds, task)
            parts = protocol.rolling(task.source, config, task.origins_ms, task.seed, show)
            for number, part in enumerate(parts):
                losses.append(relative_pinball(part.table, task.source))
                mean = float(np.mean(losses))
                run.metrics({"relative_pinball": mean}, number)
                trial.report(mean, number)
                if number + 1 < folds and trial.should_prune():
                    run.metrics({"pruned": 1.0})
                    break
        # Outside of the run, which has not failed.
        if len(losses) < folds:
            done(f"trial {trial.number} pruned")
            raise optuna.TrialPruned
        done(f"trial {trial.number}: {mean:.5f}")
        return mean

    return measure


def _epochs_of(
    trial: int, losses: Sequence[float], folds: int, task: Task
) -> Callable[[Epoch], None]:
    """Return what to call with each epoch of a trial, whose folds so far have losses."""

    def show(epoch: Epoch) -> None:
        task.within(
            f"trial {trial}, fold {len(losses) + 1} of {folds}, "
            f"epoch {epoch.epoch + 1}: validation {epoch.pinball:.4f}"
        )

    return show


def relative_pinball(table: pd.DataFrame, source: Source) -> float:
    """Return the pinball loss over the mean absolute move, averaged over the horizons."""
    joined = losses.join_outcomes(table, source.symbols)
    moves = np.abs(np.log(joined["close"].to_numpy() / joined["last_close"].to_numpy()))
    mean = losses.losses(joined).assign(move=moves).groupby("step")[["pinball", "move"]].mean()
    return float((mean["pinball"] / mean["move"]).mean())


def run(
    study: optuna.Study, task: Task, trials: int, parent: Run, done: Callable[[str], object]
) -> None:
    """Add trials to a study; the first of a new study is the config as it is, if it can be."""
    if not study.trials:
        study.enqueue_trial(_as_trial(task.config.adapted(_windows(task))), skip_if_exists=True)
    study.optimize(objective(task, parent, done), n_trials=trials)


def _windows(task: Task) -> int:
    """Return how many windows the data has, more or less."""
    least = task.config.window_length
    candles = (len(symbol.open_ms) for symbol in task.source.symbols.values())
    return sum(max(0, count - least) for count in candles)


def _as_trial(config: FitConfig) -> dict[str, object]:
    taken = {name: set(group) <= set(config.features) for name, group in GROUPS.items()}
    return {
        **taken,
        "sequence_length": config.sequence_length,
        "learning_rate": config.learning_rate,
        "hidden": config.hidden,
        "dropout": config.dropout,
    }


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that ran to their end, best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.value or 0.0)


def write(study: optuna.Study, folder: Path) -> list[Path]:
    """Write ``best.json``, and once there are two complete trials the two plots, as HTML.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    best = completed(study)
    summary = {
        "trials": len(study.trials),
        "complete": len(best),
        "value": best[0].value if best else None,
        "params": best[0].params if best else None,
    }
    files = [folder / "best.json"]
    files[0].write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if len(best) > 1:
        files += _plots(study, folder)
    return files


def _plots(study: optuna.Study, folder: Path) -> list[Path]:
    plots: dict[str, Callable[..., Any]] = {
        "parallel-coordinate.html": optuna.visualization.plot_parallel_coordinate
    }
    if len({trial.value for trial in completed(study)}) > 1:  # equal values have no importance
        plots["importance.html"] = optuna.visualization.plot_param_importances
    files = []
    for name, plot in plots.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure = plot(study, target_name="relative pinball loss")
        path = folder / name
        figure.write_html(path, include_plotlyjs=True)
        files.append(path)
    return files
