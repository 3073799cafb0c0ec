"""Verdicts of the gate as runs in MLflow."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

from shared.bundle import Bundle
from shared.process import in_words
from trainer import tracking
from trainer.challenger import experiment_of
from trainer.gate import Verdict
from trainer.journal import Training
from trainer.watch_settings import WatchSettings

log = logging.getLogger("trainer")


def record(
    settings: WatchSettings, interval: str, champion: Bundle, training: Training, verdict: Verdict
) -> str:
    """Keep a verdict as a run in MLflow; return the run's id, "" if it cannot be kept."""
    try:
        return _record(settings, interval, champion, training, verdict)
    except Exception as error:  # noqa: BLE001 - MLflow's are many, and none may cost the model
        log.warning("%s: the verdict is not in MLflow: %s", interval, in_words(error))
        return ""


def _record(
    settings: WatchSettings, interval: str, champion: Bundle, training: Training, verdict: Verdict
) -> str:
    experiment = experiment_of(settings, interval)
    with tracking.run(settings.tracking_uri, experiment, f"gate {interval}") as run:
        run.params({"challenger": training.version, "champion": champion.config.model_version,
                    "shadow": settings.shadow, **asdict(settings.rule)})  # fmt: skip
        run.metrics({**training.drift, **verdict.figures})
        run.tags({"passed": str(verdict.passed), "why": verdict.words,
                  "trigger": training.trigger})  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "verdict.json"
            content = {**asdict(verdict), "trigger": training.trigger, "drift": training.drift}
            path.write_text(json.dumps(content, indent=2))
            run.artifact(path)
        alias = "champion" if verdict.passed and not settings.dry_run else "challenger"
        run.alias(experiment, training.version, alias)
        return run.id
