"""Every process on a Kafka with TLS, users and the least ACLs; and what it says when refused."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local.authority import Authority
from local.broker import Broker
from local.ports import HOST, free_ports
from local.process import Process
from local.secured import Secured
from shared import permissions, topics
from shared.forecasts import Forecast
from shared.kafka import AccessError, KafkaSettings, connected, consumer
from shared.leash import Leash
from shared.topic_tool import differences
from shared.topics import DEFAULT_GROUP
from tests.integration.processes import Processes, wait_until
from tests.integration.workers import RunningWorker

pytestmark = pytest.mark.integration

START_S = 90.0


class Expiring(Secured):
    """A secured broker with a second door, whose certificate has expired."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authority = Authority("A forgotten authority")
        yesterday = datetime.now(UTC) - timedelta(days=1)
        expired = authority.issue(folder / "expired.pem", "broker", [HOST], until=yesterday)
        self.forgotten_ca = authority.write(folder / "forgotten-ca.pem")
        self.doors["expired"] = (free_ports(1)[0], expired)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Expiring:
    return Expiring(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def locked(secured: Expiring, leash: Leash) -> Iterator[Broker]:
    """A broker with topics and ACLs, made by the user who may."""
    with Broker(secured=secured, leash=leash) as broker:
        admin = secured.admin_flags(broker.own_address)
        for command in (
            ["shared.topics", "apply", "--replication", "1"],
            ["local", "acls", "--apply"],
        ):
            run(*command, *admin)
        yield broker


def run(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed; fails unless it ends with 0."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def token_command(folder: Path, user: str) -> str:
    """A command that prints a token of Kafka's own kind for trials: a JWS without a signature."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": user, "iat": now - 60, "exp": now + 3600})
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    path = folder / "token"
    path.write_bytes(b".".join(coded) + b".\n")
    return f"cat {path}"


@pytest.mark.usefixtures("locked")
def test_every_process_works_with_the_least_acls(
    secured: Expiring, processes: Processes, tmp_path: Path
) -> None:
    """Each comes by another mechanism; none may do more than the table says."""
    worker_port, api_port = free_ports(2)
    by_token = secured.environment("api", "OAUTHBEARER")
    del by_token["CANDLECAST_SASL_USERNAME"], by_token["CANDLECAST_SASL_PASSWORD_FILE"]
    by_token["CANDLECAST_SASL_TOKEN_COMMAND"] = token_command(tmp_path, "api")
    worker = RunningWorker(
        processes.start(
            "stream_app", "--metrics-port", str(worker_port),
            env=secured.environment("worker", "SCRAM-SHA-512"),
        ),
        worker_port,
    )  # fmt: skip
    api = RunningWorker(
        processes.start("api", "--port", str(api_port), env=by_token), api_port
    )  # fmt: skip
    producer = processes.start(
        "producer", "--symbols", "AAPL", "--metrics-port", "0",
        env=secured.environment("producer", "PLAIN"),
    )  # fmt: skip
    wait_until(
        lambda: producer.exit_code == 0, START_S, "the candles are out", process=worker.process
    )
    wait_until(
        lambda: worker.metrics().get("candlecast_forecasts_published_total", 0) > 100,
        START_S, "forecasts", process=worker.process,
    )  # fmt: skip
    wait_until(
        lambda: api.metrics().get("candlecast_stream_connected") == 1,
        START_S, "the API follows the topics", process=api.process,
    )  # fmt: skip
    listed = run("stream_app", "dlq", "list", env=secured.environment("dlq", "SCRAM-SHA-256"))
    assert "0 dead letters" in listed
    watched, partition = asyncio.run(first_forecast(settings_of(secured, "local")))
    assert watched.symbol == "AAPL"
    skip = ("dlq", "skip", "--partition", str(partition), "--offset", "0")  # its candles' too
    skipped = run("stream_app", *skip, env=secured.environment("dlq", "SCRAM-SHA-256"))
    assert "put it aside unread" in skipped
    for process in (worker.process, api.process):
        assert process.stop(15.0) == 0
        password = secured.password_file("worker").read_text().strip()
        assert password not in process.log.read_text()
    reader = settings_of(secured, "api")
    with pytest.raises(AccessError, match=r"Write on topic market\.candles\.v1"):
        asyncio.run(permissions.check(reader, permissions.of_producer(reader)))


def settings_of(secured: Secured, user: str, *flags: str) -> KafkaSettings:
    return KafkaSettings.read([*secured.flags(user), *flags], "tests")


async def first_forecast(kafka: KafkaSettings) -> tuple[Forecast, int]:
    async with asyncio.timeout(30), connected(consumer(kafka)) as reader:
        reader.subscribe([kafka.forecasts_topic])
        record = await reader.getone()
        return Forecast.decode(record.value), record.partition


@pytest.mark.usefixtures("locked")
def test_a_process_that_is_refused_ends_with_the_cause_and_the_setting(
    secured: Expiring, processes: Processes
) -> None:
    """All at once, each with another fault; none of them waits."""
    strangers = Authority("Somebody else").write(secured.folder / "strangers.pem")
    port, _ = secured.doors["expired"]
    faults: dict[str, tuple[str, list[str], Mapping[str, str], str]] = {
        "wrong password": (
            "stream_app", ["--metrics-port", "0"],
            {"CANDLECAST_SASL_PASSWORD_FILE": "", "CANDLECAST_SASL_PASSWORD": "wrong-6f1d"},
            "sasl_username is 'worker', sasl_password is from CANDLECAST_SASL_PASSWORD,",
        ),
        "wrong CA": (
            "producer", ["--metrics-port", "0"], {"CANDLECAST_SSL_CA": str(strangers)},
            f"ssl_ca is {strangers}",
        ),
        "expired": (
            "api", ["--port", "0"],
            {
                "CANDLECAST_BOOTSTRAP": f"{HOST}:{port}",
                "CANDLECAST_SSL_CA": str(secured.forgotten_ca),
            },
            "certificate has expired",
        ),
        "other host": (
            "stream_app", ["dlq", "list"],
            {"CANDLECAST_BOOTSTRAP": secured.bootstrap.replace(HOST, "localhost")},
            "set bootstrap to a name that the certificate has, or ssl_check_hostname to off",
        ),
        "no ACL": (
            "stream_app", ["--metrics-port", "0", "--group", "others"],
            {},
            "topic others-windows-changelog: this user may not see it",
        ),
        "no ACL of a group": (
            "shared.topics", ["diff"], {"CANDLECAST_SECURITY_PROTOCOL": "PLAINTEXT",
            "CANDLECAST_SASL_USERNAME": "", "CANDLECAST_SASL_PASSWORD_FILE": "",
            "CANDLECAST_SSL_CA": ""},
            "security_protocol should be SSL or SASL_SSL, got PLAINTEXT",
        ),
    }  # fmt: skip
    users = {"stream_app": "worker", "shared.topics": "topics"}
    started: dict[str, tuple[Process, str]] = {}
    for name, (module, flags, changes, words) in faults.items():
        user = "dlq" if "dlq" in flags else users.get(module, module)
        env = secured.environment(user) | dict(changes)
        given = {key: value for key, value in env.items() if value}
        started[name] = processes.start(module, *flags, env=given), words
    for name, (process, words) in started.items():
        wait_until(lambda: process.exit_code is not None, START_S, f"{name}: the end")  # noqa: B023
        log = process.log.read_text()
        assert process.exit_code == 1, log
        assert words in log, name
        assert "wrong-6f1d" not in log
        assert "Traceback" not in log


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sasl-mechanism", "PLAIN", "--sasl-username", "nobody"], "wrong user or password"),
        (["--security-protocol", "SASL_PLAINTEXT"], "security_protocol should be SSL or SASL_SSL"),
        (["--sasl-username", "worker"], "wrong user or password: sasl_username is 'worker'"),
    ],
)
def test_other_refusals(secured: Expiring, flags: list[str], words: str) -> None:
    given = secured.flags("api")
    if "SASL_PLAINTEXT" in flags:
        given = given[:-2]
    kafka = KafkaSettings.read([*given, *flags], "tests")
    with pytest.raises(AccessError, match=words):
        asyncio.run(permissions.check(kafka, permissions.of_api(kafka)))


def test_the_broker_s_own_door_wants_a_certificate(secured: Expiring, locked: Broker) -> None:
    flags = secured.admin_flags(locked.own_address)[:-2]
    kafka = KafkaSettings.read(flags, "tests")
    with pytest.raises(AccessError, match="ssl_certificate is none"):
        asyncio.run(permissions.check(kafka, permissions.of_api(kafka)))


def test_topics_are_compared_and_mended(secured: Expiring, locked: Broker) -> None:
    admin = secured.admin_flags(locked.own_address)
    assert run("shared.topics", "diff", *admin) == "6 topics are as they should be\n"
    changed = run("shared.topics", "apply", *admin, "--candles-days", "30")
    assert "market.candles.v1: set retention.ms=2592000000" in changed
    kafka = KafkaSettings.read(admin, "tests")
    [left] = asyncio.run(differences(kafka, topics.all_topics(kafka, DEFAULT_GROUP)))
    assert str(left) == ("market.candles.v1: retention.ms: expected 34560000000, got 2592000000")
    run("shared.topics", "apply", *admin)
