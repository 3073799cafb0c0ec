"""What other symbols are worth to the forecasts of one market: models trained with and without.

``python -m benchmarks context FOLDER`` trains, by seed, one network that reads the context (by
default ^GSPC and ^VIX, of the folder's files ``context-*``) and one that does not, on the same
windows of one file of the folder, and measures both on symbols and times that neither has seen. The
network with context is also asked without. It prints one JSON object: by how many per cent the
pinball loss is lower with context, with the 95 % interval by blocks of dates.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.candles import DAY_MS
from shared.context import ContextSpec
from trainer import panels, worth
from trainer.dataset import Samples
from trainer.fit import Fitted, fit_parts
from trainer.fit_config import FitConfig
from trainer.training import KEPT_OUT

DIGITS: Final = 3

KINDS: Final = ("trained_without", "asked_without")
"""What the network with context is compared with: another network, and itself."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks context", description=__doc__)
    parser.add_argument("folder", type=Path, help="Parquet files of candles, context-* among them")
    parser.add_argument("--file", default="daily-us", help="default: daily-us")
    parser.add_argument("--context", default="^GSPC,^VIX", help="default: ^GSPC,^VIX")
    parser.add_argument("--part", choices=["validation", "test"], default="test")
    parser.add_argument("--windows", type=int, default=80_000, help="to train on")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    options = parser.parse_args(argv)
    spec = ContextSpec(symbols=tuple(options.context.split(",")), interval="1d")
    config = FitConfig(context=spec, windows=options.windows)
    data = [panel for panel in panels.read(options.folder) if panel.name == options.file]
    if not data:
        parser.error(f"--file: expected a file of {options.folder}, got {options.file}")
    data = panels.joined(data, panels.contexts_of(options.folder, spec))
    started_s = perf_counter()
    seeds = [of_seed(data, config, options.part, seed) for seed in range(options.seeds)]
    result = {
        "file": options.file, "context": spec.symbols, "part": options.part,
        "windows": options.windows, "seconds": round(perf_counter() - started_s), "seeds": seeds,
        "mean": {kind: _mean([seed[kind] for seed in seeds]) for kind in KINDS},
    }  # fmt: skip
    print(json.dumps(result))
    return 0


def of_seed(
    data: Sequence[panels.Panel], config: FitConfig, part: str, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return what the context is worth to networks of one seed, by horizon."""
    draw = partial(panels.draw, data, config, seed=seed, kept_out=KEPT_OUT)
    train, validation = (
        draw(name, share * config.windows // 100)
        for name, share in (("train", 90), ("validation", 12))
    )
    final = draw("all", config.windows)
    tested = draw(part, config.windows)
    reading = _fit(train, validation, final, config, seed)
    plain = replace(config, context=None)
    narrow = partial(without, config=plain)
    blind = _fit(narrow(train), narrow(validation), narrow(final), plain, seed)
    days = tested.open_ms // DAY_MS
    zeroed = tested.features.copy()
    zeroed[:, :, len(plain.features) :] = 0.0
    known = _loss(reading, tested)
    asked_without = _loss(reading, replace(tested, features=zeroed))
    trained_without = _loss(blind, without(tested, plain))
    return {
        kind: [
            _rounded(worth.compared(step, days, known[:, at], other[:, at]))
            for at, step in enumerate(config.horizons)
        ]
        for kind, other in zip(KINDS, (trained_without, asked_without), strict=True)
    }  # fmt: skip


def without(samples: Samples, config: FitConfig) -> Samples:
    """Return samples with the features of the candles alone."""
    features = np.ascontiguousarray(samples.features[:, :, : len(config.features)])
    return replace(samples, features=features)


def _fit(
    train: Samples, validation: Samples, final: Samples, config: FitConfig, seed: int
) -> Fitted:
    def show(epoch: object) -> None:
        print(
            f"{'plain' if config.context is None else 'context'} {seed}: {epoch}", file=sys.stderr
        )

    return fit_parts(train, validation, lambda: final, config, seed, show)


def _loss(fitted: Fitted, samples: Samples) -> NDArray[np.float64]:
    """Return the pinball losses of windows, (N, H)."""
    parts: list[NDArray[np.float64]] = []
    done = 0
    for features in samples.chunks():
        returns = samples.log_return[done : done + len(features)]
        parts.append(worth.pinball_of(fitted.model, features, returns, fitted.config))
        done += len(features)
    return np.concatenate(parts)


def _mean(seeds: Sequence[list[dict[str, Any]]]) -> dict[int, float]:
    """Return the mean over seeds of what is saved, by horizon."""
    return {
        found[0]["step"]: round(float(np.mean([item["saved"] for item in found])), DIGITS)
        for found in zip(*seeds, strict=True)
    }


def _rounded(found: worth.Worth) -> dict[str, Any]:
    numbers = {
        name: round(value, DIGITS) if isinstance(value, float) else value
        for name, value in asdict(found).items()
    }
    return {**numbers, "verdict": found.verdict}
