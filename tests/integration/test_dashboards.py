"""Alerts and dashboards: unit tests by promtool, and a real Prometheus on the running demo."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from aiokafka import AIOKafkaProducer

from api.openapi import example_history
from deploy import dashboards
from local.ports import HOST, free_ports
from local.process import Process
from local.yahoo import YahooStandIn, real_now_ms
from local.yahoo.market import open_now
from shared.bundle import contents_of, default_path
from shared.leash import Leash
from shared.model_store import Decision, ModelStore
from tests import documents
from tests.integration.processes import Processes, wait_until

pytestmark = pytest.mark.integration

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
RULES: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS: Final = [rule for rule in RULES if "alert" in rule]

START_S: Final = 120.0
METRIC: Final = re.compile(r"(?<![\w:])(?:candlecast|process|node|up)[\w:]*")


def tool(name: str, package: str = "prometheus") -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def test_every_alert_fires_and_falls_silent_as_its_unit_tests_say() -> None:
    command = [tool("promtool"), "test", "rules", str(DEPLOY / "rules.test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_its_tests_and_its_paragraph(alert: dict[str, Any]) -> None:
    tests = (DEPLOY / "rules.test.yml").read_text()
    for kind in ("silent", "firing"):
        assert f"name: {alert['alert']}, {kind}\n" in tests
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in documents.anchors((ROOT / page).read_text())
    assert alert["labels"]["severity"] in {"page", "ticket"}


@dataclass(frozen=True)
class Watched:
    """The demo, and the Prometheus that watches it."""

    prometheus: str

    def ask(self, query: str) -> list[Any]:
        """Return the series that a query gives now."""
        url = f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- loopback
            result: list[Any] = json.load(answer)["data"]["result"]
        return result


@pytest.fixture
def watched(processes: Processes, tmp_path: Path, leash: Leash) -> Iterator[Watched]:
    """Run the demo on a market that is open, and scrape all as deploy/prometheus.yml says.

    A champion and the bundled candles beside it bring what the models and their drift show.
    """
    prometheus = tool("prometheus")
    exporter = tool("prometheus-node-exporter", "prometheus-node-exporter")
    kafka, api, worker, producer, node, port = free_ports(6)
    now_ms = real_now_ms()
    listings = [open_now(symbol, now_ms, price=100.0) for symbol in ("GOOD", "OTHER")]
    store = ModelStore(str(tmp_path / "models"))
    store.promote(store.put(contents_of(default_path())), "1d", decision=Decision("test"))
    with YahooStandIn(*listings) as yahoo:
        demo = processes.start(
            "local", "--source", "live", "--symbols", "GOOD,OTHER", "--interval", "1m",
            "--kafka-port", str(kafka), "--api-port", str(api), "--worker-port", str(worker),
            "--producer-port", str(producer), "--models", store.url,
            env={
                "CANDLECAST_PRODUCER_PROXY": yahoo.proxy_url,
                "CANDLECAST_PRODUCER_CA_BUNDLE": str(yahoo.ca_bundle),
                "CANDLECAST_PRODUCER_POLL_SECONDS": "1",
            },
        )  # fmt: skip
        here = {"producer": producer, "worker": worker, "api": api, "node": node}
        here["prometheus"] = port
        folder = tmp_path / "prometheus"
        configure(folder, here)
        commands = {
            "node": [exporter, f"--web.listen-address={HOST}:{node}"],
            "prometheus": [
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={HOST}:{port}",
            ],
        }
        started = [
            Process(name, argv, log=tmp_path / f"{name}.log", leash=leash)
            for name, argv in commands.items()
        ]
        try:
            wait_until(lambda: "latency p50" in demo.log_tail(), START_S, "forecasts", process=demo)
            asyncio.run(send(f"{HOST}:{kafka}", "market.candles.v1", b"no candle"))
            replay = processes.start(
                "producer", "--bootstrap", f"{HOST}:{kafka}", "--metrics-port", "0"
            )
            wait_until(lambda: replay.exit_code == 0, 60.0, "the bundled candles are sent")
            history = json.dumps({"history": example_history(1000)}).encode()
            for _ in range(3):
                post(f"http://{HOST}:{api}/predict", history)
            post(f"http://{HOST}:{api}/predict", b"{}")
            yield Watched(f"http://{HOST}:{port}")
        finally:
            for process in started:
                process.stop(10.0)


def configure(folder: Path, here: dict[str, int]) -> None:
    """Write deploy/prometheus.yml with each job at a port of this machine, in a hurry."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    hurry = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    config["global"] = dict.fromkeys(hurry, "1s")
    config["alerting"] = {}
    # the demo runs no trainer
    jobs = [job for job in config["scrape_configs"] if job["job_name"] != "trainer"]
    config["scrape_configs"] = jobs
    assert {job["job_name"] for job in jobs} == set(here)
    for job in jobs:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"{HOST}:{here[job['job_name']]}"]}]
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "rules.yml", folder)


async def send(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value)


def post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 -- loopback
    except urllib.error.HTTPError as error:
        error.close()


@pytest.mark.timeout(280)
def test_every_query_of_every_panel_and_rule_has_an_answer(watched: Watched) -> None:
    """Of an alert its metrics are queried, since the alert itself should be silent."""
    asked = set(dashboards.queries())
    asked |= {rule["expr"] for rule in RULES if "record" in rule}
    for alert in ALERTS:
        asked |= set(METRIC.findall(re.sub(r"\{[^}]*\}", "", alert["expr"])))
    silent = set(asked)

    def answered() -> bool:
        silent.difference_update([query for query in sorted(silent) if watched.ask(query)])
        return not silent

    try:
        wait_until(answered, 90.0, "an answer to every query")
    except AssertionError:
        pytest.fail(f"no answer to {sorted(silent)}")
