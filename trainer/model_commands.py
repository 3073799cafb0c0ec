"""The commands on the model store: models, promote, rollback, compare, gc."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from shared import bundle
from shared.bundle import CONFIG_NAME, Bundle, BundleConfig
from shared.catalogue import Catalogue, catalogue
from shared.champions import ANY, name_of
from shared.model_store import Decision, ModelStore, Removal
from shared.objects import open_objects
from shared.terminal import Console
from trainer import journal
from trainer.settings import (
    CollectSettings,
    CompareSettings,
    ModelsSettings,
    PromoteSettings,
    RollbackSettings,
)

log = logging.getLogger("trainer")

BUILT_IN = "default"
"""Name of the bundle that serves where no champion is named."""


def models(settings: ModelsSettings) -> None:
    """List champions and versions."""
    found = catalogue(ModelStore(settings.models), bundle.load(settings.model))
    if settings.version:
        wanted = [
            entry
            for entry in found.versions
            if settings.version in {entry.version, entry.digest}
            or (entry.digest and entry.digest.startswith(settings.version))
            or entry.version.startswith(settings.version)
        ]
        if not wanted:
            raise ValueError(f"{settings.version}: expected a version of {found.store}, got none")
        found = found.model_copy(update={"versions": tuple(wanted)})
    if settings.as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        _print_catalogue(found, details=bool(settings.version))


def promote(settings: PromoteSettings) -> None:
    """Make a model the champion of an interval."""
    store = ModelStore(settings.models)
    contents = _contents(settings.version, settings.model)
    loaded = (
        store.load(store.resolve(settings.version))
        if contents is None
        else bundle.assemble(Path(settings.version), contents.__getitem__)
    )
    config = loaded.config
    if settings.interval not in {ANY, *config.intervals}:
        log.warning(
            "%s was trained on candles of %s, not %s", config.model_version,
            ", ".join(config.intervals), settings.interval,
        )  # fmt: skip
    old = store.champions().at(settings.interval, settings.pattern)
    answer: dict[str, Any] = {
        "promoted": config.model_version,
        "interval": settings.interval,
        "symbols": settings.pattern,
        "before": old.choice.version if old else None,
        "dry_run": settings.dry_run,
    }
    if not settings.dry_run:
        digest = store.resolve(settings.version) if contents is None else store.put(contents)
        made = store.promote(
            digest,
            settings.interval,
            settings.pattern,
            decision=Decision(settings.why),
            any_horizons=settings.any_horizons,
        )
        answer |= {"digest": digest, "generation": made.generation}
    verb = "would be" if settings.dry_run else "is"
    series = name_of(settings.interval, settings.pattern)
    _say(
        settings.as_json, answer,
        f"{config.model_version} {verb} the champion of {series}, after "
        f"{old.choice.version if old else 'none'}; services see it within 10 s",
    )  # fmt: skip


def rollback(settings: RollbackSettings) -> None:
    """Let the model before the champion serve again."""
    store = ModelStore(settings.models)
    now = store.champions()
    entry = now.at(settings.interval, settings.pattern)
    if settings.dry_run:
        made = now
        after = entry.before[0] if entry and entry.before else None
    else:
        made = store.rollback(settings.interval, settings.pattern)
        following = made.at(settings.interval, settings.pattern)
        after = following.choice if following else None
    answer = {
        "rolled_back": entry.choice.version if entry else None,
        "interval": settings.interval,
        "symbols": settings.pattern,
        "champion": after.version if after else None,
        "generation": made.generation,
        "dry_run": settings.dry_run,
    }
    verb = "would serve" if settings.dry_run else "serves"
    series = name_of(settings.interval, settings.pattern)
    _say(
        settings.as_json, answer,
        f"{after.version if after else 'no champion, so a less specific or the built-in one,'} "
        f"{verb} {series} again, instead of {entry.choice.version if entry else 'none'}",
    )  # fmt: skip


def collect(settings: CollectSettings) -> None:
    """Remove the bundles that no champion needs."""
    store = ModelStore(settings.models)
    shadows = journal.read(open_objects(settings.models)).shadows
    needed = {
        training.bundle: f"it forecasts beside the champion of {interval}"
        for interval, training in shadows.items()
    }
    removal = store.collect(settings.keep, needed=needed, dry_run=settings.dry_run)
    answer = {
        "removed": [
            {"digest": gone.digest, "version": gone.config.model_version if gone.config else None}
            for gone in removal.removed
        ],
        "kept": dict(removal.kept),
        "dry_run": settings.dry_run,
    }
    _say(settings.as_json, answer, "\n".join(_removal_lines(removal, dry_run=settings.dry_run)))


def _removal_lines(removal: Removal, *, dry_run: bool) -> Iterator[str]:
    verb = "would be removed" if dry_run else "removed"
    for gone in removal.removed:
        name = gone.config.model_version if gone.config else "incomplete"
        yield f"{gone.digest[:12]} {name}: {verb}"
    for digest, reason in removal.kept.items():
        yield f"{digest[:12]} kept: {reason}"
    yield f"{len(removal.removed)} bundles {verb}, {len(removal.kept)} kept"


def compare(settings: CompareSettings) -> None:
    """Show two models side by side."""
    store = ModelStore(settings.models)
    first, second = (
        find(store, name, settings.model).config for name in (settings.first, settings.second)
    )
    rows = dict(_differences(first, second))
    if settings.as_json:
        answer = {
            "models": [first.model_version, second.model_version],
            "differences": {name: list(pair) for name, pair in rows.items()},
        }
        print(json.dumps(answer, indent=2))
        return
    table = _table("", first.model_version, second.model_version, "change")
    for name, (before, after) in rows.items():
        table.add_row(name, _plain(before), _plain(after), _change(before, after))
    _out().print(table)


def find(store: ModelStore, name: str, built_in: Path) -> Bundle:
    """Return a bundle by its version, digest, folder, or as ``default`` or ``champion:INTERVAL``.

    Raises:
        StoreError: when the store has none of the name.
        BundleError: when it is damaged.
    """
    contents = _contents(name, built_in)
    if contents is not None:
        return bundle.assemble(Path(name), contents.__getitem__)
    if name.startswith("champion:"):
        chain = store.champions().chain(name.partition(":")[2], "")
        return store.load(chain[0].bundle) if chain else bundle.load(built_in)
    return store.load(store.resolve(name))


def _contents(name: str, built_in: Path) -> Mapping[str, bytes] | None:
    """Return the files of a bundle in a folder; None for a name in the store."""
    if name == BUILT_IN:
        return bundle.contents_of(built_in)
    return bundle.contents_of(Path(name)) if (Path(name) / CONFIG_NAME).exists() else None


def _differences(a: BundleConfig, b: BundleConfig) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield what differs between two models, by name: all figures, and other fields."""
    first, second = _flat(a), _flat(b)
    for name in dict.fromkeys((*first, *second)):
        pair = first.get(name), second.get(name)
        if pair[0] != pair[1]:
            yield name, pair


def _flat(config: BundleConfig) -> dict[str, Any]:
    data = config.data
    return {
        "intervals": ", ".join(config.intervals),
        "window_length": config.window_length,
        "horizons": ", ".join(map(str, config.horizons)),
        "quantile_levels": ", ".join(f"{level:g}" for level in config.quantile_levels),
        "features": ", ".join(config.features),
        "data.source": data.source,
        "data.symbols": len(data.symbols),
        "data.candles": data.candles,
        "data.first": _day(data.first_ms),
        "data.last": _day(data.last_ms),
        "code": config.code,
        "run": config.run,
        **{f"training.{name}": value for name, value in config.training.items()},
        **config.metrics,
    }


def _say(as_json: bool, answer: object, words: str) -> None:  # noqa: FBT001 - of the settings
    print(json.dumps(answer, indent=2) if as_json else words)


def _print_catalogue(found: Catalogue, *, details: bool) -> None:
    champions = _table("series", "champion", "since", "by", "why", "before")
    for entry in found.champions:
        made = entry.champion
        champions.add_row(
            name_of(entry.interval, entry.symbols), made.version, _day(made.at_ms), made.by,
            made.why, ", ".join(former.version for former in entry.before[:3]),
        )  # fmt: skip
    versions = _table(
        "version", "digest", "champion of", "trained on", "candles", "symbols", "until", "figures"
    )
    for version in found.versions:
        versions.add_row(
            version.version or version.fault, version.digest[:12],
            ", ".join(version.champion_of), ", ".join(version.intervals), f"{version.candles:,}",
            str(version.symbols), _day(version.last_ms), _figures(version.metrics),
        )  # fmt: skip
    out = _out()
    out.print(f"{found.store}, generation {found.generation}")
    if details:
        for version in found.versions:
            out.print_json(version.model_dump_json())
        return
    out.print(champions)
    out.print(versions)


def _figures(metrics: Mapping[str, float]) -> str:
    """Return the pinball losses, which compare models of the same data best."""
    shown = {name: value for name, value in metrics.items() if name.startswith("pinball")}
    return ", ".join(f"{name} {value:.5f}" for name, value in shown.items())


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _out() -> Console:
    """Return the standard output; a file or a pipe takes lines of 140 characters."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _change(before: object, after: object) -> str:
    if isinstance(before, float) and isinstance(after, float) and before:
        return f"{100 * (after / before - 1):+.2f} %"
    return ""


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"
