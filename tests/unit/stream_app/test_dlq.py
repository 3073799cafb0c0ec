"""Filters and forms of dead letters; the topic itself is in the integration tests."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stream_app.dlq import DeadLetter, check, matches
from stream_app.settings import DlqCommands, LetterSettings, ListSettings, WorkerCommand

REJECTED_MS = 1_767_225_600_000  # 2026-01-01T00:00 UTC
LETTER = DeadLetter(
    partition=2,
    offset=7,
    rejected_ms=REJECTED_MS,
    key=b"AAPL",
    value=b"\xff{",
    headers=(
        ("ce_id", b"1"),
        ("candlecast-topic", b"market.candles.v1"),
        ("candlecast-partition", b"2"),
        ("candlecast-offset", b"41"),
        ("candlecast-reason", b"not_json"),
        ("candlecast-detail", b"value: invalid JSON"),
    ),
)


def settings(*flags: str) -> LetterSettings:
    return ListSettings.read(flags, "dlq")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], True),
        (["--reason", "not_json,future"], True),
        (["--reason", "future"], False),
        (["--symbols", "MSFT,AAPL"], True),
        (["--symbols", "MSFT"], False),
        (["--since", "2026-01-01T00:00:00"], True),
        (["--since", "2026-01-01T00:00:01Z"], False),
        (["--partition", "2", "--offset", "7"], True),
        (["--partition", "1"], False),
        (["--offset", "41"], False),
        (["--reason", "not_json", "--symbols", "MSFT"], False),
    ],
)
def test_filters_all_must_pass(flags: list[str], expected: bool) -> None:
    assert matches(LETTER, settings(*flags)) is expected


def test_shown_as_json_even_where_it_is_no_text() -> None:
    shown = json.loads(LETTER.as_json())
    assert shown["value"] == "\\xff{"
    assert shown["source_offset"] == "41"
    assert shown["headers"] == {"ce_id": "1"}
    assert shown["rejected"] == "2026-01-01T00:00:00.000+00:00"


def test_the_original_headers_go_back_without_the_workers_own() -> None:
    assert LETTER.original_headers == [("ce_id", b"1")]


def test_an_unknown_reason_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*not_json.*, got nonsense"):
        check(settings("--reason", "nonsense"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["dlq", "burn"], "burn"),
        (["dlq"], "expected one of list, show, replay, skip"),
        (["--partitions", "4", "dlq", "list"], "flags of dlq go behind it, got --partitions"),
        (["dlq", "list", "--limit", "0"], "stream_app dlq list: limit: expected at least 1"),
    ],
)
def test_a_wrong_command_ends_with_2_and_says_why(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        WorkerCommand.read(argv, "python -m stream_app")
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_command_has_its_own_flags() -> None:
    read = WorkerCommand.read(["dlq", "replay", "--bootstrap", "a:1", "--dry-run"], "x")
    assert isinstance(read.dlq, DlqCommands)
    assert read.dlq.chosen is read.dlq.replay
    assert read.dlq.replay is not None
    assert (read.dlq.replay.bootstrap, read.dlq.replay.dry_run) == ("a:1", True)


def test_nothing_of_a_dead_letter_controls_a_terminal() -> None:
    hostile = DeadLetter(
        0, 1, REJECTED_MS, b"[/red]\x1b[2J", b"\x1b]0;x\x07",
        (("candlecast-reason", None), ("candlecast-detail", b"\x9b\xe2\x80\xae"), ("n", None)),
    )  # fmt: skip
    assert hostile.as_row().isprintable()
    assert "[/red]\\x1b[2J" in hostile.as_row()
    assert hostile.as_json().isprintable()
    assert json.loads(hostile.as_json())["headers"] == {"n": None}


def test_a_letter_that_holds_a_part_is_known() -> None:
    assert LETTER.is_whole
    cut = replace(LETTER, headers=(*LETTER.headers, ("candlecast-value-bytes", b"9")))
    assert not cut.is_whole
