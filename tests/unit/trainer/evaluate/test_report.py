"""The evaluation and its report on made-up forecasts: fair, complete, self-contained."""

from __future__ import annotations

import io
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from shared.candles import DAY_MS
from shared.forecaster import Prediction
from tests.candles import START_MS
from trainer.evaluate import evaluation, figures, forecast_table, losses, report
from trainer.evaluate.evaluation import MODEL, NothingToCompare
from trainer.evaluate.losses import Symbol

HORIZONS = (1, 5)
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def market(days: int = 90) -> dict[str, Symbol]:
    """Return two symbols of 1 % volatility."""
    rng = np.random.default_rng(0)
    made: dict[str, Symbol] = {}
    for name in ("AAA", "BBB"):
        close = 50 * np.exp(np.cumsum(0.01 * rng.standard_normal(days)))
        opened = np.concatenate([[50.0], close[:-1]])
        high, low = np.maximum(opened, close) * 1.003, np.minimum(opened, close) * 0.997
        candles = np.column_stack([opened, high, low, close, np.full(days, 1e6)])
        open_ms = START_MS + DAY_MS * np.arange(days, dtype=np.int64)
        made[name] = SimpleNamespace(open_ms=open_ms, candles=candles)
    return made


def forecasts(
    symbols: dict[str, Symbol],
    scale: float,
    first: int = 10,
    levels: tuple[float, ...] = LEVELS,
) -> pd.DataFrame:
    """Return the forecasts of a method that takes the volatility for ``scale`` per cent."""
    unit = stats.norm.ppf(levels)
    tables = []
    for name, symbol in symbols.items():
        count = len(symbol.open_ms) - first
        spread = 0.01 * scale * np.sqrt(HORIZONS)[:, None] * unit  # (H, Q)
        prediction = Prediction(
            np.tile(spread, (count, 1, 1)), np.full((count, len(HORIZONS)), 0.01 * scale)
        )
        tables.append(
            forecast_table.build(
                name, symbol.open_ms[first:], symbol.candles[first:, 3], HORIZONS, levels,
                prediction,
            )
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


@cache
def evaluated() -> tuple[evaluation.Evaluation, pd.DataFrame, dict[str, Symbol]]:
    symbols = market()
    table = forecasts(symbols, 1.0)
    point = forecasts(symbols, 1.0, first=20)
    point[[f"q{q:g}" for q in LEVELS if q != 0.5] + ["volatility"]] = np.nan
    tables = {
        MODEL: table, "HAR": forecasts(symbols, 1.0), "GARCH-t": forecasts(symbols, 3.0),
        "persistence": point,
    }  # fmt: skip
    return evaluation.evaluate(tables, symbols), table, symbols


def test_all_methods_are_scored_on_the_same_rows() -> None:
    found, table, _ = evaluated()
    rows = {step: 2 * (90 - 20 - step) for step in HORIZONS}
    assert found.rows == sum(rows.values())
    assert found.left_out == len(table) - found.rows
    assert {(one.step, one.rows) for one in found.scores} == set(rows.items())
    assert found.first_ms == START_MS + 20 * DAY_MS


def test_skill_of_equal_and_of_better_forecasts() -> None:
    found, _, _ = evaluated()
    by = {(one.baseline, one.loss, one.step): one for one in found.comparisons}
    assert by["HAR", "pinball", 1].skill == pytest.approx(0)
    assert by["HAR", "pinball", 1].p_value is None
    assert by["GARCH-t", "pinball", 1].low > 0.2
    assert by["GARCH-t", "qlike", 5].low > 0
    assert ("persistence", "pinball", 1) not in by
    assert by["persistence", "squared", 1].skill == pytest.approx(0)


def test_years_and_symbols_are_compared_with_every_baseline() -> None:
    found, _, _ = evaluated()
    assert {(one.kind, one.name) for one in found.groups} == {
        ("year", "2010"), ("symbol", "AAA"), ("symbol", "BBB"),
    }  # fmt: skip
    for group in found.groups:
        against = {(one.loss, one.baseline): one for one in group.skills}
        assert set(against) == {
            ("pinball", "HAR"), ("qlike", "HAR"), ("squared", "HAR"),
            ("pinball", "GARCH-t"), ("qlike", "GARCH-t"), ("squared", "GARCH-t"),
            ("squared", "persistence"),
        }  # fmt: skip
        assert against["pinball", "GARCH-t"].low > 0
        assert against["pinball", "GARCH-t"].p_value is not None
        assert all(one.step == group.step for one in group.skills)


def test_many_symbols_are_compared_with_the_main_baselines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MANY", 1)
    monkeypatch.setattr(evaluation, "MAIN_BASELINES", ("HAR",))
    found, _, _ = evaluated.__wrapped__()
    by_kind = {
        kind: {one.baseline for group in found.groups if group.kind == kind for one in group.skills}
        for kind in ("year", "symbol")
    }
    assert by_kind == {"year": {"HAR", "GARCH-t", "persistence"}, "symbol": {"HAR"}}


def test_words_claim_no_more_than_the_intervals() -> None:
    found, _, _ = evaluated()
    said = " ".join(report.sentences(found))
    assert "against GARCH-t: 1 candle ahead better by" in said
    assert "against HAR: 1 candle ahead no clear difference (+0.0 %)" in said


def test_no_common_row_is_a_clear_error() -> None:
    symbols = market(60)
    tables = {MODEL: forecasts(symbols, 1.0), "HAR": forecasts(symbols, 1.0, first=60)}
    with pytest.raises(NothingToCompare, match="two years of candles"):
        evaluation.evaluate(tables, symbols)


class Loads(HTMLParser):
    """Collects what a page would load, and the ids that its links lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "link", "img", "iframe"} or "src" in given:
            self.loads.append(tag)
        if tag == "a":
            self.links.append(str(given["href"]))
        self.ids.add(str(given.get("id")))


def report_of(found: evaluation.Evaluation) -> report.Report:
    fold = report.Fold(
        model_version="lstm-1", trained_until_ms=START_MS, first_ms=START_MS, last_ms=START_MS
    )
    protocol = report.Protocol(
        source="<made up>", sha256="0" * 64, kind="rolling origins", separation="Apart.",
        configurations_tried=7, folds=[fold],
    )  # fmt: skip
    return report.Report(made_at_ms=0, protocol=protocol, evaluation=found)


def test_the_page_shows_the_intervals_that_the_levels_have() -> None:
    symbols, levels = market(), (0.01, 0.3, 0.5, 0.99)
    table = forecasts(symbols, 1.0, levels=levels)
    tables = {MODEL: table, "HAR": forecasts(symbols, 2.0, levels=levels)}
    text = report.html(report_of(evaluation.evaluate(tables, symbols)), table, symbols)
    assert "in 98 %" in text
    assert "in 80 %" not in text


def test_the_lowest_loss_is_bold_and_not_ours() -> None:
    symbols = market()
    tables = {MODEL: forecasts(symbols, 3.0), "HAR": forecasts(symbols, 1.0)}
    found = evaluation.evaluate(tables, symbols)
    text = report.html(report_of(found), tables[MODEL], symbols)
    [ours, har, *_] = re.findall(r"<tr[^>]*><td>(?:Candlecast|HAR)</td>.*?</tr>", text, re.DOTALL)
    pinballs = {score.method: score.pinball for score in found.scores if score.step == 1}
    assert min(pinballs, key=lambda name: pinballs[name] or 0.0) == "HAR"
    assert har.split("</td>")[1].startswith('<td class="best">')
    assert ours.split("</td>")[1].startswith("<td>")


def test_examples_take_symbols_in_turn() -> None:
    symbols = market()
    svg = figures.fans(forecasts(symbols, 1.0), symbols, count=6)
    for name in symbols:
        assert svg.count(f">{name}, ") >= 6 // len(symbols)
    assert "candles from the forecast" in svg
    assert ">price, quote currency<" in svg


def test_every_axis_of_the_report_has_a_unit() -> None:
    found, table, symbols = evaluated()
    text = report.html(report_of(found), table, symbols)
    svgs = re.findall(r"<svg (?!viewBox=\"0 0 40 40\").*?</svg>", text, re.DOTALL)
    labels = (
        *(4 * ("lower loss, %",)), "quantile level", "forecast probability below the outcome",
        "candles from the forecast",
    )  # fmt: skip
    for svg, label in zip(svgs, labels, strict=True):
        assert f">{label}<" in svg
    for svg, label in zip(
        svgs[4:], ("share of outcomes below", "density", figures.PRICE), strict=True
    ):
        assert f">{label}<" in svg


def test_forecasts_against_outcomes_have_persistence_and_a_legend_beside_them() -> None:
    symbols = market()
    joined = losses.join_outcomes(forecasts(symbols, 1.0), symbols)
    figure = figures.against_outcomes(joined, 1)
    figure.savefig(io.BytesIO(), format="png")
    [legend] = figure.legends
    shades = [patch.get_alpha() for patch in legend.get_patches()]
    assert shades == pytest.approx([0.2, 0.36, 0.488]), "each as dark as it is in the panel"
    assert [text.get_text() for text in legend.get_texts()] == [
        "90 %", "80 %", "50 %", "median", "persistence", "outcome",
    ]  # fmt: skip
    for panel, name in zip(figure.axes, symbols, strict=True):
        assert not panel.get_window_extent().overlaps(legend.get_window_extent())
        [line] = [line for line in panel.lines if line.get_label() == "persistence"]
        of = joined[(joined["symbol"] == name) & (joined["step"] == 1)].sort_values("open_ms")
        assert np.asarray(line.get_ydata()).tolist() == of["last_close"].tolist()
        assert panel.get_ylabel() == figures.PRICE


def test_a_median_alone_has_figures_without_intervals() -> None:
    symbols = market()
    table = forecasts(symbols, 1.0, levels=(0.5,))
    found = evaluation.evaluate({MODEL: table, "HAR": table}, symbols)
    assert {tuple(one.covered) for one in found.scores} == {()}
    assert figures.fans(table, symbols, count=3).startswith("<svg")


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    found, table, symbols = evaluated()
    made = report_of(found)
    page, numbers = report.write(made, table, symbols, tmp_path / "out")
    assert report.Report.model_validate_json(numbers.read_text()) == made
    assert "NaN" not in json.dumps(json.loads(numbers.read_text()))
    text = page.read_text(encoding="utf-8")
    parser = Loads()
    parser.feed(text)
    assert parser.loads == []
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids
    assert "&lt;made up&gt;" in text, "what comes from outside is escaped"
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 1 + 4 + 3, "mark, a skill figure a loss, calibration, fans"
    assert not re.search(r"url\((?!#)", text)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).lower().split()
