"""A feature of a user's own, as docs/features.md tells it: trained, served, and seen to count."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from local.ports import HOST, free_ports
from shared import bundle
from shared.candles import Candle
from shared.forecasts import Forecast
from shared.history import bundled
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read_forecasts, write_candles
from tests.integration.workers import WorkerTopics, start_worker
from trainer.__main__ import main

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[3] / "docs" / "features.md"
OLD = 50
"""Candles back: what only a mean of 60 candles still sees of the volume."""


def own_feature(folder: Path) -> Path:
    """Write the page's example as a user would, to a file."""
    found = re.search(r"<!-- own-feature -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    path = folder / "my_features.py"
    path.write_text(found[1])
    return path


def twins(length: int) -> tuple[list[Candle], list[Candle]]:
    """Return a real window, and the same of another symbol with one old candle's volume changed."""
    real = list(bundled(("IBM",)).candles[-length:])
    other = [candle.model_copy(update={"symbol": "IBM2"}) for candle in real]
    changed = other[-OLD]
    other[-OLD] = changed.model_copy(update={"volume": changed.volume * 40})
    return real, other


def streamed(
    processes: Processes, topics: WorkerTopics, model: Path, candles: list[Candle]
) -> dict[str, Forecast]:
    """Return the forecasts that a worker with a model publishes, by symbol."""
    worker = start_worker(processes, topics, "--model", str(model))
    write_candles(topics.bootstrap, topics.candles, candles)
    wait_until(
        lambda: count(topics.bootstrap, topics.forecasts) >= 2,
        60, "both symbols are forecast", process=worker.process,
    )  # fmt: skip
    return {made.symbol: made for made in read_forecasts(topics.bootstrap, topics.forecasts)}


def asked(processes: Processes, model: Path, candles: list[Candle]) -> dict[str, Any]:
    """Return the API's forecast ahead of candles with their times."""
    port = free_ports(1)[0]
    api = processes.start("api", "--port", str(port), "--model", str(model))
    wait_until(partial(answers, port), 60, "the API answers", process=api)
    names = ("open", "high", "low", "close", "volume", "open_ms", "close_ms")
    rows = [{name: getattr(candle, name) for name in names} for candle in candles]
    history = {"symbol": candles[0].symbol, "interval": "1d", "candles": rows}
    with closing(http.client.HTTPConnection(HOST, port, timeout=30)) as connection:
        body = json.dumps({"histories": [history]})
        connection.request("POST", "/v1/forecasts", body, {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    forecast: dict[str, Any] = answer["forecasts"][0]
    return forecast


def answers(port: int) -> bool:
    with closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False


@patch.dict("trainer.registry._REGISTRY")  # the feature is forgotten after the test
def test_a_feature_in_a_file_of_ones_own_is_trained_and_served(
    kafka: str, unique_name: Callable[[str], str], processes: Processes, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    own = f"default,{own_feature(tmp_path)}:vwap-gap"
    argv = ["fit", "--features", own, "--out", str(model), "--max-epochs", "2", "--hidden", "8"]
    assert main([*argv, "--no-progress", "--tracking-uri", ""]) == 0
    config = bundle.load(model).config
    assert "volume-weighted" in config.features["vwap-gap"]

    real, other = twins(config.window_length)
    made = streamed(processes, WorkerTopics.make(kafka, unique_name), model, real + other)
    default = bundle.default_path()
    plain = streamed(processes, WorkerTopics.make(kafka, unique_name), default, real + other)
    for step in range(3):
        without, with_own = (
            [forecasts[name].horizons[step].raw_quantiles for name in ("IBM", "IBM2")]
            for forecasts in (plain, made)
        )
        assert without[0] == without[1], "the default features do not see so far back"
        assert with_own[0] != with_own[1], "the new feature does"

    for candles in (real, other):
        answer = asked(processes, model, candles)
        for told, horizon in zip(answer["horizons"], made[candles[0].symbol].horizons, strict=True):
            assert told["quantiles"] == pytest.approx(horizon.raw_quantiles, rel=1e-6)
