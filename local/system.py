"""The parts of the system as processes: started with their settings, ended in order."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from local.broker import Broker, first_port
from local.ports import HOST, documented_or_free
from local.process import Process
from local.screen import Addresses
from local.secured import Secured
from local.settings import (
    API_PORT,
    KAFKA_PORT,
    PRODUCER_PORT,
    WORKER_PORT,
    LocalSettings,
)
from shared.files.table_settings import TableSettings
from shared.leash import Leash

_STOP_S: Final = 12.0  # the worker drains for up to 10
_STOP_WITHOUT_KAFKA_S: Final = 1.0  # there is nowhere to drain to
_PROBE_S: Final = 2.0
MOST_REVIVALS: Final = 3
"""Times that a killed trainer is started again; one that lacks memory is killed each time."""

OURS: Final = Path(__file__).parents[1]
"""Where the packages are, installed or checked out."""


class PartFailed(Exception):
    """A part that ended though it should not have, or that does not get ready."""


class System:
    """Broker, worker, API and producer on one machine, while the context lasts."""

    def __init__(
        self, settings: LocalSettings, folder: Path, secured: Secured | None = None
    ) -> None:
        """Prepare only; entering the context starts the broker, locked by ``secured``."""
        api, worker, producer = documented_or_free((API_PORT, WORKER_PORT, PRODUCER_PORT))
        self._settings = settings
        self._folder = folder
        self._api_port = settings.api_port or api
        self._worker_port = settings.worker_port or worker
        self._producer_port = settings.producer_port or producer
        self._leash = Leash()
        self._secured = secured
        self._broker = Broker(
            folder / "kafka",
            port=first_port(settings.kafka_port, KAFKA_PORT, folder / "kafka"),
            secured=secured,
            leash=self._leash,
        )
        self._parts: list[Process] = []
        self._producer: Process | None = None
        self._trainer: Process | None = None
        self._start_trainer: Callable[[], Process] | None = None
        self._revivals = 0
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            resources.enter_context(self._leash)
            resources.enter_context(self._broker)
            resources.callback(self._stop_parts)
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # the end is bounded: let it finish
            signal.signal(number, signal.SIG_IGN)
        self._resources.close()

    @property
    def folder(self) -> Path:
        """Where topics and logs are."""
        return self._folder

    @property
    def addresses(self) -> Addresses:
        """Where the parts are reached."""
        return Addresses(
            kafka=self.bootstrap,
            api=f"http://{HOST}:{self._api_port}",
            worker=f"http://{HOST}:{self._worker_port}",
            producer=f"http://{HOST}:{self._producer_port}",
            logs=str(self._folder),
        )

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        return self._broker.bootstrap

    @property
    def own_address(self) -> str:
        """Address of Kafka's listener for brokers."""
        return self._broker.own_address

    def kafka_flags(self, user: str) -> list[str]:
        """Return the flags by which a service reaches Kafka."""
        if self._secured is not None:
            return self._secured.flags(user)
        return ["--bootstrap", self.bootstrap]

    @property
    def is_published(self) -> bool:
        """True when the producer has published all that it has."""
        return self._producer is not None and self._producer.exit_code == 0

    @property
    def is_producing(self) -> bool:
        """True when the producer has been started."""
        return self._producer is not None

    def start_services(self) -> None:
        """Start API and worker; the topics must exist."""
        model = ("--model", str(self._settings.model), "--models", self._settings.models)
        self._start(
            "API", "api", *self.kafka_flags("api"), "--port", str(self._api_port), *model,
        )  # fmt: skip
        self._start(
            "worker", "stream_app", *self.kafka_flags("worker"),
            "--metrics-port", str(self._worker_port), *model,
        )  # fmt: skip

    def start_trainer(self, flags: Sequence[str], env: Mapping[str, str]) -> Path:
        """Start ``trainer watch``; return its log."""
        self._start_trainer = partial(
            self._start,
            "trainer", "trainer", *self.kafka_flags("trainer"), *flags, command="watch", env=env,
        )  # fmt: skip
        self._trainer = self._start_trainer()
        return self._trainer.log

    def revive_trainer(self) -> str:
        """Start a trainer that was killed again; return what killed it, "" if nothing has.

        Nothing else depends on it, so that the system need not end; it takes up what it kept.
        """
        trainer = self._trainer
        if trainer is None or self._start_trainer is None or self._revivals >= MOST_REVIVALS:
            return ""
        code = trainer.exit_code
        if code is None or code >= 0:
            return ""
        self._revivals += 1
        self._parts.remove(trainer)
        self._trainer = self._start_trainer()
        return _how(code)

    def start_producer(self, settings: LocalSettings | None = None) -> None:
        """Start the producer, which ends by itself when it replays.

        Args:
            settings: of the source, if they are other than the run's; one before must have ended.
        """
        if self._producer is not None:
            self._parts.remove(self._producer)
        self._producer = self._start(
            "producer", "producer", *self.kafka_flags("producer"),
            "--metrics-port", str(self._producer_port), *source_flags(settings or self._settings),
        )  # fmt: skip

    def are_services_ready(self) -> bool:
        """True when worker and API both say that they are ready."""
        return _is_ready(self._worker_port) and _is_ready(self._api_port)

    def served_by_api(self) -> str:
        """Return the version of the model that the API serves; "" if it does not say."""
        connection = http.client.HTTPConnection(HOST, self._api_port, timeout=_PROBE_S)
        try:
            connection.request("GET", "/v1/model")
            return str(json.loads(connection.getresponse().read())["model_version"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return ""
        finally:
            connection.close()

    def check(self) -> None:
        """Raise ``PartFailed`` when a part has ended that should run."""
        if self._broker.exit_code is not None:
            raise PartFailed(_obituary("Kafka", self._broker.exit_code, self._broker.log_tail()))
        for part in self._parts:
            code = part.exit_code
            if code is not None and not (part is self._producer and code == 0):
                raise PartFailed(_obituary(part.name, code, part.log_tail()))

    def logs(self) -> str:
        """Return the end of each part's log."""
        return "\n".join(f"--- {part.name}:\n{part.log_tail()}" for part in self._parts)

    def _start(
        self, name: str, module: str, *flags: str, command: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Process:  # fmt: skip
        # without the current directory on the path: a user's folder may be called api or shared
        argv = [sys.executable, "-P", "-m", module, *([command] if command else [])]
        argv += ["--log-level", self._settings.log_level, *flags]
        if self._settings.settings_file is not None:
            argv += ["--settings-file", str(self._settings.settings_file)]
        log = self._folder / f"{name.lower()}.log"
        path = os.pathsep.join([str(OURS), *filter(None, [os.environ.get("PYTHONPATH")])])
        part = Process(
            name, argv, log=log, leash=self._leash, env={**(env or {}), "PYTHONPATH": path}
        )
        self._parts.append(part)
        return part

    def _stop_parts(self) -> None:
        patience_s = _STOP_S if self._broker.exit_code is None else _STOP_WITHOUT_KAFKA_S
        for part in reversed(self._parts):
            part.stop(patience_s)


def source_flags(settings: LocalSettings) -> list[str]:
    """Return the producer's flags for the source that the settings ask for."""
    flags = ["--source", settings.source, "--interval", settings.interval]
    if settings.source != "replay":
        flags += ["--history", str(settings.history)]
    if settings.symbols:
        flags += ["--symbols", ",".join(settings.symbols)]
    if settings.path is not None:
        flags += ["--path", str(settings.path), *table_flags(settings)]
    if settings.context:
        flags += ["--context", ",".join(settings.context)]
    if settings.context_interval is not None:
        flags += ["--context-interval", settings.context_interval]
    if settings.context_path is not None:
        flags += ["--context-path", str(settings.context_path)]
    if settings.fallback is not None:
        flags += ["--fallback", settings.fallback]
    if settings.source == "yfinance" and settings.exit_when_done:
        flags.append("--once")
    if settings.source != "replay" and settings.fallback is None:
        return flags
    speed = settings.replay_speed
    return flags if speed is None else [*flags, "--speed", f"{speed:g}"]


def table_flags(settings: LocalSettings) -> list[str]:
    """Return the flags of how to read a file, as far as they are given."""
    options: list[str] = []
    for name in sorted(set(TableSettings.model_fields) & settings.model_fields_set):
        value = getattr(settings, name)
        flag = f"--{name.replace('_', '-')}"
        if name in {"symbols", "log_level"} or value is None:
            continue
        if isinstance(value, bool):
            options += [flag] if value else []
        else:
            options += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return options


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=_PROBE_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _how(code: int) -> str:
    """Return in words what ended a process."""
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _obituary(name: str, code: int, log_tail: str) -> str:
    how = _how(code)
    last = _error(log_tail.rstrip().rpartition("\n")[2])
    if last is not None:  # an expected failure is one line
        return f"{name} ended with {how}: {last}"
    return f"{name} ended with {how}; the end of its log:\n{log_tail}"


def _error(line: str) -> str | None:
    """Return the message of a log line that says why a process ended."""
    try:
        logged = json.loads(line)
    except ValueError:
        return None
    is_reason = isinstance(logged, dict) and logged.get("level") == "ERROR"
    return str(logged["message"]) if is_reason and "traceback" not in logged else None
