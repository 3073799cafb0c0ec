"""Champions: which model serves which series, with who decided it, when and why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.candles import INTERVALS_MS, MAX_CANDLES

ANY: Final = "*"
"""Interval of a champion of all intervals, and pattern of all symbols."""

FORMAT: Final = 1

KEPT_BEFORE: Final = 20
"""Most former champions that an entry remembers, the newest first."""

MAX_ENTRIES: Final = 10_000
"""Most champions of a store."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=2000)]


def name_of(interval: str, symbols: str) -> str:
    """Return in words which series an interval and a pattern of symbols mean."""
    series = "all intervals" if interval == ANY else interval
    return series if symbols == ANY else f"{series} of {symbols}"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(_Part):
    """A model that was promoted: which, by whom, when and why."""

    version: Annotated[str, Field(min_length=1, max_length=128)]
    bundle: Digest  # address of the bundle: SHA-256 of its config.json
    window_length: Annotated[int, Field(ge=2, le=MAX_CANDLES)]  # candles that it needs
    by: Text  # user and machine, or the process that decided
    at_ms: int  # UTC epoch milliseconds
    why: Text
    run: Text = ""  # MLflow run of the decision


class Champion(_Part):
    """The model of an interval's series, or of those whose symbol matches a pattern."""

    interval: str = ANY
    symbols: Annotated[str, Field(min_length=1, max_length=200)] = ANY
    choice: Choice
    before: Annotated[tuple[Choice, ...], Field(max_length=KEPT_BEFORE)] = ()

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.interval != ANY and self.interval not in INTERVALS_MS:
            raise ValueError(f"interval: expected * or one of {', '.join(INTERVALS_MS)}")
        return self

    @property
    def key(self) -> tuple[str, str]:
        """What the entry is about: interval and pattern."""
        return self.interval, self.symbols

    @property
    def name(self) -> str:
        """The key in words."""
        return name_of(self.interval, self.symbols)

    def serves(self, interval: str, symbol: str) -> bool:
        """Tell whether the entry is about a series."""
        return self.interval in {ANY, interval} and fnmatchcase(symbol, self.symbols)

    @property
    def specificity(self) -> tuple[bool, bool, int, str]:
        """Sorts the entries about one series: interval, then pattern, then its length."""
        return self.interval != ANY, self.symbols != ANY, len(self.symbols), self.symbols


class Champions(_Part):
    """One generation of the champions file; each change makes the next."""

    format: Literal[1] = FORMAT
    generation: Annotated[int, Field(ge=0)] = 0
    champions: Annotated[tuple[Champion, ...], Field(max_length=MAX_ENTRIES)] = ()
    removing: tuple[Digest, ...] = ()  # bundles that a garbage collection is removing
    change: Text = ""  # what this generation changed, in words
    by: Text = ""
    at_ms: int = 0

    def at(self, interval: str, symbols: str = ANY) -> Champion | None:
        """Return the entry of exactly this interval and pattern."""
        return next((entry for entry in self.champions if entry.key == (interval, symbols)), None)

    def chain(self, interval: str, symbol: str) -> tuple[Choice, ...]:
        """Return the models for a series, the best first, each with a shorter window than before.

        A series whose window is too short for its champion is served by the one before it, or by
        a less specific champion, until the window is there.
        """
        entries = sorted(
            (entry for entry in self.champions if entry.serves(interval, symbol)),
            key=lambda entry: entry.specificity,
            reverse=True,
        )
        chain: list[Choice] = []
        for entry in entries:
            for choice in (entry.choice, *entry.before):
                if not chain or choice.window_length < chain[-1].window_length:
                    chain.append(choice)
        return tuple(chain)

    @property
    def needed(self) -> frozenset[str]:
        """Bundles that some series may be served by."""
        needed: set[str] = set()
        for entry in self.champions:
            shortest = MAX_CANDLES + 1
            for choice in (entry.choice, *entry.before):
                if choice.window_length < shortest:
                    needed.add(choice.bundle)
                    shortest = choice.window_length
        return frozenset(needed)

    def without(self, damaged: Collection[str]) -> Champions:
        """Return the champions without some bundles: the model before each serves, or none."""
        if not damaged:
            return self
        entries = []
        for entry in self.champions:
            sound = [
                choice for choice in (entry.choice, *entry.before) if choice.bundle not in damaged
            ]
            if sound:
                update = {"choice": sound[0], "before": tuple(sound[1:])}
                entries.append(entry.model_copy(update=update))
        return self.model_copy(update={"champions": tuple(entries)})

    def kept(self, last: int) -> frozenset[str]:
        """Return the bundles of the champions and of the ``last`` before each, and ``needed``."""
        former = (choice for entry in self.champions for choice in entry.before[:last])
        current = (entry.choice for entry in self.champions)
        return self.needed | {choice.bundle for choice in (*former, *current)}

    def with_promoted(self, interval: str, symbols: str, choice: Choice) -> Champions:
        """Return the next generation, in which a model is the champion."""
        old = self.at(interval, symbols)
        before = () if old is None else (old.choice, *old.before)[:KEPT_BEFORE]
        if old is not None and old.choice.bundle == choice.bundle:
            before = old.before
        entry = Champion(interval=interval, symbols=symbols, choice=choice, before=before)
        others = (other for other in self.champions if other.key != entry.key)
        change = f"promoted {choice.version} for {entry.name}"
        return self._next((*others, entry), change, choice.by, choice.at_ms)

    def with_rolled_back(self, interval: str, symbols: str, by: str, at_ms: int) -> Champions:
        """Return the next generation, in which the model before the champion serves again.

        Without one before it the entry goes: less specific champions or the built-in model serve.

        Raises:
            KeyError: when the champion is missing.
        """
        old = self.at(interval, symbols)
        if old is None:
            raise KeyError(interval)
        others = tuple(other for other in self.champions if other.key != old.key)
        if old.before:
            first, *rest = old.before
            others += (old.model_copy(update={"choice": first, "before": tuple(rest)}),)
        change = f"rolled back {old.choice.version} for {old.name}"
        return self._next(others, change, by, at_ms)

    def with_removing(self, removing: Iterable[str], by: str, at_ms: int, change: str) -> Champions:
        """Return the next generation, in which some bundles are being removed.

        Former champions that are among them are forgotten.
        """
        gone = frozenset(removing)

        def remains(choice: Choice) -> bool:
            return choice.bundle not in gone

        entries = (
            entry.model_copy(update={"before": tuple(filter(remains, entry.before))})
            for entry in self.champions
        )
        following = self._next(tuple(entries), change, by, at_ms)
        return following.model_copy(update={"removing": tuple(sorted(gone))})

    def _next(self, champions: tuple[Champion, ...], change: str, by: str, at_ms: int) -> Champions:
        return Champions(
            generation=self.generation + 1,
            champions=tuple(sorted(champions, key=lambda entry: entry.key)),
            removing=self.removing,
            change=change[:2000],
            by=by,
            at_ms=at_ms,
        )


Change = Callable[[Champions], Champions]
"""Returns the next generation, or the same one when there is nothing to change."""
