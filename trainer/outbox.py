"""Outbox of ``trainer watch``: outcomes of trainings, on this machine until the store has them."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.candles import INTERVALS_MS
from shared.model_store import Decision
from shared.objects import Folder, StoreError
from trainer.journal import Attempt, Training
from trainer.watch_settings import WatchSettings

log = logging.getLogger("trainer")

FOLDER: Final = "_trained"
"""Its name among the snapshots; begins with an underscore, as what is not a topic."""

RECORD: Final = "outcome.json"

MOST_BYTES: Final = 1 << 20


class Outcome(BaseModel):
    """What came of a training; its bundle lies beside it, or, a shadow's, in the store."""

    model_config = ConfigDict(frozen=True)

    interval: str
    training: Training
    start_ms: int = 0  # the gate decides on the candles from then on; 0 for a shadow to be
    attempt: Attempt | None = None  # how it has ended
    champion: str = ""  # digest of what the gate held it against; "" without one of its own
    decision: Decision | None = None  # of its promotion


class Outbox:
    """Outcomes by interval; one that this machine's disk does not take is held in memory."""

    def __init__(self, settings: WatchSettings) -> None:
        # two watches of other stores or topics may share the snapshots
        place = hashlib.sha256(f"{settings.models} {settings.candles_topic}".encode()).hexdigest()
        self._path = settings.snapshots / FOLDER / place[:12]
        self._files = Folder(self._path)
        self._unsaved: dict[str, Outcome] = {}

    def folder(self, interval: str) -> Path:
        """Return where an interval's outcome is."""
        return self._path / interval

    def bundle(self, interval: str) -> Path:
        """Return where the bundle of an interval's training is."""
        return self.folder(interval) / "bundle"

    def begin(self, interval: str) -> Path:
        """Return the bundle's folder, made and empty."""
        self.drop(interval)
        folder = self.bundle(interval)
        folder.mkdir(parents=True)
        return folder

    def keep(self, outcome: Outcome) -> Outcome:
        """Keep an outcome, so that it outlives this process; return it."""
        try:
            record = outcome.model_dump_json(indent=1).encode()
            self._files.write(f"{outcome.interval}/{RECORD}", record)
            self._unsaved.pop(outcome.interval, None)
        except StoreError as error:
            log.warning("%s: the outcome of the training is in memory alone: %s", outcome.interval,
                        error)  # fmt: skip
            self._unsaved[outcome.interval] = outcome
        return outcome

    def drop(self, interval: str) -> None:
        """Forget an interval's outcome, and remove its bundle."""
        self._unsaved.pop(interval, None)
        self._files.remove(f"{interval}/{RECORD}")  # then the bundle is of no outcome
        shutil.rmtree(self.folder(interval), ignore_errors=True)

    def all(self) -> list[Outcome]:
        """Return what is kept, by interval, shortest first."""
        found = (self._unsaved.get(name) or self._read(name) for name in INTERVALS_MS)
        return [outcome for outcome in found if outcome]

    def _read(self, interval: str) -> Outcome | None:
        name = f"{interval}/{RECORD}"
        data = self._files.read(name, MOST_BYTES)
        try:
            return Outcome.model_validate_json(data) if data else None
        except ValidationError:
            log.warning("%s/%s: damaged, and removed; its training counts no more",
                        self._files.url, name)  # fmt: skip
            self.drop(interval)
            return None
