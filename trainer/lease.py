"""A lease in the model store: of several watchers one at a time trains.

A sequence of files, as the champions are: each step is a new file, whose creation is the
compare-and-swap. Machines compare the times in it with their own clocks, so that these must not
differ by as much as a lease lasts.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shared.model_store import who
from shared.objects import Objects, StoreError, numbered, numbers_in
from shared.process import now_ms

log = logging.getLogger("trainer")

FOLDER: Final = "leases"
LEASE_MS: Final = 60_000
"""How long a lease lasts that is not renewed: a killed watcher holds up others as long."""

RENEW_S: Final = LEASE_MS / 1000 / 4
"""How often it is renewed."""

_KEPT: Final = 5
_MOST_BYTES: Final = 4096


class LeaseLost(StoreError):
    """Another watcher holds the lease now."""


class Lease:
    """The right to train."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._me = f"{who()} {os.getpid()}"
        self._step = 0  # of the file that we wrote last
        self._lost = ""  # who has taken it from us

    @contextmanager
    def held(self) -> Iterator[str]:
        """Hold the lease inside, renewed by a thread.

        Yields:
            "", or the name of who holds it while we do not.
        """
        other = self._take()
        if other:
            yield other
            return
        self._lost, done = "", threading.Event()
        thread = threading.Thread(target=self._renew, args=(done,), name="lease", daemon=True)
        thread.start()
        try:
            yield ""
        finally:
            done.set()
            thread.join()
            if not self._lost:
                self._give_back()

    def _give_back(self) -> None:
        """Let others take it at once; while the store is away it runs out by itself.

        An error here would replace what ended the look, even the signal that ends the process.
        """
        try:
            self._write(self._step + 1, 0)
        except StoreError as error:
            log.warning("the lease cannot be given back, and runs out: %s", error)

    def check(self) -> None:
        """Raise ``LeaseLost`` when another has taken it, since the store was away for long."""
        if self._lost:
            raise LeaseLost(f"{self._objects.url}: {self._lost} holds the lease now")

    def _take(self) -> str:
        step, holder, until_ms = self._newest()
        if holder != self._me and until_ms > now_ms():
            return holder
        taken = self._write(step + 1, now_ms() + LEASE_MS)
        return "" if taken else self._newest()[1] or "another"  # it was faster

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(RENEW_S):
            try:
                if not self._write(self._step + 1, now_ms() + LEASE_MS):
                    self._lost = self._newest()[1] or "another"
                    return
            except StoreError as error:
                log.warning("the lease cannot be renewed: %s", error)

    def _newest(self) -> tuple[int, str, int]:
        steps = numbers_in(self._objects, FOLDER)
        if not steps:
            return 0, "", 0
        data = self._objects.read(numbered(FOLDER, steps[-1]), _MOST_BYTES)
        try:
            content = json.loads(data or b"{}")
            return steps[-1], str(content["holder"]), int(content["until_ms"])
        except (ValueError, KeyError, TypeError):  # damaged: the next step replaces it
            return steps[-1], "", 0

    def _write(self, step: int, until_ms: int) -> bool:
        content = {"holder": self._me, "until_ms": until_ms}
        made = self._objects.create(numbered(FOLDER, step), json.dumps(content).encode())
        if not made and self._newest() != (step, self._me, until_ms):
            return False  # else it is ours: the client repeated a write whose answer was lost
        self._step = step
        for old in numbers_in(self._objects, FOLDER)[:-_KEPT]:
            self._objects.remove(numbered(FOLDER, old))
        return True
