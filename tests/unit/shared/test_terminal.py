"""Text of others on a terminal: shown as it is spelt, and nothing more."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from rich.table import Table

from local import doctor
from local.doctor import Finding
from local.screen import forecasts_table
from local.tail import Rows, print_json
from shared import bundle, catalogue
from shared.bundle import BundleConfig
from shared.forecasts import Forecast
from shared.terminal import Console
from tests.poison import POISON
from tests.unit.local.test_screen import forecast
from trainer import console, model_commands

ROOT: Final = Path(__file__).parents[3]
HOSTILE: Final = "[/red]\x1b[2J\x1b]0;title\x07:smile:\x9b\u202e[link=x]"
SPELT: Final = r"[/red]\x1b[2J\x1b]0;title\x07:smile:\x9b\u202e[link=x]"


def printed(show: Callable[[Console], object]) -> str:
    output = io.StringIO()
    show(Console(file=output, width=400))
    return output.getvalue()


def by_name() -> Forecast:
    return forecast("AAPL").model_copy(update={"model_version": HOSTILE})


def table(text: str) -> Table:
    made = Table(text, title=text, caption=text)
    made.add_row(text)
    return made


def record(value: bytes | None) -> Any:
    return SimpleNamespace(value=value, partition=3, offset=7)


def config() -> BundleConfig:
    known = bundle.load(bundle.default_path()).config
    data = known.data.model_copy(update={"source": HOSTILE})
    return known.model_copy(update={"name": HOSTILE, "data": data})


SHOWN: Final[dict[str, Callable[[Console], object]]] = {
    "text": lambda out: out.print(HOSTILE),
    "table": lambda out: out.print(table(HOSTILE)),
    "demo": lambda out: out.print(forecasts_table([by_name()], out)),
}


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_controls_the_terminal(name: str) -> None:
    said = printed(SHOWN[name])
    assert said.replace("\n", "").isprintable()
    assert SPELT in said


def test_tail_shows_versions_of_anybody() -> None:
    said = printed(lambda out: Rows(out).show(record(by_name().encode())))
    assert said.replace("\n", "").isprintable()
    assert r"[/red]\x1b[2J" in said


@pytest.mark.parametrize("name", POISON)
def test_tail_names_what_is_no_forecast(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    value, _ = POISON[name]
    assert printed(lambda out: Rows(out).show(record(value))).startswith("3/7: ")
    print_json(record(value))
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("3/7: ")
    assert said.err.replace("\n", "").isprintable()


def test_tail_in_a_pipe_is_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    made = forecast("AAPL")
    print_json(record(made.encode()))
    print_json(record(by_name().encode()))
    plain, hostile = capsys.readouterr().out.splitlines()
    assert plain.encode() == made.encode()
    assert hostile.isprintable()
    assert Forecast.decode(hostile.encode()) == by_name()


def test_bundles_doctor_and_store_show_text_of_anybody() -> None:
    choice = catalogue.PromotionEntry(
        version="v", digest="d" * 64, by=HOSTILE, at_ms=0, why=HOSTILE, run=""
    )
    entry = catalogue.ChampionEntry(interval="*", symbols="*", champion=choice, before=())
    found = catalogue.Catalogue(store=HOSTILE, generation=1, champions=(entry,), versions=())
    output = io.StringIO()
    with redirect_stdout(output):
        console.print_bundle(config())
        doctor._print([Finding(HOSTILE, "wrong", HOSTILE, HOSTILE)])
        model_commands._print_catalogue(found, details=False)
    assert output.getvalue().replace("\n", "").isprintable()
    assert r"[/red]\x1b" in output.getvalue()


def test_there_is_one_console() -> None:
    """What is printed in another way has no such care."""
    packages = ("api", "local", "producer", "shared", "stream_app", "trainer")
    found = [
        str(path.relative_to(ROOT))
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if re.search(r"rich(\.console import.*\bConsole\b|\.markup)", path.read_text("utf-8"))
    ]
    assert found == []


def test_styles_are_still_seen() -> None:
    output = io.StringIO()
    out = Console(file=output, force_terminal=True, color_system="standard")
    out.print(cast("Any", "plain"), style="red")
    assert "\x1b[31mplain" in output.getvalue()
