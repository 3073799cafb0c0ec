"""What docs/how-to/mlflow.md says to click is there, in MLflow's own pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from local.ports import free_ports
from shared import bundle
from tests.documents import ROOT
from tests.integration.processes import Processes, wait_until
from trainer import tracking

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PAGE = ROOT / "docs" / "how-to" / "mlflow.md"
START_S = 120.0
LOOK_MS = 30_000
RUN = "train candles.csv until 2010-01-01"


def test_the_words_to_click_are_there(
    tmp_path: Path, processes: Processes, browser: Browser
) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for name in (RUN, "evaluate lstm-0 on candles.csv"):
        with tracking.run(store, "candlecast", name) as run:
            run.metrics({"pinball_1": 0.1, "pinball_skill_1_HAR": 0.02})
            run.artifact(bundle.default_path() / "config.json", "bundle")
            run.tags({"model_version": "lstm-0"})
            run.register("candlecast", "bundle")
    [port] = free_ports(1)
    argv = ("ui", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port))
    ui = processes.start("mlflow", *argv, env={"MLFLOW_DISABLE_TELEMETRY": "true"})
    wait_until(
        lambda: "Application startup complete" in ui.log.read_text(), START_S, "MLflow", process=ui
    )
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(LOOK_MS)
    clicked = []

    def click(words: str) -> None:
        page.get_by_text(words, exact=True).first.click()
        clicked.append(words)

    def look(shown: Locator) -> None:
        expect(shown.first).to_be_visible(timeout=LOOK_MS)

    page.goto(f"http://127.0.0.1:{port}")
    click("Model training")
    click("Experiments")
    click("candlecast")
    click("Runs")
    look(page.get_by_text(RUN))
    page.get_by_label("Select all runs").click()
    click("Compare")
    look(page.get_by_text("Comparing 2 Runs"))
    page.go_back()
    click(RUN)
    for words in ("Tags", "model_version", "Registered models"):
        look(page.get_by_text(words, exact=True))
    click("Overview")
    click("Model metrics")
    page.get_by_placeholder("Search metric charts").fill("skill")
    look(page.get_by_text("pinball_skill_1_HAR"))
    expect(page.get_by_text("pinball_1")).to_have_count(0, timeout=LOOK_MS)
    click("Artifacts")
    look(page.get_by_text("bundle"))
    click("Model registry")
    page.get_by_text("Try it now", exact=True).click()  # a note of MLflow's lies over the page
    look(page.get_by_text("Version 2"))
    look(page.get_by_text("candlecast", exact=True).filter(visible=True))
    page.close()
    bold = re.findall(r"\*\*(.+?)\*\*", PAGE.read_text())
    assert {words for path in bold for words in re.split(r" \W ", path)} == {*clicked} - {RUN}
