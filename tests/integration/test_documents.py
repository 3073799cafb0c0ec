"""Every block of commands and of Python in the documents runs as it stands, or says why not.

The blocks of a page run in order, in a copy of the project that all pages share, beside the whole
system that ``python -m local`` runs. Those of the README run in a clone, as a stranger begins: from
an empty folder to forecasts of the stranger's own candles on the page.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, expect

from docs import release
from local.ports import free_ports
from shared import bundle
from shared.history import bundled
from shared.leash import Leash
from tests import documents
from tests.documents import COMMANDS, ROOT, RUN, Block
from tests.integration.processes import Processes, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

BLOCK_S: Final = 240.0
"""Longest time that a block may take on a busy machine."""

MODEL: Final = ROOT / "docs" / "model.md"
STOP_S: Final = 60.0
START_S: Final = 120.0

LEFT_OUT: Final = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "data", "dist", "mlartifacts", "mlflow.db", "mlruns", "my-bundle",
    "report", "search", "search.db", "*.egg-info",
)  # fmt: skip
"""Files that a copy of the project does without."""

STAMPS: Final = (".venv/bin/python", ".venv/.local", ".venv/.train", ".venv/.dev")
"""Files that ``make`` need not make: the environment of this test serves for all."""

SHELL: Final = f"""set -euo pipefail
make() {{ command make {" ".join(f"-o {stamp}" for stamp in STAMPS)} "$@"; }}
"""

README: Final = ROOT / "README.md"

PAGES: Final = [
    page for page in documents.pages()
    if page != README
    and any(block.language in RUN and not block.reason for block in documents.blocks(page))
]  # fmt: skip


@dataclass(frozen=True)
class Workplace:
    """A copy of the project, and the addresses that its documents stand for."""

    folder: Path
    addresses: Mapping[str, str]  # as written -> as they are here

    def here(self, text: str) -> str:
        """Return a block's text with this machine's addresses."""
        for written, actual in self.addresses.items():
            text = text.replace(written, actual)
        return text

    def environment(self) -> dict[str, str]:
        """Return the environment of a block: topics and ports of its own."""
        own = {
            "CANDLECAST_BOOTSTRAP": self.addresses["127.0.0.1:9092"],
            "CANDLECAST_CANDLES_TOPIC": "documents.candles",
            "CANDLECAST_FORECASTS_TOPIC": "documents.forecasts",
            "PATH": f"{self.folder / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "CANDLECAST_PRODUCER_METRICS_PORT": "0",
            "CANDLECAST_WORKER_METRICS_PORT": "0",
            "CANDLECAST_WORKER_GROUP": "documents",
            "PYTHONUNBUFFERED": "1",
        }
        return {**os.environ, **own}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, leash: Leash) -> Iterator[Workplace]:
    """A copy of the project beside a running system whose forecasts go on for minutes."""
    folder = tmp_path_factory.mktemp("documents") / "candlecast"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    (folder / ".venv").symlink_to(sys.prefix)
    write_candles(folder, ("AAPL", "IBM"))
    kafka, api = free_ports(2)
    addresses = {"127.0.0.1:9092": f"127.0.0.1:{kafka}", "127.0.0.1:8000": f"127.0.0.1:{api}"}
    with Processes(tmp_path_factory.mktemp("system"), leash) as processes:
        system = processes.start(
            "local", "--symbols", "AAPL", "--speed", "10",
            "--kafka-port", str(kafka), "--api-port", str(api),
        )  # fmt: skip
        wait_until(
            lambda: "first forecast" in system.log_tail(), START_S, "a forecast", process=system
        )
        place = Workplace(folder, addresses)
        making = [sys.executable, "-m", "shared.topics", "apply"]  # those of the blocks' own names
        subprocess.run(making, cwd=folder, env=place.environment(), check=True, timeout=60)
        yield place


def write_candles(folder: Path, symbols: tuple[str, ...], name: str = "") -> None:
    """Write real candles as the files of somebody's own, under a name that is not bundled."""
    import pandas as pd  # noqa: PLC0415 - only here, and slow

    rows = [candle.model_dump() for candle in bundled(symbols).candles]
    columns = ["symbol", "open_ms", "open", "high", "low", "close", "volume"]
    table = pd.DataFrame(rows)[columns]
    if name:
        table["symbol"] = name
    table.to_parquet(folder / "my.parquet")
    table.to_csv(folder / "my.csv", index=False)


def run(block: Block, workplace: Workplace, look: Callable[[str], None] | None = None) -> None:
    """Run a block to its end, or until it has printed its marker's text.

    Then ``look`` is called with all that it has printed, before it is stopped.
    """
    code = workplace.here(block.code())
    if block.file:
        (workplace.folder / block.file).write_text(code)
        return
    script = workplace.folder / f"block-{block.line}"
    script.write_text(SHELL + code if block.language in COMMANDS else code)
    argv = ["bash" if block.language in COMMANDS else sys.executable, str(script)]
    log = script.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, cwd=workplace.folder, env=workplace.environment(), stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        ended = wait(process, log, block.until)
        if look is not None and not ended:
            look(log.read_text())
    finally:
        stop(process)
    text = log.read_text(errors="replace")
    if block.until:
        assert block.until in text, f"{block} did not print {block.until!r}:\n{text[-3000:]}"
    else:
        assert ended, f"{block} took longer than {BLOCK_S:g} s:\n{text[-3000:]}"
        assert process.returncode == 0, f"{block} ended with {process.returncode}:\n{text[-3000:]}"


def wait(process: subprocess.Popen[bytes], log: Path, until: str) -> bool:
    """Wait for a process's end, or for a text in its log; return True when it has ended."""
    deadline = time.monotonic() + BLOCK_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return True
        if until and until in log.read_text(errors="replace"):
            return False
        time.sleep(0.2)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a block's processes as Ctrl-C would, and kill what does not end."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError("a block's process did not end after SIGINT") from None


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_blocks_of_a_page_run(page: Path, workplace: Workplace) -> None:
    for block in documents.blocks(page):
        if block.language in RUN and not block.reason:
            run(block, workplace)


FIRST_SCREEN: Final = 48
"""Lines of the README that GitHub shows before anybody scrolls, its picture among them."""


def test_a_stranger_gets_from_a_clone_to_own_candles_on_the_page(
    workplace: Workplace, browser: Browser, tmp_path: Path
) -> None:
    """In seven commands of the README's first screen; what else it has works from there on."""
    blocks = [item for item in documents.blocks(README) if item.language in RUN]
    (served,) = (number for number, item in enumerate(blocks) if "--path my.csv" in item.text)
    path, rest = blocks[: served + 1], blocks[served + 1 :]
    assert [item for item in path if item.reason] == []
    assert path[-1].line + path[-1].text.count("\n") < FIRST_SCREEN
    commands = [part for item in path for part in re.split(r"\n|&&", item.text.strip())]
    assert len(commands) <= 7, commands

    origin = tmp_path / "origin"
    release.copy_of_sources(ROOT, origin)
    me = ("-c", "user.name=stranger", "-c", "user.email=stranger@example.org")
    for argv in (("init", "--quiet"), ("add", "--all"), (*me, "commit", "--quiet", "-m", "all")):
        subprocess.run(["git", *argv], cwd=origin, check=True, timeout=60)
    empty = tmp_path / "empty"
    empty.mkdir()
    addresses = {**workplace.addresses, "<this repository>": str(origin)}
    run(path[0], Workplace(empty, addresses))
    clone = Workplace(empty / "candlecast", addresses)
    (clone.folder / ".venv").symlink_to(sys.prefix)
    write_candles(clone.folder, ("IBM",), "ACME")
    for block in path[1:-1]:
        run(block, clone)

    def look(printed: str) -> None:
        address = re.search(r"http://[\d.]+:\d+/dashboard", printed)
        assert address, printed
        page = browser.new_page()
        page.goto(address[0])
        expect(page.get_by_role("heading", name="ACME").first).to_be_visible(timeout=30_000)
        own = bundle.load(clone.folder / "my-bundle").config.model_version
        assert own != bundle.load(bundle.default_path()).config.model_version
        expect(page.locator("body")).to_contain_text(own, timeout=30_000)
        page.close()

    run(path[-1], clone, look)
    for block in rest:
        if not block.reason:
            run(block, clone)


def test_the_graph_is_used_by_onnxruntime_alone() -> None:
    (block,) = [item for item in documents.blocks(MODEL) if item.language == "python"]
    assert "candlecast" not in block.text
    assert "import shared" not in block.text
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=ROOT, capture_output=True, text=True, check=True
    )
    numbers = re.findall(r"\d+\.\d+", done.stdout)
    assert len(numbers) >= 3 * 7 + 3
