"""Times the model path: one window and many at once, also beside another checkout.

``python -m benchmarks forecast`` prints JSON in microseconds a window: the least and the median
of many calls on one thread. ``--against DIR`` measures the checkout in DIR too, by turns with
this one in processes of their own, and adds the ratio of the medians, this over that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

SIZES: Final = (1, 16, 128, 1024)
ROUNDS: Final = 7
HERE: Final = Path(__file__).parents[1]
TIMER: Final = Path(__file__).with_name("forecast_timer.py")


class Timer:
    """A process that times the model path of one checkout; use as a context manager."""

    def __init__(self, checkout: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, str(TIMER)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, size: int, calls: int) -> dict[str, Any]:
        """Return model version, least and median time of a call, in microseconds a window."""
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        print(size, calls, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the timer of a checkout ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks forecast", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout to measure")
    options = parser.parse_args(argv)
    checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
    with ExitStack() as stack:
        timers = [stack.enter_context(Timer(checkout)) for checkout in checkouts]
        result: dict[str, Any] = {"us_a_window": {}}
        for size in SIZES:
            calls = max(20, 20_000 // size // ROUNDS // (10 if options.quick else 1))
            result["us_a_window"][str(size)] = _by_turns(timers, size, calls)
        result["model_versions"] = [timer.ask(1, 1)["model_version"] for timer in timers]
    print(json.dumps(result))
    return 0


def _by_turns(timers: Sequence[Timer], size: int, calls: int) -> dict[str, Any]:
    """Return the figures of this checkout, and those of the other with the ratio of medians."""
    rounds = [[timer.ask(size, calls) for timer in timers] for _ in range(ROUNDS)]
    figures = [
        {
            "least": min(part["least"] for part in parts),
            "median": round(statistics.median(part["median"] for part in parts), 1),
        }
        for parts in zip(*rounds, strict=True)
    ]
    if len(figures) == 1:
        return figures[0]
    ratios = [this["median"] / that["median"] for this, that in rounds]
    return {**figures[0], "against": figures[1], "ratio": round(statistics.median(ratios), 3)}
