"""Runs, with what they were given and found, in MLflow; the only place that knows it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

DEFAULT_URI: Final = "sqlite:///mlflow.db"
SQLITE: Final = "sqlite:///"
ARTIFACTS: Final = "mlartifacts"
"""Folder of the artifacts, beside a SQLite database."""

Value = str | int | float | bool | None | Sequence[int] | Sequence[float]


class TrackingError(Exception):
    """A tracking store that cannot be used."""


class Run:
    """One run; what is logged is in the store at once."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.id = run_id

    def params(self, values: Mapping[str, Value]) -> None:
        """Log what the run was given."""
        from mlflow.entities import Param  # noqa: PLC0415 -- as in Tracker

        self._client.log_batch(self.id, params=[Param(k, str(v)) for k, v in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log what the run found; ``step`` is the epoch of a curve's point."""
        from mlflow.entities import Metric  # noqa: PLC0415 -- as in Tracker

        now = int(time.time() * 1000)
        found = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=found)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a copy of a file."""
        self._client.log_artifact(self.id, str(path), folder)

    def figure(self, figure: Figure, name: str) -> None:
        """Store a figure under a file name, whose ending tells the format."""
        self._client.log_figure(self.id, figure, name)


class Tracker:
    """One experiment in one store."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Open the store, which is made if it is a SQLite file that is missing.

        Raises:
            TrackingError: when the store cannot be opened.
        """
        # MLflow sends usage statistics unless told otherwise before its first import
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient  # noqa: PLC0415 -- seconds that a back-test does without
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 -- likewise

        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        try:
            folder = _artifacts(uri)
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            self._experiment = (
                found.experiment_id
                if found
                else self._client.create_experiment(experiment, artifact_location=folder)
            )
        except (MlflowException, OSError) as error:
            line = str(error).splitlines()[0]
            raise TrackingError(f"{uri}: cannot be used for tracking: {line}") from error

    @contextmanager
    def run(self, name: str, parent: Run | None = None) -> Iterator[Run]:
        """Yield a new run, nested if there is a parent; it ends as finished, failed or killed."""
        tags = {"mlflow.runName": name}
        if parent:
            tags["mlflow.parentRunId"] = parent.id
        run = Run(self._client, self._start(tags))
        try:
            yield run
        except KeyboardInterrupt:
            self._client.set_terminated(run.id, "KILLED")
            raise
        except BaseException:
            self._client.set_terminated(run.id, "FAILED")
            raise
        self._client.set_terminated(run.id)

    def _start(self, tags: dict[str, str]) -> str:
        run_id: str = self._client.create_run(self._experiment, tags=tags).info.run_id
        return run_id


def _artifacts(uri: str) -> str | None:
    """Return where a SQLite store's artifacts go, beside the database; a server decides itself."""
    if not uri.startswith(SQLITE):
        return None
    database = Path(uri.removeprefix(SQLITE)).absolute()
    database.parent.mkdir(parents=True, exist_ok=True)
    return (database.parent / ARTIFACTS).as_uri()
