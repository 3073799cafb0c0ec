"""Times a change of champions as candles feel it: how late the event loop gets to its work.

``python -m benchmarks swap`` watches a store from an event loop that has something to do every
millisecond, first in peace, then while champions change, and prints JSON in milliseconds. Each
champion is the built-in bundle under another name, so that it is loaded and verified again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry

from shared import bundle, model_watch
from shared.bundle import CONFIG_NAME, BundleConfig
from shared.metrics import ModelMetrics
from shared.model_store import Decision, ModelStore
from shared.model_watch import ModelWatch

TICK_S: Final = 0.001


async def lateness(seconds: float) -> list[float]:
    """Return how late each tick came, in milliseconds."""
    late: list[float] = []
    end_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < end_s:
        await asyncio.sleep(TICK_S)
        late.append(1000 * (time.perf_counter() - began_s - TICK_S))
    return late


def named(name: str) -> dict[str, bytes]:
    """Return the built-in bundle under another name."""
    contents = bundle.contents_of(bundle.default_path())
    config = BundleConfig.model_validate_json(contents[CONFIG_NAME])
    version = bundle.version_of(name, config.files)
    renamed = config.model_copy(update={"name": name, "model_version": version})
    return contents | {CONFIG_NAME: renamed.model_dump_json().encode()}


async def measure(swaps: int, url: str) -> dict[str, Any]:
    """Return the lateness in peace and with swaps, and how soon champions were noticed."""
    store = ModelStore(url)
    digests = [store.put(named(f"m{number}")) for number in range(swaps)]
    watch = ModelWatch(url, bundle.load(bundle.default_path()), ModelMetrics(CollectorRegistry()))
    watch.begin()
    peace = await lateness(swaps * model_watch.LOOK_S / 2)
    taken = asyncio.Event()
    watching = asyncio.create_task(watch.run(taken.set))
    late: list[float] = []
    noticed: list[float] = []
    for digest in digests:
        await asyncio.to_thread(store.promote, digest, "*", decision=Decision("benchmark"))
        began_s = time.perf_counter()
        taken.clear()
        lap = asyncio.create_task(lateness(2 * model_watch.LOOK_S))
        await taken.wait()
        noticed.append(time.perf_counter() - began_s)
        late += await lap
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return {
        "swaps": swaps,
        "noticed_after_s": {"median": round(float(np.median(noticed)), 2), "most": max(noticed)},
        "late_ms": {"in_peace": summary(peace), "with_swaps": summary(late)},
    }


def summary(late: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99.9th percentile and the most."""
    shown = {"median": np.median(late), "p999": np.quantile(late, 0.999), "most": max(late)}
    return {name: round(float(value), 2) for name, value in shown.items()}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks swap", description=__doc__)
    parser.add_argument("--swaps", type=int, default=20, help="champions to promote (default: 20)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(options.swaps, f"{folder}/models"))
    print(json.dumps(result, indent=2))
    return 0
