"""Several real Kafka brokers on loopback, each in a folder and a process of its own."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from local.broker import Broker, Node, last_ports, new_cluster_id, stored_cluster
from local.ports import HOST, free_ports
from local.secured import Secured
from shared.leash import Leash

_POLL_S: Final = 0.5


class Cluster:
    """Brokers that form one Kafka while the context lasts.

    Each partition has three replicas, as far as there are brokers, and a message counts once two
    have it: any one broker may be away, and any one disk may be lost.
    """

    def __init__(
        self,
        count: int,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        secured: Secured | None = None,
        heap_mb: int = 256,
        leash: Leash | None = None,
    ) -> None:
        """Prepare only; entering the context starts them.

        Args:
            count: number of brokers.
            data_dir: where topics, settings and logs are kept; None for a temporary folder.
            port: of the first broker; None for a free one, or that of the folder's last run.
            secured: lets in only who has a certificate or a password; for one broker.
            heap_mb: Java heap of each in megabytes; each takes some 150 more.
            leash: ends the brokers if this process is killed; None for one of their own.
        """
        self._count = count
        self._given_dir = data_dir
        self._port = port
        self._secured = secured
        self._heap_mb = heap_mb
        self._leash = leash
        self._resources = ExitStack()
        self.folder = Path()
        self.brokers: list[Broker] = []

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            leash = self._leash or resources.enter_context(Leash())
            self.folder = self._given_dir or Path(
                resources.enter_context(tempfile.TemporaryDirectory(prefix="candlecast-kafka-"))
            )
            for node in self._nodes():
                broker = Broker(
                    self._folder_of(node.number),
                    node=node, secured=self._secured, port=self._port if node.number == 1 else None,
                    heap_mb=self._heap_mb, leash=leash,
                )  # fmt: skip
                self.brokers.append(broker)
            resources.callback(self.stop)
            for broker in self.brokers:
                broker.launch()
            for broker in self.brokers:
                broker.wait_ready()
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.close()

    def stop(self) -> None:
        """End all in order: together, since the last ones have no controller left to ask."""
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(Broker.stop, self.brokers))

    @property
    def bootstrap(self) -> str:
        """Each broker's ``host:port``, by comma."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def wait_ended(self) -> NoReturn:
        """Wait for as long as all run; then raise ``BrokerError`` with the end of a log."""
        while True:
            for broker in self.brokers:
                broker.check()
            time.sleep(_POLL_S)

    def _folder_of(self, number: int) -> Path:
        return self.folder if self._count == 1 else self.folder / f"broker-{number}"

    def _nodes(self) -> list[Node]:
        numbers = range(1, self._count + 1)
        free = free_ports(2 * self._count)
        ports = [
            last_ports(self._folder_of(number) / "server.properties")
            or (free[2 * number - 2], free[2 * number - 1])
            for number in numbers
        ]
        voters = ",".join(
            f"{number}@{HOST}:{controller}"
            for number, (_, controller) in zip(numbers, ports, strict=True)
        )
        known = (stored_cluster(self._folder_of(number)) for number in numbers)
        cluster = next((found for found in known if found is not None), new_cluster_id())
        return [
            Node(number, pair, voters, self._count, cluster)
            for number, pair in zip(numbers, ports, strict=True)
        ]
