"""The journal of ``trainer watch``: what was tried, when and why, and its outcome."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.bundle import Bundle
from shared.objects import Objects
from trainer.gate import Verdict

log = logging.getLogger("trainer")

JOURNAL: Final = "watch/journal.json"
"""Its name in the model store."""

MOST_BYTES: Final = 1 << 20

PROMOTED, REFUSED, FAILED = "promoted", "refused", "failed"


class Trigger(StrEnum):
    """What a challenger is trained for."""

    FIRST = "no champion"
    DRIFT = "drift"
    SCHEDULE = "schedule"

    @classmethod
    def of(cls, *, has_own: bool, drifts: bool) -> Trigger:
        """Return the trigger of an interval whose training is due."""
        if drifts:
            return cls.DRIFT
        return cls.SCHEDULE if has_own else cls.FIRST


class Attempt(BaseModel):
    """One training and its outcome."""

    model_config = ConfigDict(frozen=True)

    at_ms: int
    newest_ms: int  # opening of the newest candle that was there
    outcome: str
    version: str  # of the challenger; empty when the training failed
    champion: str  # what it was measured against
    words: str
    trigger: Trigger = Trigger.SCHEDULE
    figures: dict[str, float] = {}  # of the verdict, and of the drift


class Training(BaseModel):
    """A challenger before its verdict; in the journal while it is a shadow."""

    model_config = ConfigDict(frozen=True)

    at_ms: int  # when its training began
    newest_ms: int  # opening of the newest candle that was there
    trigger: Trigger
    drift: dict[str, float] = {}  # what the scores said of the champion
    version: str = ""
    bundle: str = ""  # its digest in the store

    def ended(self, champion: Bundle, outcome: str, verdict: Verdict) -> Attempt:
        """Return the attempt with its outcome."""
        return Attempt(
            at_ms=self.at_ms, newest_ms=self.newest_ms, outcome=outcome, version=self.version,
            champion=champion.config.model_version, words=verdict.words, trigger=self.trigger,
            figures={**self.drift, **verdict.figures},
        )  # fmt: skip


class Noticed(BaseModel):
    """A drift that no challenger was trained for yet."""

    model_config = ConfigDict(frozen=True)

    version: str  # of the champion whose forecasts drift
    words: str
    figures: dict[str, float]


class Journal(BaseModel):
    """What was tried, by interval, the newest last; kept in the store, so that it outlives all."""

    attempts: dict[str, list[Attempt]] = {}
    shadows: dict[str, Training] = {}
    noticed: dict[str, Noticed] = {}  # after a shadow was trained, by interval

    def of(self, interval: str) -> list[Attempt]:
        """Return an interval's attempts."""
        return self.attempts.setdefault(interval, [])

    def note(self, interval: str, attempt: Attempt, most: int) -> None:
        """Add an attempt, once, which ends the interval's shadow; the oldest beyond ``most`` go."""
        others = [other for other in self.of(interval) if other.at_ms != attempt.at_ms]
        self.attempts[interval] = [*others, attempt][-most:]
        self.shadows.pop(interval, None)


def read(objects: Objects) -> Journal:
    """Return a store's journal; a new one where it is missing or damaged."""
    data = objects.read(JOURNAL, MOST_BYTES)
    try:
        return Journal.model_validate_json(data) if data else Journal()
    except ValidationError:
        log.warning(
            "%s: the journal of former trainings is damaged; a new one is begun", objects.url
        )
        return Journal()


def write(objects: Objects, journal: Journal) -> None:
    """Replace a store's journal."""
    objects.write(JOURNAL, journal.model_dump_json(indent=1).encode())
