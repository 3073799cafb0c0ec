"""Folders of candles of many symbols: islands, splits that never leak, draws by class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared.candles import DAY_MS
from shared.context import ContextSpec
from tests.unit.trainer.test_window_features import walk
from trainer import panels
from trainer.fit_config import FitConfig
from trainer.panels import Panel, draw, part_of, positions

CONFIG = FitConfig(sequence_length=3)
LONGEST = max(CONFIG.horizons)
SYMBOLS = [f"S{number}" for number in range(40)]
KEPT_OUT = frozenset({"S1"})


def table(kind: str, count: int, symbols: list[str]) -> pd.DataFrame:
    parts = []
    for number, symbol in enumerate(symbols):
        candles, open_ms = walk(kind, count, seed=number)
        columns = dict(zip(panels.COLUMNS, candles.astype(np.float32).T, strict=True))
        parts.append(pd.DataFrame({"symbol": symbol, "open_ms": open_ms, **columns}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("candles")
    stocks = table("daily stock", 400, SYMBOLS)
    coins = table("daily coin", 300, [f"{name}-USD" for name in SYMBOLS])
    pd.concat([stocks, coins]).to_parquet(path / "daily.parquet")
    minutes = table("5m stock", 500, SYMBOLS[:6])
    minutes.loc[minutes.index % 500 >= 250, "open_ms"] += 28 * DAY_MS  # two islands
    minutes.to_parquet(path / "minutes.parquet")
    table("hourly stock", 300, ["S0"]).to_parquet(path / "validation-hours.parquet")
    table("daily stock", 300, ["^VIX"]).to_parquet(path / "context-daily.parquet")
    return path


@pytest.fixture(scope="module")
def data(folder: Path) -> list[Panel]:
    return panels.read(folder)


def test_files_become_panels_by_interval_and_market(data: list[Panel]) -> None:
    assert [(panel.title, panel.interval, panel.group, panel.trains) for panel in data] == [
        ("daily", "1d", "days", True),
        ("daily, every day", "1d", "days", True),
        ("minutes", "5m", "minutes", True),
        ("validation-hours", "1h", "hours", False),
    ]
    assert len(data[2].islands) == 12, "a gap of a month ends an island"
    assert all(len(island.candles.open_ms) == 250 for island in data[2].islands)


def test_context_is_read_of_its_files_and_put_around_the_candles(
    data: list[Panel], folder: Path
) -> None:
    spec = ContextSpec(symbols=("^VIX",), interval="1d")
    joined = panels.joined(data, panels.contexts_of(folder, spec))
    drawn = draw(joined, replace(CONFIG, context=spec), "train", 400, 0)
    plain = draw(data, CONFIG, "train", 400, 0)
    count = len(CONFIG.features)
    np.testing.assert_array_equal(drawn.features[..., :count], plain.features)
    assert 0.1 < (drawn.features[:, -1, count] == 1.0).mean() < 1.0, "known where it has candles"
    wrong = ContextSpec(symbols=("^VIX", "^GSPC"), interval="1d")
    with pytest.raises(ValueError, match=r"in the files context-\*.*, got none of \^GSPC"):
        panels.contexts_of(folder, wrong)


def test_rows_that_are_no_candles_and_repeated_ones_are_left_out(tmp_path: Path) -> None:
    rows = table("daily stock", 200, ["A"])
    rows.loc[5, "high"] = 0.5 * rows["low"].iloc[5]
    rows.loc[6, "close"] = np.nan
    rows.loc[7, "low"] = -1.0
    pd.concat([rows, rows.iloc[20:30]]).to_parquet(tmp_path / "a.parquet")
    [panel] = panels.read(tmp_path)
    assert len(panel.islands[0].candles.open_ms) == 197


def test_a_folder_without_candles_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected Parquet files of candles, found none"):
        panels.read(tmp_path)


def test_parts_share_no_symbol_and_no_time(data: list[Panel]) -> None:
    for panel in data[:2]:
        spans: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
        symbols: dict[str, set[str]] = {name: set() for name in spans}
        for island in panel.islands:
            open_ms = island.candles.open_ms
            for part, some in spans.items():
                at = positions(panel, island, part, 144, LONGEST, KEPT_OUT)
                if len(at):
                    some.append((int(open_ms[at[0]]), int(open_ms[at[-1] + LONGEST])))
                    symbols[part].add(island.symbol)
        last = {part: max(stop for _, stop in some) for part, some in spans.items()}
        first = {part: min(start for start, _ in some) for part, some in spans.items()}
        assert last["train"] < panel.validation_ms <= first["validation"]
        assert last["validation"] < panel.test_ms <= first["test"]
        assert not symbols["train"] & symbols["validation"]
        assert not (symbols["train"] | symbols["validation"]) & symbols["test"]


def test_symbols_that_are_kept_out_never_train(data: list[Panel]) -> None:
    islands = [island for island in data[0].islands if island.symbol in KEPT_OUT]
    for part in ("train", "validation", "all"):
        assert all(
            not len(positions(data[0], one, part, 144, LONGEST, KEPT_OUT)) for one in islands
        )
    assert len(positions(data[0], islands[0], "test", 144, LONGEST, KEPT_OUT))


def test_files_for_validation_do_nothing_else(data: list[Panel]) -> None:
    panel, [island] = data[3], data[3].islands
    assert (
        len(positions(panel, island, "validation", 144, LONGEST, KEPT_OUT)) == 300 - 143 - LONGEST
    )
    for part in ("train", "all", "test"):
        assert not len(positions(panel, island, part, 144, LONGEST, KEPT_OUT))


def test_a_third_of_the_names_is_test_by_their_hash_alone() -> None:
    parts = [part_of(f"NAME{number}") for number in range(3000)]
    assert parts.count("test") == pytest.approx(1000, abs=100)
    assert parts.count("validation") == pytest.approx(500, abs=80)
    assert part_of("AAPL") == part_of("AAPL")


def test_classes_are_drawn_by_their_shares(data: list[Panel]) -> None:
    made = draw(data, CONFIG, "all", 600, seed=1, kept_out=KEPT_OUT)
    again = draw(data, CONFIG, "all", 600, seed=1, kept_out=KEPT_OUT)
    np.testing.assert_array_equal(made.features, again.features)
    interval = made.features[:, -1, CONFIG.index("interval")]
    daily = made.weight[interval > np.log(0.9)].sum() / made.weight.sum()
    assert daily == pytest.approx(0.55 / 0.7, abs=0.06), "of days and minutes, .55 and .15"
    assert len(made) == pytest.approx(600, rel=0.2)


def test_what_a_bundle_saw_is_told_by_file(data: list[Panel]) -> None:
    span = panels.span(data, KEPT_OUT)
    assert [part.source for part in span.parts] == ["daily", "daily", "minutes"]
    assert not {name for name in span.symbols if part_of(name) == "test"}
    assert "S1" not in span.symbols
    assert span.candles == sum(part.candles for part in span.parts)
    assert span.last_ms < max(panel.test_ms for panel in data)
