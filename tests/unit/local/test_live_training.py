"""The story of a live training: what the trainer's log and the forecasts say, each line once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local import live_training
from local.accounting import Accounting, ModelScores
from local.live_training import Story, in_words
from local.settings import TRAINING_SPEED, LocalSettings
from local.system import PartFailed, source_flags
from shared.candles import DAY_MS
from tests.streams import Stream
from tests.unit.stream_app.test_scoring import days


def line(message: str) -> str:
    return json.dumps({"level": "INFO", "message": message}) + "\n"


def test_news_are_what_the_watch_logs_of_the_interval_and_other_models(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    story = Story(log, "1d")
    assert story.news("first", 31 * DAY_MS) == []  # neither a log nor another model
    log.write_text(line("metrics at x") + " a table\n" + line("1d: training on all candles"))
    assert story.news("first", 31 * DAY_MS) == ["1970-01-31: trainer: training on all candles"]
    with log.open("a") as stream:
        stream.write(line("1h: other") + line("1d: promoted")[:20])
        stream.flush()
        assert story.news("first", 32 * DAY_MS) == []
        stream.write(line("1d: promoted")[20:])
    assert story.news("second", 32 * DAY_MS) == [
        "1970-02-01: trainer: promoted",
        "1970-02-01: the worker forecasts by second, no longer first",
    ]
    assert story.news("second", 33 * DAY_MS) == []


def test_each_models_scores_are_summed_and_put_in_words() -> None:
    stream = Stream()
    stream.take(*days(60))
    account = Accounting(20, (1, 2, 5))
    for scores in stream.scores:
        account.score(scores)
        account.score(scores)  # a repeat
    horizons = [made for scores in stream.scores for made in scores.horizons]
    held = account.models["persistence"]
    assert held.horizons == len(horizons)
    assert held.pinball == pytest.approx(sum(made.pinball for made in horizons))
    assert held.skill == pytest.approx(
        1 - held.pinball / sum(made.baseline_pinball for made in horizons)
    )
    later = ModelScores(held.last_ms + DAY_MS, held.last_ms + DAY_MS)
    first, second = in_words({"next": later, "persistence": held})
    assert first.startswith(f"persistence: {len(horizons):,} scores from 2010-01-2")
    assert "against no model's its quantiles are" in first
    assert second.startswith("next: 0 scores")


def test_it_replays_slowly_with_a_first_model_of_its_own() -> None:
    settings = LocalSettings.read(["--live-training", "--exit-when-done"], "x")
    assert source_flags(settings)[-2:] == ["--speed", f"{TRAINING_SPEED:g}"]
    faster = LocalSettings.read(["--live-training", "--speed", "300"], "x")
    assert source_flags(faster)[-2:] == ["--speed", "300"]


@pytest.mark.parametrize("flags", [["--source", "yfinance"], ["--model", "x"]])
def test_it_needs_a_replay_and_no_model(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        LocalSettings.read(["--live-training", *flags], "x")
    assert "live_training: it replays, from a first model of its own" in capsys.readouterr().err


def test_without_pytorch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_training, "find_spec", lambda _: None)
    settings = LocalSettings.read(["--live-training"], "x")
    with (
        pytest.raises(PartFailed, match=r'pip install "candlecast\[train\]"'),
        live_training.prepared(settings, print),
    ):
        pass
