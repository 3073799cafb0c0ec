"""Settings of the producer: bounds, and messages that name the flag, the rule and the value."""

from __future__ import annotations

import pytest

from producer.settings import ProducerSettings
from shared.bundle import default_path, load
from shared.candles import MAX_CANDLES

OF_5M = ["--source", "yfinance", "--interval", "5m"]


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        ProducerSettings.read(argv, "producer")
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize("flag", ["--window", "--history"])
def test_a_window_is_republished_up_to_the_bound_of_all_windows(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ProducerSettings.read([flag, str(MAX_CANDLES)], "producer")
    assert MAX_CANDLES in {settings.window, settings.history}
    error = error_of([flag, str(MAX_CANDLES + 1)], capsys)
    assert error.startswith(f"producer: {flag[2:]}: expected at most 2048")


@pytest.mark.parametrize(
    ("argv", "candles"),
    [([], 512), (OF_5M, MAX_CANDLES), ([*OF_5M, "--window", "160"], 160)],
)
def test_a_split_renews_what_the_built_in_model_reads(argv: list[str], candles: int) -> None:
    settings = ProducerSettings.read(argv, "producer")
    assert settings.window_candles == candles
    if settings.window is None:
        longest = load(default_path()).config.window_lengths[settings.interval][-1]
        assert candles >= longest


@pytest.mark.parametrize(
    ("argv", "rule", "value"),
    [
        (["--interval", "7m"], "interval: expected one of 1m, 2m, 3m", "7m"),
        (["--columns", "price=Close"], "columns: expected PART=COLUMN", "price=Close"),
        (["--rename", "A"], "rename: expected NAME=NAME", "A"),
        (["--timezone", "Mars"], "timezone: expected a time zone such as", "Mars"),
        (["--date-format", "dmy"], "date_format: expected a format such as", "dmy"),
        (["--source", "backfill", "--start", "soon"], "start: expected a date or time", "soon"),
    ],
)
def test_a_bad_value_is_one_line_with_the_rule_and_the_value(
    argv: list[str], rule: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(argv, capsys)
    assert error.startswith(f"producer: {rule}")
    assert error.endswith(f'got "{value}"')
    assert "\n" not in error


def test_yahoo_has_not_every_interval(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(["--source", "yfinance", "--interval", "3m"], capsys)
    assert error.startswith("producer: interval: Yahoo has candles of 1m, 2m, 5m")
    assert ProducerSettings.read(["--path", "x", "--interval", "3min"], "x").interval == "3m"
