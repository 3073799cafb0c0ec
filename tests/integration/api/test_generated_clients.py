"""The OpenAPI document as linters and generators of clients see it; the clients are used."""

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import uvicorn

from api.openapi import example_history
from tests.integration.api.test_fuzz import make_app
from tests.integration.node import npm
from tests.integration.processes import wait_until
from tests.unit.api.client import LENGTH, call

pytestmark = pytest.mark.integration

APP = make_app()
PROJECT: Final = Path(__file__).parent / "typescript"


@pytest.fixture
def url() -> Iterator[str]:
    """The API on a socket, in a thread."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(APP, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            wait_until(lambda: server.started, 20, "the API starts")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client")
    document = folder / "openapi.json"
    document.write_text(call(APP, "GET", "/openapi.json").text)
    client = folder / "candlecast_client"
    command: list[str | Path] = [
        Path(sys.executable).with_name("openapi-python-client"),
        "generate",
        "--meta",
        "none",
    ]
    # the files are as they come, not formatted
    (folder / "config.yml").write_text("post_hooks: []\n")
    command += ["--config", folder / "config.yml", "--path", document, "--output-path", client]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "Warning" not in made.stdout + made.stderr
    return folder


def test_a_generated_client_has_a_typed_method_for_each_operation(
    generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(generated))

    def method(tag: str, name: str) -> Any:
        return importlib.import_module(f"candlecast_client.api.{tag}.{name}").asyncio

    document = json.loads((generated / "openapi.json").read_text())
    for path in document["paths"].values():
        for operation in path.values():
            assert method(operation["tags"][0].replace(" ", "_"), operation["operationId"])

    package = importlib.import_module("candlecast_client")
    models = importlib.import_module("candlecast_client.models")
    history = [models.TimedCandle.from_dict(candle) for candle in example_history(LENGTH)]
    body = models.ForecastsRequest(
        histories=[models.CandleHistory(candles=history, interval="1d")], horizons=[3, 1]
    )

    async def use() -> None:
        client = package.Client("http://api", httpx_args={"transport": httpx.ASGITransport(APP)})
        newest = await method("stream", "list_forecasts")(client=client, symbols=["AAPL", "IBM"])
        assert [forecast.symbol for forecast in newest.forecasts] == ["AAPL"]
        past = await method("stream", "get_history")("AAPL", client=client, limit=5)
        assert len(past.candles) == 5
        made = await method("forecasts", "create_forecasts")(client=client, body=body)
        assert [horizon.step for horizon in made.forecasts[0].horizons] == [1, 3]
        assert made.forecasts[0].horizons[0].quantiles["0.5"] > 0
        problem = await method("stream", "get_forecast")("NONE", client=client)
        assert isinstance(problem, models.Problem)
        assert problem.errors[0].field == "symbol"

    asyncio.run(use())


def test_linters_are_content_and_a_typescript_client_works(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "typescript"
    shutil.copytree(PROJECT, folder)
    (folder / "openapi.json").write_text(call(APP, "GET", "/openapi.json").text)
    npm(folder, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    linted = npm(folder, "run", "lint")
    assert "warning" not in linted, linted
    npm(folder, "run", "generate")
    npm(folder, "run", "check")
    history = json.dumps(example_history(LENGTH))
    assert "3 calls answered" in npm(folder, "run", "use", "--", url, history)
