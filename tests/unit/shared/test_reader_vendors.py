"""Each command in docs/data.md reads the candles of its vendor's file; so does the reader fuzz."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from pathlib import Path
from typing import Final

import pandas as pd
import pytest

from shared.process import Exit
from tests import panels, reader_fuzz
from tests.vendors import VENDORS
from trainer.__main__ import main

ROOT: Final = Path(__file__).parents[3]
COMMANDS: Final = dict(
    re.findall(r"^\| (.+?) \| `python -m trainer (.+)` \|$", (ROOT / "docs/data.md").read_text(),
               re.MULTILINE)
)  # fmt: skip


def test_every_vendor_has_a_command() -> None:
    assert list(COMMANDS) == list(VENDORS)


@pytest.mark.parametrize("name", VENDORS)
def test_the_command_of_a_vendor_reads_its_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = VENDORS[name]
    monkeypatch.chdir(tmp_path)
    Path(vendor.file).write_bytes(vendor.write(vendor.rows()))
    argv = [*shlex.split(COMMANDS[name]), "--json", "--no-progress", "--to", "tidy.parquet"]
    assert main(argv) == Exit.DONE
    about = json.loads(capsys.readouterr().out)
    assert about["interval"] == vendor.interval
    assert not about["left_out"]
    tidy = pd.read_parquet("tidy.parquet")
    values = tidy[["open", "high", "low", "close", "volume"]].to_numpy().tolist()
    got = zip(tidy["symbol"], tidy["open_ms"].tolist(), map(tuple, values), strict=True)
    assert sorted(got) == panels.as_read(vendor.rows())


def test_mutated_files_are_read_or_refused_in_words() -> None:
    """A short form of ``python -m tests.reader_fuzz 100000``."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ends = reader_fuzz.fuzz(300)
    assert min(ends["read"], ends["refused"]) > 50
