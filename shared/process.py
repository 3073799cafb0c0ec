"""The life of a process: its clock, signals, log lines and exit codes, the same for all.

A ``__main__`` reads its settings and hands the rest to ``live``. What runs on an event loop asks
``stop_on_signals`` for the event that ends it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from enum import IntEnum
from types import FrameType
from typing import Any, Final, NoReturn

import uvloop
from pythonjsonlogger.orjson import OrjsonFormatter

from shared import extras
from shared.messages import printable

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""The signals that end a process in order."""

LIBRARIES: Final[Mapping[str, int]] = {
    "aiokafka": logging.ERROR,  # it warns of every batch that it sends again
    "faust": logging.WARNING,  # it logs every step of every service at INFO
    "mode": logging.WARNING,
    "onnx_ir": logging.WARNING,
    "opentelemetry": logging.ERROR,
    "asyncio": logging.WARNING,  # it tells of clients and tasks that a broken connection left
}
"""Libraries whose lines are limited, and the least severe level that is shown of each."""

SELDOM_S: Final = 60.0
"""Time in which a complaint is shown once; without Kafka some come ten times a second."""

MOST_COMPLAINTS: Final = 1000
"""Most complaints remembered."""

AWAY: Final[Mapping[str, object]] = {"is_away": True}
"""``extra`` of a log line that says that Kafka is away: one of them is shown in ``SELDOM_S``."""

WAITING: Final[Mapping[str, object]] = {"is_away": False}
"""``extra`` of a log line by which a start says that it waits for Kafka: each is shown."""

_AWAY_KIND: Final = "away"

_VARYING: Final = re.compile(r"0x[0-9a-f]+|\d+")
"""What differs between two lines of one kind that a library has formatted itself."""

CLEANUP_S: Final = 2.0
"""Longest clean-up of the event loop after a service's work."""

GC_ALLOCATIONS: Final = 50_000
"""Objects made, less those freed, between two looks of Python's collector at the young ones."""

TERMINAL_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""The form of a log line on a terminal, where a person reads it."""

Context = Callable[[], Mapping[str, str]]
"""Returns the fields that each log line gets beyond its own, such as a request's id."""


class Exit(IntEnum):
    """Exit codes of every process."""

    DONE = 0
    """The work is done, or a signal ended a service in order."""

    FAILED = 1
    """An error ended the process; its last log line says which."""

    USAGE = 2
    """A flag or a variable is unknown, missing or out of range; a line for each says which."""

    INTERRUPTED = 130
    """A signal ended a command before its work was done."""


def now_ms() -> int:
    """Return the current time, UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


def live(
    name: str,
    level: str,
    body: Callable[[], int],
    *,
    expected: tuple[type[Exception], ...],
    stopped: int = Exit.DONE,
    context: Context | None = None,
) -> int:
    """Run a process from its first log line to its exit code.

    A signal raises ``KeyboardInterrupt`` in ``body``, unless that listens for it by
    ``stop_on_signals``.

    Args:
        name: the process's name in its log lines, such as ``worker``.
        level: the least severe level that is logged.
        body: does the work and returns the exit code.
        expected: errors that one line explains; others are logged with their traceback.
        stopped: the exit code when a signal has interrupted ``body``.
        context: fields for each log line.
    """
    configure_logging(name, level, context)
    log = logging.getLogger(name)
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        return body()
    except KeyboardInterrupt:
        return stopped
    except expected as error:
        log.error("%s", in_words(error))
    except ModuleNotFoundError as error:
        told = extras.how_to_install(error.name)
        if told is None:
            log.exception("an unexpected error")
        else:
            log.error("this %s", told)
    except Exception:
        log.exception("an unexpected error")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Exit.FAILED


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT or SIGTERM sets, for the event loop that runs."""
    stop = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run a service on uvloop; return its exit code, or end the process by it.

    Once the work has ended, the loop gets ``CLEANUP_S`` to cancel tasks and to join threads: a
    library's may wait for a broker or a name server for minutes.
    """

    async def body() -> int:
        code, failure = int(Exit.FAILED), None
        try:
            code = await work
        except BaseException as error:
            failure = error
            raise
        finally:
            last = threading.Timer(CLEANUP_S, _leave_saying, (code, failure))
            last.daemon = True
            last.start()
        return code

    return uvloop.run(body())


def _leave_saying(code: int, failure: BaseException | None) -> NoReturn:
    if failure is not None:
        logging.getLogger(__name__).error("%s", in_words(failure))
    leave(code)


async def unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Await work, cancelled once ``stop`` is set; return whether it came to its end."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


def leave(code: int) -> NoReturn:
    """End the process at once, whatever threads still run: a library's may hang for minutes."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):  # nobody reads any more
            stream.flush()
    os._exit(code)


def is_being_cancelled() -> bool:
    """Return True when the current task itself is being cancelled.

    A ``CancelledError`` without that comes from a future that somebody else cancelled: aiokafka
    cancels what waits for a connection that it closes.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def in_words(error: BaseException) -> str:
    """Return an error as one line; a file's with its name, one without words with its type's."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or repr(error)


def configure_logging(name: str, level: str, context: Context | None = None) -> None:
    """Send the log lines of this process to standard error: as JSON, on a terminal as text."""
    handler = logging.StreamHandler(sys.stderr)
    is_terminal = sys.stderr.isatty()
    handler.setFormatter(TerminalLines(TERMINAL_FORMAT) if is_terminal else json_lines(name))
    handler.addFilter(Seldom(SELDOM_S))
    if context is not None:
        handler.addFilter(_WithContext(context))
    logging.basicConfig(level=level, handlers=[handler])
    least = logging.getLevelNamesMapping()[level]
    for library, shown in LIBRARIES.items():
        logging.getLogger(library).setLevel(max(least, shown) if least > logging.DEBUG else least)


class TerminalLines(logging.Formatter):
    """Log lines as text, in which nothing that others wrote controls the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).split("\n"))


def json_lines(name: str) -> logging.Formatter:
    """Return the formatter that writes a log record as one JSON object."""
    return OrjsonFormatter(
        ("levelname", "name", "message"),
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
        static_fields={"process": name},
        defaults={"timestamp": None},  # keeps the first place for it
        timestamp=True,
    )


class Seldom(logging.Filter):
    """Limits what repeats while Kafka is away; other lines all pass.

    Of the lines marked by ``AWAY`` one is shown in ``seconds``, of those marked by ``WAITING``
    each, and while either come, none of the libraries' complaints. Otherwise each kind of
    complaint is shown once in ``seconds``. The next line that is shown says how many were left out.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._next: dict[object, float] = {}  # when a kind is shown again
        self._away_until = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is shown."""
        is_away = vars(record).pop("is_away", None)
        is_complaint = (
            record.name.partition(".")[0] in LIBRARIES and record.levelno >= logging.WARNING
        )
        if is_away is None and not is_complaint:
            return True
        if not self._is_due(record, is_away=is_away):
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.getMessage()} (lines left out: {self._left_out})"
            record.args = ()
            self._left_out = 0
        return True

    def _is_due(self, record: logging.LogRecord, *, is_away: bool | None) -> bool:
        until = record.created + self._seconds
        if is_away is not None:
            self._away_until = until
            if not is_away:
                return True
            kind: object = _AWAY_KIND
            is_due = record.created >= self._next.get(kind, 0.0)
        else:
            kind = (record.name, _VARYING.sub("#", str(record.msg).partition("\n")[0]))
            is_due = record.created >= max(self._away_until, self._next.get(kind, 0.0))
        if is_due:
            if len(self._next) >= MOST_COMPLAINTS:
                self._next.clear()
            self._next[kind] = until
        return is_due


class _WithContext(logging.Filter):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def filter(self, record: logging.LogRecord) -> bool:
        vars(record).update(self._context())
        return True


def calm_collector() -> None:
    """Let Python's collector look at new objects seldom, and at those that stay for good never.

    A batch of candles makes tens of thousands of objects and no cycles; the default thresholds
    walk all modules and windows several times for each.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 10, 10)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
