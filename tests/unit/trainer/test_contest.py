"""Challenger against champion: each reads the context that it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared import bundle
from shared.context import Contexts, ContextSeries, ContextSpec
from tests import bundles
from tests.unit.trainer.test_window_features import walk
from trainer import contest
from trainer.dataset import Source, SymbolCandles
from trainer.gate import Rule

SPEC = ContextSpec(symbols=("^VIX",), interval="1d", length=2)


def test_a_challenger_is_judged_with_its_context_where_there_is_one(tmp_path: Path) -> None:
    champion = bundle.load(bundles.write(tmp_path / "champion"))
    challenger = bundle.load(bundles.write(tmp_path / "challenger", context=SPEC))
    candles, open_ms = walk("daily stock", 300)
    source = Source("made", "1d", {"A": SymbolCandles(open_ms, candles)})
    closes = np.full(300, 9.0)
    series = {"^VIX": ContextSeries.of("1d", open_ms, open_ms + 86_400_000, closes)}
    asked: list[ContextSpec] = []

    def context(spec: ContextSpec) -> Contexts:
        asked.append(spec)
        return Contexts(spec, series)

    start_ms, rule = int(open_ms[100]), Rule()
    knowing = contest.compare(source, challenger, champion, start_ms, rule, context)
    without = contest.compare(source, challenger, champion, start_ms, rule)
    assert asked == [SPEC], "the champion reads none"
    plain = without.figures
    assert plain["qlike"] == plain["qlike_champion"], "without it is the champion's twin"
    assert knowing.figures["qlike"] != plain["qlike"]
    assert knowing.figures["qlike_champion"] == plain["qlike_champion"]
