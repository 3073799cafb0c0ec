"""The report of scores against the messages that it is of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shared.candles import DAY_MS
from shared.score_messages import Scores
from tests.candles import candle, walk
from tests.streams import Stream
from tests.unit.stream_app.test_scoring import days
from trainer.__main__ import main


@pytest.fixture(scope="module")
def scores() -> list[Scores]:
    """Return the scores of a market by chance, of a saw, and of a candle that was corrected."""
    stream = Stream()
    market = days(150, "AAPL", 1)
    stream.take(*market, *walk(150, symbol="SAW"))
    stream.take(candle(148, market[148].close * 1.5))
    return stream.scores


@pytest.fixture(scope="module")
def file(scores: list[Scores], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    lines = [*(score.encode() for score in scores), b"{}", b"", b"no scores"]
    path.write_bytes(b"\n".join(lines))
    return path


def test_its_figures_are_those_of_the_messages(
    scores: list[Scores], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scores", "--data", str(file), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["messages"], made["rejected"]) == (len(scores), 2)
    assert [score["summary"]["step"] for score in made["steps"]] == [1, 2, 5]
    newest = {
        (message.symbol, score.as_of_ms): score  # a corrected candle scores again
        for message in scores
        for score in message.horizons
        if score.step == 1
    }
    first = made["steps"][0]
    assert first["summary"]["count"] == len(newest) == 2 * 130
    held = np.mean([score.inside["80"] for score in newest.values()])
    assert first["summary"]["coverage"]["80"] == pytest.approx(held)
    pinball, base = (
        np.mean([getattr(score, name) for score in newest.values()])
        for name in ("pinball", "baseline_pinball")
    )
    assert first["summary"]["baseline_skill"] == pytest.approx(1 - pinball / base, abs=1e-6)
    assert first["series"] == 2
    assert first["worse"] == ["SAW"]
    assert made["period_ms"] == 7 * DAY_MS
    assert sum(score["summary"]["count"] for score in first["periods"]) == 260
    starts = [score["from_ms"] for score in first["periods"]]
    assert starts == sorted(starts)


def test_a_table_and_a_page_show_them(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report" / "scores.html"
    assert main(["scores", "--data", str(file), "--out", str(out), "--days", "28"]) == 0
    told = capsys.readouterr().out
    assert "1d candles, 5 ahead, 2 series" in told
    assert "worse than no model: SAW" in told
    assert told.count("2010-0") == 3 * 6
    page = out.read_text()
    assert page.count('<div class="panel"><svg') == 1
    assert "worse than no model: SAW" in page
    assert not any(loads in page for loads in ("src=", 'href="http', "<script", "url(http"))


def test_no_scores_are_said_to_be_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("{}\n")
    assert main(["scores", "--data", str(path)]) == 1
    assert "expected scores, got none, and 1 other messages" in caplog.text
