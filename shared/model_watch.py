"""Hot reload: notices new champions, loads them beside the old ones, verifies them and swaps.

A thread reads the store, so that no candle and no request waits for it. What is wrong with a new
champion leaves the models before it in service, and is said in the log, a metric and the probes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from shared.bundle import Bundle, BundleError
from shared.catalogue import Catalogue, catalogue, catalogue_of
from shared.champions import ANY, Champions
from shared.forecaster import Forecaster, OnnxForecaster, Watch
from shared.metrics import ModelMetrics
from shared.model_store import ModelStore, StoreError
from shared.process import in_words

log = logging.getLogger(__name__)

LOOK_S: Final = 3.0
"""Time between two looks at the store: a new champion is noticed within 10 s."""

SLOW_S: Final = 20.0
"""Time after which a store that does not answer counts as away."""

RETRY_LOOKS: Final = 10
"""Looks between two attempts to load a bundle that was damaged."""

KNOWN_SERIES: Final = 50_000
"""Most series whose models are remembered."""

INTERVAL: Final = "1d"
"""Interval of a request without one; its model's version is the metric's."""


@dataclass(frozen=True)
class ChampionModels:
    """The models of one generation of champions; implements ``Models``, never changes."""

    champions: Champions  # those whose bundles are sound
    loaded: Mapping[str, OnnxForecaster]  # digest -> model
    built_in: Forecaster  # serves where no champion is
    _chains: dict[tuple[str, str], tuple[Forecaster, ...]] = field(default_factory=dict)

    def all(self) -> Iterable[Forecaster]:
        return (self.built_in, *self.loaded.values())

    def of(self, interval: str, symbol: str = "", held: int | None = None) -> Forecaster:
        chain = self._chain(interval, symbol)
        if held is None:
            return chain[0]
        for model in chain:
            if model.window_length <= held:
                return model
        return chain[-1]

    def _chain(self, interval: str, symbol: str) -> tuple[Forecaster, ...]:
        """Return the models for a series, the best first, each with a shorter window."""
        key = interval, symbol if self._has_patterns else ""
        chain = self._chains.get(key)
        if chain is None:
            models = [
                self.loaded[choice.bundle] for choice in self.champions.chain(interval, symbol)
            ]
            below = (*models, self.built_in)
            chain = tuple(
                model
                for at, model in enumerate(below)
                if at == 0 or model.window_length < below[at - 1].window_length
            )
            if len(self._chains) >= KNOWN_SERIES:
                self._chains.clear()
            self._chains[key] = chain
        return chain

    @property
    def _has_patterns(self) -> bool:
        return any(entry.symbols != ANY for entry in self.champions.champions)


class ServedModels:
    """The models that are served now; implements ``Models``. They change between batches alone."""

    def __init__(self, models: ChampionModels) -> None:
        self.now = models

    def all(self) -> Iterable[Forecaster]:
        return self.now.all()

    def of(self, interval: str, symbol: str = "", held: int | None = None) -> Forecaster:
        return self.now.of(interval, symbol, held)


@dataclass(frozen=True)
class _Look:
    """What a look at the store gave."""

    seen: Champions
    models: ChampionModels | None = None  # where they have changed
    listed: Catalogue | None = None
    fault: str = ""


class ModelWatch:
    """Watches a store for one process; ``served`` is what it serves."""

    def __init__(
        self, url: str, built_in: Bundle, metrics: ModelMetrics, observe: Watch = float
    ) -> None:
        """Load the built-in model; the store is looked at by ``begin``.

        Args:
            url: the store's.
            built_in: serves where no champion is.
            metrics: of the process.
            observe: called with the duration of each model call, in seconds.

        Raises:
            BundleError: when the built-in model cannot be used.
            StoreError: when the URL's protocol is not known.
        """
        self._store = ModelStore(url)
        self._bundle = built_in
        self._metrics = metrics
        self._observe = observe
        self._pool = ThreadPoolExecutor(1, "models")
        self._seen = Champions()
        self._damaged: dict[str, str] = {}  # digest -> why
        self._looks = 0
        self._fault = ""
        self.served = ServedModels(
            ChampionModels(Champions(), {}, warm(OnnxForecaster(built_in, observe)))
        )
        self.catalogue = catalogue_of(url, Champions(), (), built_in)
        self._is_listed = False
        self._show()

    @property
    def state(self) -> str:
        """How the models are, in words for a probe."""
        generation = self.served.now.champions.generation
        serving = f"models of generation {generation}"
        return f"{serving} serve on; {self._fault}" if self._fault else serving

    def begin(self) -> None:
        """Look once before anything is served; a store that is away leaves the built-in model."""
        self._take(self._look())

    async def run(self, taken: Callable[[], object] = lambda: None) -> None:
        """Look again and again; never returns.

        Args:
            taken: called once new models serve.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if self._take(await self._answer()):
                    taken()
            except Exception:  # else no other champion would be noticed
                log.exception("new models could not be taken into service")

    async def _answer(self) -> _Look:
        """Look in the thread, however long the store takes; say so when it takes long."""
        looking = asyncio.get_running_loop().run_in_executor(self._pool, self._look)
        done, _ = await asyncio.wait([looking], timeout=SLOW_S)
        if not done:
            self._note(f"{self._store.url} has not answered for {SLOW_S:g} s")
        return await looking

    def _look(self) -> _Look:
        """Read the champions, and load and verify those that are new; in the thread."""
        self._looks += 1
        try:
            seen = self._store.champions()
            is_due = bool(self._damaged) and self._looks % RETRY_LOOKS == 0
            if seen == self._seen and not is_due and self._is_listed:
                return _Look(seen, fault=self._damage())
            # a later decision counts on: somebody has promoted since the files were removed
            if seen.generation < self._seen.generation and seen.at_ms <= self._seen.at_ms:
                return _Look(
                    self._seen,
                    fault=f"{self._store.url}: expected generation {self._seen.generation} of the "
                    f"champions or a later one, got {seen.generation}: the file was removed",
                )
            models = self._load(seen)
            listed = catalogue(self._store, self._bundle)
        except (StoreError, BundleError) as error:
            return _Look(self._seen, fault=in_words(error))
        except Exception as error:  # whatever it is, the models before serve on
            log.exception("a look at the model store failed")
            return _Look(self._seen, fault=repr(error))
        return _Look(seen, models, listed, self._damage())

    def _damage(self) -> str:
        return "; ".join(self._damaged.values())

    def _load(self, seen: Champions) -> ChampionModels:
        """Return the models of a generation; damaged ones give way to those before them."""
        held = self.served.now.loaded
        loaded: dict[str, OnnxForecaster] = {}
        damaged: dict[str, str] = {}
        while True:
            sound = seen.without(damaged.keys())
            missing = [digest for digest in sorted(sound.needed) if digest not in loaded]
            if not missing:
                break
            for digest in missing:
                try:
                    loaded[digest] = held.get(digest) or self._load_one(digest)
                except BundleError as error:
                    damaged[digest] = in_words(error)
        self._damaged = damaged
        needed = {digest: loaded[digest] for digest in sound.needed}
        return ChampionModels(sound, needed, self.served.now.built_in)

    def _load_one(self, digest: str) -> OnnxForecaster:
        return warm(OnnxForecaster(self._store.load(digest), self._observe))

    def _take(self, look: _Look) -> bool:
        """Serve what a look gave; return whether the models have changed. In the event loop."""
        self._note(look.fault)
        self._seen = look.seen
        if look.listed is not None:
            self.catalogue = look.listed
            self._is_listed = True
        before, models = self.served.now, look.models
        if models is None or models.champions == before.champions:
            return False
        self.served.now = models
        self._metrics.swaps.inc()
        log.info("generation %d of the champions serves: %s", models.champions.generation,
                 models.champions.change)  # fmt: skip
        self._show()
        return True

    def _note(self, fault: str) -> None:
        if fault and fault != self._fault:
            log.error("%s; the models before serve on", fault)
        elif self._fault and not fault:
            log.info("the model store and its champions are sound again")
        self._fault = fault
        self._metrics.store_fault.set(bool(fault))

    def _show(self) -> None:
        """Set the metrics of what is served."""
        models = self.served.now
        self._metrics.model.info({"version": models.of(INTERVAL).model_version})
        self._metrics.generation.set(models.champions.generation)
        self._metrics.champion.clear()
        self._metrics.promoted.clear()
        for entry in models.champions.champions:
            self._metrics.champion.labels(*entry.key, entry.choice.version).set(1)
            self._metrics.promoted.labels(*entry.key).set(entry.choice.at_ms / 1000)


def warm(model: OnnxForecaster) -> OnnxForecaster:
    """Return a model after a first call of one window, which takes tens of milliseconds."""
    model.call_once()
    return model
