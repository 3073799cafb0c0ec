"""The trainer's commands: help that teaches, settings that are checked, errors in one line."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from shared.bundle import default_path
from shared.settings import ServiceSettings
from trainer.__main__ import COMMANDS, main
from trainer.evaluate.baselines import NAMES, OF_CLASSES
from trainer.evaluate.baselines.run import BASELINES
from trainer.features import FEATURES
from trainer.fit_config import REQUIRED, FitConfig
from trainer.settings import (
    BacktestSettings,
    EvaluateSettings,
    FitSettings,
    TrainSettings,
)

FIRST = next(iter(FEATURES))


def test_the_default_settings_are_the_default_config() -> None:
    settings = TrainSettings.read([], "x")
    assert settings.config() == FitConfig()
    assert settings.out == Path("my-bundle")


def test_the_built_in_bundle_is_replaced_only_if_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert FitSettings.read(["--out", "b"], "x").folder == Path("b")
    assert FitSettings.read(["--replace-default"], "x").folder == default_path()
    with pytest.raises(SystemExit):
        FitSettings.read(["--replace-default", "--out", "b"], "x")
    assert "replace_default: expected no --out beside it, got 'b'" in capsys.readouterr().err


def test_classes_are_measured_against_the_strong_baselines_unless_others_are_named() -> None:
    assert EvaluateSettings.read(["--all", "a"], "x").baselines_of_classes == OF_CLASSES
    named = EvaluateSettings.read(["--all", "a", "--baselines", "ets,har"], "x")
    assert named.baselines_of_classes == ("ets", "har")
    assert EvaluateSettings.read([], "x").baselines == NAMES


def test_settings_reach_the_config() -> None:
    features = (*REQUIRED, "rsi")
    settings = FitSettings.read(
        [
            "--out", "b", "--horizons", "3,1", "--quantiles", "0.9,0.1,0.5", "--seed", "7",
            "--features", ",".join(features), "--hidden", "8",
            "--sequence-length", "12", "--dropout", "0.1", "--learning-rate", "0.01",
            "--max-epochs", "3", "--until", "2010-01-01",
        ],
        "x",
    )  # fmt: skip
    assert settings.config() == FitConfig(
        features=features, horizons=(1, 3), quantile_levels=(0.1, 0.5, 0.9),
        hidden=8, sequence_length=12, dropout=0.1, learning_rate=0.01, max_epochs=3,
    )  # fmt: skip
    assert (settings.seed, settings.until) == (7, date(2010, 1, 1))


def test_what_a_frozen_bundle_has_no_use_for_is_known() -> None:
    argv = ["--model", "b", "--data", "c.csv", "--horizons", "2", "--folds", "3", "--out", "r"]
    assert EvaluateSettings.read(argv, "x").unused_with_model == ("folds", "horizons")


def test_a_window_is_a_multiple_of_16_and_steps_are_bounded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert TrainSettings.read(["--sequence-length", "30"], "x").config().window_length == 160
    assert TrainSettings.read(["--sequence-length", "31"], "x").config().window_length == 176
    with pytest.raises(SystemExit):
        TrainSettings.read(["--sequence-length", "257"], "x")
    assert "sequence_length: expected at most 256" in capsys.readouterr().err


def test_settings_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_TRAINER_HORIZONS", "2,4")
    assert TrainSettings.read([], "x").horizons == (2, 4)
    assert TrainSettings.read(["--horizons", "9"], "x").horizons == (9,)


@pytest.mark.parametrize(
    ("kind", "argv", "line"),
    [
        (TrainSettings, ["--quantiles", "0.1,0.9"], "quantiles: expected levels between 0 and 1"),
        (TrainSettings, ["--quantiles", "0.5,1"], "quantiles: expected levels between 0 and 1"),
        (TrainSettings, ["--horizons", "0,1"], "horizons: expected whole numbers of candles"),
        (TrainSettings, ["--horizons", "one"], "horizons[0]: expected a whole number"),
        (
            TrainSettings,
            ["--features", "rsi,hope"],
            f"features: expected default, FILE.py:NAME or some of {FIRST}",
        ),
        (TrainSettings, ["--features", "rsi"], f"features: expected {REQUIRED[0]}"),
        (TrainSettings, ["--interval", "1m"], "interval: the bundled candles are 1d, got '1m'"),
        (TrainSettings, ["--data", "x", "--interval", "7h"], "interval: expected one of 1m, 2m"),
        (EvaluateSettings, ["--baselines", "luck"], "baselines: expected some of persistence"),
        (
            FitSettings,
            ["--out", "b", "--until", "soon"],
            "until: expected a date such as 2026-01-31",
        ),
    ],
)
def test_a_bad_setting_is_told_in_one_line(
    kind: type[ServiceSettings], argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        kind.read(argv, "python -m trainer x")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m trainer x: {line}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: python -m trainer {command}" in text
    assert "Examples:" in text
    assert "  python -m trainer" in text


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in COMMANDS)


def test_an_unknown_command_is_told_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["dream"]) == 2
    assert (
        "expected train, fit, backtest, evaluate, search, inspect, reference, scores, watch, "
        "models, promote, rollback, compare, gc, got 'dream'" in capsys.readouterr().err
    )


def test_the_baselines_of_the_settings_are_those_there_are() -> None:
    assert tuple(BASELINES) == NAMES


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["backtest", "--out", "x.xlsx"], "x.xlsx: expected a name ending in .parquet or .csv"),
        (
            ["backtest", "--out", "x.csv", "--model", "none"],
            "none/config.json: cannot be read",
        ),
        (["fit", "--out", "b", "--data", "none.csv"], "none.csv: cannot be read"),
        (["fit", "--out", "b", "--until", "2000-06-01"], "before 2000-06-01 to train on, got none"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    argv: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shared.process.configure_logging", lambda *_: None)
    assert main([*argv, "--no-progress"]) == 1
    errors = [one for one in caplog.records if one.levelname == "ERROR"]
    assert len(errors) == 1
    assert line in errors[0].getMessage()
    assert errors[0].exc_info is None
    assert list(tmp_path.iterdir()) == []


def test_the_default_model_is_the_built_in_one() -> None:
    assert BacktestSettings.read(["--out", "x.csv"], "x").model == default_path()
