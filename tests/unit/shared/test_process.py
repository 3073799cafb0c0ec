from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import process
from shared.process import Exit

ROOT = Path(__file__).parents[3]


def run(body: str, *, stop: signal.Signals | None = None) -> tuple[int, list[dict[str, Any]]]:
    """Run a process whose life is ``live``; return its exit code and its log lines."""
    script = f"""
import asyncio, logging, sys, threading, time
from shared import process
def body():
{body}
process.leave(process.live("tool", "INFO", body, expected=(ValueError, OSError), stopped=130))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stderr is not None
    lines = []
    if stop is not None:
        lines.append(child.stderr.readline())
        child.send_signal(stop)
    lines += child.communicate(timeout=60)[1].splitlines()
    return child.returncode, [json.loads(line) for line in lines]


def test_a_log_line_is_json_with_the_process() -> None:
    code, [line] = run("    logging.getLogger('a.b').info('é %s', 'x'); return 0")
    assert code == Exit.DONE
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {"level": "INFO", "logger": "a.b", "message": "é x", "process": "tool"}


def test_an_expected_error_is_one_line_without_a_traceback() -> None:
    code, [line] = run("    open('/no/such/file')")
    assert code == Exit.FAILED
    assert (line["level"], line["logger"]) == ("ERROR", "tool")
    assert line["message"] == "/no/such/file: No such file or directory"
    assert "traceback" not in line


def test_an_unexpected_error_has_its_traceback_as_a_field() -> None:
    code, [line] = run("    return 1 // 0")
    assert code == Exit.FAILED
    assert line["traceback"].endswith("ZeroDivisionError: integer division or modulo by zero")


@pytest.mark.parametrize("number", process.SIGNALS)
def test_a_signal_interrupts_what_does_not_listen(number: signal.Signals) -> None:
    code, lines = run("    logging.warning('up'); time.sleep(60)", stop=number)
    assert code == Exit.INTERRUPTED
    assert [line["message"] for line in lines] == ["up"]


@pytest.mark.parametrize("number", process.SIGNALS)
def test_a_signal_sets_the_event_of_what_listens(number: signal.Signals) -> None:
    body = """
    async def serve():
        stop = process.stop_on_signals()
        logging.warning("up")
        await stop.wait()
        logging.warning("drained")
        return 0
    return asyncio.run(serve())
"""
    code, lines = run(body, stop=number)
    assert code == Exit.DONE
    assert [line["message"] for line in lines] == ["up", "drained"]


def test_a_thread_that_hangs_does_not_hold_the_end() -> None:
    body = """
    threading.Thread(target=time.sleep, args=(60,)).start()
    logging.warning("up")
    return 0
"""
    began = time.monotonic()
    assert run(body)[0] == Exit.DONE
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [("raise ValueError('broken')", Exit.FAILED, "broken"), ("return 0", Exit.DONE, None)],
)
def test_a_service_s_end_waits_for_no_thread_and_no_task(
    end: str, code: int, line: str | None
) -> None:
    """A failed worker lived on for 84 s without probes."""
    body = f"""
    async def stay():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
    async def serve():
        task = asyncio.create_task(stay())
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        await asyncio.sleep(0.1)
        {end}
    return process.run(serve())
"""
    began = time.monotonic()
    ended, lines = run(body)
    assert time.monotonic() - began < 30
    assert ended == code
    assert [logged["message"] for logged in lines] == ([line] if line else [])


def test_a_terminal_gets_lines_for_people() -> None:
    parent, child = pty.openpty()
    script = (
        "import logging; from shared.process import configure_logging; "
        "configure_logging('tool', 'WARNING'); logging.warning('yes'); logging.info('no')"
    )
    subprocess.run([sys.executable, "-c", script], stderr=child, check=True, timeout=60, cwd=ROOT)
    os.close(child)
    shown = os.read(parent, 10_000).decode()
    os.close(parent)
    assert shown.endswith("WARNING root: yes\r\n")


def record(name: str, message: str, created: float, level: int = logging.ERROR) -> Any:
    made = logging.LogRecord(name, level, __file__, 1, message, (), None)
    made.created = created
    return made


def shown(lines: list[tuple[float, str, str]]) -> list[str]:
    """Return what is shown of lines, each a time, a logger and a message."""
    seldom = process.Seldom(10.0)
    passed = []
    for at, name, message in lines:
        made = record(name, message, at)
        if seldom.filter(made):
            passed.append(made.getMessage())
    return passed


def test_a_library_complains_once_in_a_while_and_we_always() -> None:
    assert shown([(at, "aiokafka.conn", f"down {at}") for at in (0, 1, 9, 10, 11)]) == [
        "down 0", "down 10 (lines left out: 2)",
    ]  # fmt: skip
    assert shown([(0, "mode", "one"), (1, "mode", "other"), (2, "mode", "one")]) == ["one", "other"]
    assert shown([(at, "producer", "down") for at in (0, 1)]) == ["down", "down"]
    assert shown([(0, "asyncio", "Unclosed\n0x1f"), (1, "asyncio", "Unclosed\n0x2f")]) == [
        "Unclosed\n0x1f"
    ]


def test_complaints_that_are_remembered_are_bounded() -> None:
    seldom = process.Seldom(10.0)
    for number in range(process.MOST_COMPLAINTS + 10):
        assert seldom.filter(record("mode", "x" * number, 0))
    assert len(seldom._next) <= process.MOST_COMPLAINTS


def test_while_kafka_is_away_the_log_has_one_line_a_minute() -> None:
    """A worker without its broker wrote 12,469 lines."""
    seldom = process.Seldom(60.0)
    passed = []
    for second in range(3600):
        lines = [
            record("aiokafka", f"Unable connect to node {second}: %s", second),
            record("mode.faust", f"[^Consumer]: broken in {second} ways", second),
            record("asyncio", f"Unclosed client\n0x{second}", second),
            record("stream_app", "Kafka takes no messages", second, logging.WARNING),
            record("shared.kafka", "waiting for Kafka", second, logging.WARNING),
        ]
        for made in lines[3:]:
            vars(made).update(process.AWAY)
        passed += [made.getMessage() for made in lines if seldom.filter(made)]
    assert len(passed) == 60 + 3, "and what a library said before us"
    assert passed[-1] == "Kafka takes no messages (lines left out: 299)"


@pytest.mark.parametrize("mark", [process.AWAY, process.WAITING])
def test_a_line_about_kafka_has_no_field_of_its_own(mark: dict[str, object]) -> None:
    made = record("producer", "down", 0)
    vars(made).update(mark)
    assert process.Seldom(10.0).filter(made)
    assert not mark.keys() & json.loads(process.json_lines("producer").format(made)).keys()


def test_a_start_that_waits_says_so_whatever_else_was_said() -> None:
    seldom = process.Seldom(60.0)
    passed = []
    for second in range(0, 60, 10):
        lines = [record("producer", "down", second), record("shared.kafka", "waiting", second + 1)]
        vars(lines[0]).update(process.AWAY)
        vars(lines[1]).update(process.WAITING)
        lines.append(record("aiokafka", "Unable connect", second + 2))
        passed += [made.getMessage() for made in lines if seldom.filter(made)]
    assert [line.partition(" (")[0] for line in passed] == ["down", *["waiting"] * 6]


def test_the_context_is_a_field_of_each_line() -> None:
    made = record("api", "x", 0)
    process._WithContext(lambda: {"request_id": "r1"}).filter(made)
    assert json.loads(process.json_lines("api").format(made))["request_id"] == "r1"


def test_work_is_cancelled_by_the_event_and_else_comes_to_its_end() -> None:
    async def both() -> list[bool]:
        stop = asyncio.Event()
        ended = [await process.unless_stopped(asyncio.sleep(0), stop)]
        asyncio.get_running_loop().call_later(0.01, stop.set)
        return [*ended, await process.unless_stopped(asyncio.sleep(60), stop)]

    assert asyncio.run(both()) == [True, False]


def test_an_error_of_the_work_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("x")

    async def run_it() -> bool:
        return await process.unless_stopped(fail(), asyncio.Event())

    with pytest.raises(ValueError, match="x"):
        asyncio.run(run_it())


@pytest.fixture
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_the_collector_is_calm_and_passes_over_what_stays() -> None:
    process.calm_collector()
    assert gc.get_threshold()[0] == process.GC_ALLOCATIONS
    assert gc.get_freeze_count() > 0
