"""The tail's rows."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import cast

from rich.console import Console

from local.tail import Rows, expected_move
from shared.kafka import Record
from tests.unit.local.test_screen import forecast


def record(value: bytes) -> Record:
    return cast("Record", SimpleNamespace(value=value, partition=3, offset=7))


def test_rows_have_one_head_and_the_expected_move() -> None:
    output = io.StringIO()
    rows = Rows(Console(file=output, width=120))
    for symbol in ("AAPL", "MSFT"):
        rows.show(record(forecast(symbol).encode()))
    head, first, second = output.getvalue().splitlines()
    assert "expected move" in head
    assert "+1: 90 % interval" in head
    assert "± 1.00%" in first
    assert second.split()[1] == "MSFT"


def test_what_is_no_forecast_is_named_by_its_place() -> None:
    output = io.StringIO()
    Rows(Console(file=output, width=120)).show(record(b"{}"))
    assert output.getvalue().startswith("3/7: ")


def test_a_move_grows_with_the_root_of_time() -> None:
    assert expected_move(0.02, 4) == 0.04
