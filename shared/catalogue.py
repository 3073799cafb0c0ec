"""The models of a store as a list: champions and versions with their figures, for people."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from shared.bundle import Bundle, BundleConfig
from shared.champions import Champion, Champions, Choice
from shared.messages import Message
from shared.model_store import ModelStore, Stored

BUILT_IN = "built in"
"""What is said of the bundle that serves where no champion is named."""


class PromotionEntry(Message):
    """A decision for a model."""

    version: str
    digest: str = Field(description="SHA-256 of the bundle's config.json")
    by: str = Field(description="user and machine, or the process that decided")
    at_ms: int = Field(description="UTC epoch milliseconds")
    why: str
    run: str = Field(description="MLflow run of the decision, empty for none")


class ChampionEntry(Message):
    """The model of an interval's series, or of those whose symbol matches a pattern."""

    interval: str = Field(description="* is all intervals")
    symbols: str = Field(description="pattern of the symbols, as of file names")
    champion: PromotionEntry
    before: tuple[PromotionEntry, ...] = Field(description="former champions, newest first")


class VersionEntry(Message):
    """A bundle: what made it, and how good it was."""

    version: str
    digest: str = Field(description="SHA-256 of the bundle's config.json; empty for the built-in")
    champion_of: tuple[str, ...] = Field(description="the series it is the champion of")
    intervals: tuple[str, ...] = Field(description="of the candles that it was trained on")
    window_length: int = Field(description="candles that it needs")
    context: tuple[str, ...] = Field(description="symbols whose closes it reads too")
    context_interval: str = Field(description="of their candles; empty without any")
    horizons: tuple[int, ...]
    symbols: int = Field(description="number of symbols that it was trained on")
    candles: int = Field(description="candles that it was trained on")
    first_ms: int = Field(description="opening of the first of them, UTC")
    last_ms: int = Field(description="opening of the last, UTC")
    data: str = Field(description="source of the candles")
    data_sha256: str = Field(description="of the candles as used")
    code: str = Field(description="version of Candlecast that trained it, empty if unknown")
    run: str = Field(description="MLflow run of the training, empty for none")
    metrics: dict[str, float] = Field(description="as the trainer measured")
    fault: str = Field(description="why it cannot be used, empty for a sound one")


class Catalogue(Message):
    """Champions and versions of a store."""

    store: str
    generation: int = Field(description="of the champions file")
    champions: tuple[ChampionEntry, ...]
    versions: tuple[VersionEntry, ...] = Field(description="newest data last")


def catalogue(store: ModelStore, built_in: Bundle | None) -> Catalogue:
    """Return what is in a store, and the model beneath all champions.

    Raises:
        StoreError: when the store cannot be read.
    """
    return catalogue_of(store.url, store.champions(), store.bundles(), built_in)


def catalogue_of(
    url: str, champions: Champions, stored: Sequence[Stored], built_in: Bundle | None
) -> Catalogue:
    """Return the list of champions and bundles that were read."""
    beneath = [] if built_in is None else [_version("", built_in.config, (BUILT_IN,), "")]
    return Catalogue(
        store=url,
        generation=champions.generation,
        champions=tuple(_champion(entry) for entry in champions.champions),
        versions=(
            *beneath,
            *(
                _version(held.digest, held.config, _roles(champions, held.digest), held.fault)
                for held in stored
            ),
        ),
    )


def _roles(champions: Champions, digest: str) -> tuple[str, ...]:
    return tuple(entry.name for entry in champions.champions if entry.choice.bundle == digest)


def _champion(entry: Champion) -> ChampionEntry:
    return ChampionEntry(
        interval=entry.interval,
        symbols=entry.symbols,
        champion=_promotion(entry.choice),
        before=tuple(map(_promotion, entry.before)),
    )


def _promotion(choice: Choice) -> PromotionEntry:
    return PromotionEntry(
        version=choice.version,
        digest=choice.bundle,
        by=choice.by,
        at_ms=choice.at_ms,
        why=choice.why,
        run=choice.run,
    )


def _version(
    digest: str, config: BundleConfig | None, roles: tuple[str, ...], fault: str
) -> VersionEntry:
    return VersionEntry(
        version=config.model_version if config else "",
        digest=digest,
        champion_of=roles,
        intervals=config.intervals if config else (),
        window_length=config.window_length if config else 0,
        context=config.context.symbols if config and config.context else (),
        context_interval=config.context.interval if config and config.context else "",
        horizons=config.horizons if config else (),
        symbols=len(config.data.symbols) if config else 0,
        candles=config.data.candles if config else 0,
        first_ms=config.data.first_ms if config else 0,
        last_ms=config.data.last_ms if config else 0,
        data=config.data.source if config else "",
        data_sha256=config.data.sha256 if config else "",
        code=config.code if config else "",
        run=config.run if config else "",
        metrics=config.metrics if config else {},
        fault=fault,
    )
