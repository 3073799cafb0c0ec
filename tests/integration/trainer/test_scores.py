"""The report of scores, of the topic on a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.topics import ensure, market_topics
from tests.candles import walk
from tests.integration.topics import write
from tests.streams import Stream
from tests.unit.stream_app.test_scoring import days
from trainer.__main__ import main
from trainer.settings import ScoresSettings

pytestmark = pytest.mark.integration


def test_the_topics_report_is_that_of_a_file_of_its_messages(
    kafka: str,
    unique_name: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--bootstrap", kafka, "--scores-topic", unique_name("scores"), "--no-progress"]
    settings = ScoresSettings.read(flags, "tests")
    [topic] = [made for made in market_topics(settings) if made.name == settings.scores_topic]
    asyncio.run(ensure(settings, [topic]))
    stream = Stream()
    stream.take(*days(150, "AAPL", 1), *walk(150, symbol="SAW"))
    values = [*(score.encode() for score in stream.scores), b"{}", b"no scores"]
    write(kafka, settings.scores_topic, [(b"AAPL", value) for value in values])
    file = tmp_path / "scores.jsonl"
    file.write_bytes(b"\n".join(values))

    reports = []
    for source in (flags, ["--data", str(file)]):
        assert main(["scores", *source, "--json", "--out", str(tmp_path / "scores.html")]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    for report in reports:
        del report["source"]
    assert reports[0] == reports[1]
    assert (reports[0]["messages"], reports[0]["rejected"]) == (len(values) - 2, 2)
    assert (tmp_path / "scores.html").stat().st_size > 20_000
