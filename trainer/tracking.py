"""Records runs in MLflow: parameters, metrics, curves and files; nothing else imports MLflow."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.process import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("trainer")

DEFAULT_URI: Final = "sqlite:///mlflow.db"
SQLITE: Final = "sqlite:///"
ARTIFACTS: Final = "mlartifacts"
"""Name of the folder of artifacts beside a SQLite database."""

_PASSWORD: Final = re.compile(r"(://[^\s/:@]*:)[^\s]*@")
_SECRET: Final = re.compile(r"([?&](?:password|passwd|pwd|token|secret)=)[^\s&]*", re.IGNORECASE)

MADE: Final = ("model_version", "data")
"""Tags of a run that say what it made; the version of the registered model gets them too."""

Point = tuple[str, int, float]
"""Point of a curve: the curve's name, the step (such as the epoch) and the value there."""


class TrackingError(Exception):
    """A tracking store that cannot be used."""


class Run:
    """One run, whose values are in the store as soon as they are logged; none without a tracker.

    What the store does not take costs no training: it is a warning, and the rest of the run is
    not sent, since a server that is away keeps each call waiting for minutes.
    """

    def __init__(self, tracker: Tracker | None, run_id: str = "") -> None:
        self._tracker = tracker
        self.id = run_id

    def _send(self, send: Callable[[Tracker], object]) -> None:
        if self._tracker is None:
            return
        try:
            send(self._tracker)
        except Exception as error:  # noqa: BLE001 - MLflow's are many, and its stores' too
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._tracker = None
        log.warning("the rest of this run is not in MLflow: %s", _in_a_line(error))

    def params(self, values: Mapping[str, object]) -> None:
        """Log the run's settings."""
        self._send(lambda tracker: tracker.log(self.id, params=values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Tag the run with what it made."""
        for name, value in values.items():
            self._send(lambda tracker: tracker.client.set_tag(self.id, name, value))  # noqa: B023

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log the run's figures."""
        self.curves((name, step, value) for name, value in values.items())

    def curves(self, points: Iterable[Point]) -> None:
        """Log points of curves."""
        self._send(lambda tracker: tracker.log(self.id, points=points))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a copy of a file."""
        self._send(lambda tracker: tracker.client.log_artifact(self.id, str(path), folder))

    def register(self, model: str, folder: str) -> None:
        """Register the bundle among a run's artifacts as a new version of a model."""
        self._send(lambda tracker: tracker.register(self.id, model, folder))

    def alias(self, model: str, version: str, alias: str) -> None:
        """Point an alias of a registered model to the bundle of a ``model_version``."""
        self._send(lambda tracker: tracker.alias(model, version, alias))

    def figure(self, figure: Figure, name: str) -> None:
        """Store a figure under a file name, whose ending tells the format."""
        self._send(lambda tracker: tracker.client.log_figure(self.id, figure, name))

    @contextmanager
    def nested(self, name: str) -> Iterator[Run]:
        """Yield a new run inside this one."""
        with ExitStack() as stack:
            inner = Run(None)
            if self._tracker:
                try:
                    inner = stack.enter_context(self._tracker.run(name, self))
                except TrackingError as error:
                    self._give_up(error)
            yield inner


class Tracker:
    """One experiment in one store."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Open the store, which is made if it is a SQLite file that is missing.

        Raises:
            TrackingError: when the store cannot be opened.
        """
        # MLflow sends usage statistics unless this is set before its first import
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from alembic.util.exc import CommandError  # noqa: PLC0415 -- as the next
        from mlflow import MlflowClient  # noqa: PLC0415 -- seconds that a back-test does without
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 -- likewise
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 -- likewise

        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        try:
            folder = _artifacts(uri)
            with _one_at_a_time(uri):
                self.client = MlflowClient(tracking_uri=uri)
                self._experiment = self._experiment_of(experiment, folder)
        except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
            fault = without_password(f"{uri}: cannot be used for tracking: {_in_a_line(error)}")
            if uri.startswith(SQLITE) and not isinstance(error, OSError):
                fault += (
                    "; expected a database of MLflow's that nothing keeps locked: if it is broken,"
                    " move the file away, and a new one is made"
                )
            raise TrackingError(fault) from error

    def _experiment_of(self, name: str, folder: str | None) -> str:
        """Return the id of an experiment, which is made if it is new."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 -- as above

        known = self.client.get_experiment_by_name(name)
        if known is None:
            try:
                return self.client.create_experiment(name, artifact_location=folder)
            except MlflowException:  # another process may have been faster
                known = self.client.get_experiment_by_name(name)
                if known is None:
                    raise
        return known.experiment_id

    @contextmanager
    def run(self, name: str, parent: Run | None = None) -> Iterator[Run]:
        """Yield a new run, nested if there is a parent; it ends as finished, failed or killed.

        Raises:
            TrackingError: when the store takes no run.
        """
        tags = {"mlflow.runName": name}
        if parent:
            tags["mlflow.parentRunId"] = parent.id
        try:
            run_id: str = self.client.create_run(self._experiment, tags=tags).info.run_id
        except Exception as error:
            raise TrackingError(f"MLflow takes no run: {_in_a_line(error)}") from error
        status = "FAILED"
        try:
            yield Run(self, run_id)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            try:
                self.client.set_terminated(run_id, status)
            except Exception as error:  # noqa: BLE001 - as in Run
                log.warning("MLflow shows run %s as running: %s", run_id, _in_a_line(error))

    def register(self, run_id: str, model: str, folder: str) -> None:
        """Make a version of a registered model, which is made if it is new."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 -- as above

        try:
            self.client.get_registered_model(model)
        except MlflowException:
            self.client.create_registered_model(model)
        made_by = self.client.get_run(run_id)
        self.client.create_model_version(
            model,
            f"{made_by.info.artifact_uri}/{folder}",
            run_id,
            tags={name: made_by.data.tags[name] for name in MADE if name in made_by.data.tags},
        )

    def alias(self, model: str, version: str, alias: str) -> None:
        """Point an alias to the newest version of a model whose run made ``version``."""
        for registered in self.client.search_model_versions(
            f"name='{model}'", order_by=["version_number DESC"], max_results=20
        ):
            made_by = self.client.get_run(str(registered.run_id))
            if made_by.data.tags.get("model_version") == version:
                self.client.set_registered_model_alias(model, alias, registered.version)
                return

    def log(
        self, run_id: str, params: Mapping[str, object] | None = None, points: Iterable[Point] = ()
    ) -> None:
        """Log parameters, and points of curves."""
        from mlflow.entities import Metric, Param  # noqa: PLC0415 -- as above

        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), now, step) for name, step, value in points],
            params=[Param(name, str(value)) for name, value in (params or {}).items()],
        )


@contextmanager
def run(uri: str, experiment: str, name: str) -> Iterator[Run]:
    """Yield a new run in a store; one that keeps nothing where the URI is empty.

    Raises:
        TrackingError: when the store cannot be opened.
    """
    if not uri:
        yield Run(None)
        return
    with Tracker(uri, experiment).run(name) as new:
        yield new


def _in_a_line(error: Exception) -> str:
    """Return the first line of an error, without passwords; a database's goes on with its query."""
    return without_password(in_words(error).strip().splitlines()[0])


def without_password(text: str) -> str:
    """Return text with the passwords of the URIs in it, and of their queries, left out."""
    text = _PASSWORD.sub(r"\1***@", text)
    return _SECRET.sub(r"\1***", text)


def _artifacts(uri: str) -> str | None:
    """Return where a SQLite store's artifacts go, beside the database; a server decides itself."""
    if not uri.startswith(SQLITE):
        return None
    folder = _folder(uri)
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / ARTIFACTS).as_uri()


def _folder(uri: str) -> Path:
    """Return the folder of a SQLite store."""
    return Path(uri.removeprefix(SQLITE)).absolute().parent


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Keep other processes waiting while a SQLite store is opened.

    MLflow makes its tables in many steps, in which two processes disturb each other and leave half
    of them. The lock is the folder's: SQLite loses its own when a file of it is closed.
    """
    if not uri.startswith(SQLITE):
        yield
        return
    folder = os.open(_folder(uri), os.O_RDONLY)
    try:
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
