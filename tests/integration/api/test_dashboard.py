"""The dashboard in a real Chromium, over real sockets."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from api.edge.access import AccessRules
from api.edge.keys import KeyFile, KeyRing, Scope, create
from local.ports import HOST, free_ports
from shared.candles import INTERVALS_MS, Candle
from tests.candles import walk
from tests.dashboard_site import LENGTH, PHONE, Place, Site, opened
from tests.integration.api.test_stream import get, make_topics, publish, settings_of, start
from tests.integration.processes import Processes, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(free_ports(1)[0]) as site:
        yield site


def symbols(page: Page) -> list[str]:
    return [
        text.removesuffix("1d") for text in page.locator("#rows td:first-child").all_inner_texts()
    ]


def test_an_empty_stream_is_said_to_be_empty(browser: Browser, site: Site) -> None:
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        expect(page.locator("#state")).to_have_text("Live")
        expect(page.get_by_text("Nothing has been forecast yet")).to_be_visible()
        expect(page.locator("#none")).to_have_text("No symbols yet.")
        expect(page.locator("#model")).to_have_text("persistence")
        assert complaints == []


def test_a_new_candle_is_shown_within_two_seconds(browser: Browser, site: Site) -> None:
    candles = walk(120)
    site.play(candles[:100])
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        expect(page.locator("#title")).to_have_text("AAPL")
        expect(page.locator("#rows tr")).to_have_count(1)
        for candle in candles[100:103]:
            started = time.monotonic()
            site.play([candle])
            expect(page.locator("#subtitle")).to_contain_text(date_of(candle), timeout=2_000)
            assert time.monotonic() - started < 2
        assert complaints == []


EVENT_SOURCE: Final = """
window.events = [];
window.source = new EventSource("/v1/stream?events=candle");
for (const kind of ["open", "hello", "reset", "resumed", "candle"])
  source.addEventListener(kind, () => events.push(kind));
"""


def heard(page: Page, condition: str) -> None:
    wait_until(lambda: page.evaluate(condition), 15, condition)


def test_it_survives_a_restart_of_the_api(browser: Browser) -> None:
    port = free_ports(1)[0]
    candles = walk(120)
    with Site(port) as site:
        site.play(candles[:80])
        with opened(browser, f"{site.url}/dashboard") as (page, _):
            expect(page.locator("#rows tr")).to_have_count(1)
            page.evaluate(EVENT_SOURCE)
            heard(page, "events.includes('hello')")
            site.__exit__()
            expect(page.locator("#state")).to_have_text("Reconnecting")
            page.evaluate("events.length = 0")
            with Site(port) as again:
                again.live.connected = False  # a browser gives up on any status but 200
                heard(page, "events.includes('open')")
                assert page.evaluate("source.readyState") == 1
                again.live.connected = True
                heard(page, "events.includes('reset') || events.includes('resumed')")
                again.play(candles[:110])
                heard(page, "events.includes('candle')")
                expect(page.locator("#state")).to_have_text("Live")
                expect(page.locator("#subtitle")).to_contain_text("last 2010-04-23")
                again.play(candles[110:111])
                expect(page.locator("#subtitle")).to_contain_text("last 2010-04-24")


def test_a_real_stream_is_shown_at_once_and_after_a_kill(
    browser: Browser, processes: Processes, kafka: str, unique_name: Callable[[str], str]
) -> None:
    """The API as a process behind a real Kafka: a forecast is on the page within two seconds."""
    topics = settings_of(kafka, unique_name)
    apart(make_topics, topics)
    candles = walk(60)
    apart(publish, topics, candles[:50])
    api = start(processes, topics)
    wait_until(lambda: get(api, "/v1/forecasts"), 30, "the stream is followed", process=api.process)
    url = f"http://{HOST}:{api.port}"
    with opened(browser, f"{url}/dashboard") as (page, complaints):
        expect(page.locator("#subtitle")).to_contain_text(date_of(candles[49]))
        for number in range(50, 53):
            apart(publish, topics, candles[: number + 1], number)
            expect(page.locator("#subtitle")).to_contain_text(
                date_of(candles[number]), timeout=2_000
            )
        assert complaints == []
        api.process.kill()
        expect(page.locator("#state")).to_have_text("Reconnecting")
        apart(publish, topics, candles[:56], 53)
        start(processes, topics, port=api.port)
        expect(page.locator("#state")).to_have_text("Live")
        expect(page.locator("#subtitle")).to_contain_text(date_of(candles[55]))


def apart(work: Callable[..., None], *arguments: Any) -> None:
    """Do work that wants an event loop of its own: this thread's is the browser's driver's."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work, *arguments).result()


def date_of(candle: Candle) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(candle.open_ms / 1000))


def test_past_fans_stand_against_what_came(browser: Browser, site: Site) -> None:
    site.play(walk(100))
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        figures = page.locator("#figures .figure")
        expect(figures).to_have_count(4)  # the last close, and three horizons
        newest = figures.nth(1).inner_text()
        page.locator("#back").focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        expect(page.locator("#back-text")).to_have_text("3 candles ago")
        assert figures.nth(1).inner_text() != newest
        site.play(walk(101)[100:])  # the forecast that is looked at stays
        expect(page.locator("#back-text")).to_have_text("4 candles ago")
        page.locator("#back").focus()
        page.keyboard.press("End")
        expect(page.locator("#back-text")).to_have_text("now")
        page.locator("#horizon").select_option("10")
        assert complaints == []


def test_the_health_of_the_stream_is_shown(browser: Browser, site: Site) -> None:
    site.play(walk(100), lag_ms=12)
    with opened(browser, f"{site.url}/dashboard") as (page, _):
        expect(page.locator("#lag")).to_have_text("0")
        expect(page.locator("#latency")).to_have_text("12 ms")
        expect(page.locator("#model")).to_have_text("persistence")
        expect(page.locator("#facts")).to_contain_text("1, 5, 10 candles")
        drift = page.locator("#drift")
        expect(drift).to_have_text("1 of 1")
        expect(page.locator("#drift-note")).to_have_text(
            re.compile(r"^series drift; moves \d\.\d\d . the model's$")
        )
        assert "warn" in str(drift.locator("..").get_attribute("class"))  # a saw is no market
        expect(page.locator("#coverage-note")).to_contain_text("60 scored")
        skill = page.locator("#rows td:nth-child(7)")
        expect(skill).to_have_text(re.compile(r"^worse than no model \(.\d+\.\d %\)$"))
        expect(page.locator("#calibration-note")).to_have_text(
            "AAPL 1d, 1 candle ahead: the newest 60 forecasts that have been scored"
        )
        expect(page.locator("#pit div")).to_have_count(10)
        expect(page.locator("#coverages tr")).to_have_count(3)
        expect(page.locator("#skills dd").first).to_have_text(re.compile("^worse than no model"))
        page.locator("#horizon").select_option("5")
        expect(page.locator("#calibration-note")).to_contain_text("5 candles ahead: the newest 56")
        site.live.connected, site.live.lag = False, None
        expect(page.locator("#state")).to_have_text("Stream down")
        expect(page.locator("#lag")).not_to_have_text("0")
        site.live.connected = True
        expect(page.locator("#state")).to_have_text("Live")


def test_the_table_says_what_the_forecast_is_worth(browser: Browser, site: Site) -> None:
    candles = walk(100)
    site.play(candles)
    with opened(browser, f"{site.url}/dashboard#AAPL/1d") as (page, complaints):
        cells = page.locator("#rows td")
        expect(cells.nth(3)).to_have_text(re.compile(r"^\d+\.\d \u00d7$"))  # once it is scored
        move, usual, _, risk, *_ = cells.all_inner_texts()[2:]
        newest = site.live.market.series["AAPL", "1d"].latest
        assert newest is not None
        made = json.loads(newest.encoded)
        low = made["horizons"][0]["quantiles"]["0.05"]
        assert float(risk.removesuffix(" %").replace("\u2212", "-")) == pytest.approx(
            100 * (low / made["last_close"] - 1), abs=0.006
        )
        changes = [abs(math.log(b.close / a.close)) for a, b in pairwise(candles[-61:])]
        mean = sum(changes) / len(changes)
        shown, *further = re.split(" %| · ", move.removeprefix("± "))
        for text, horizon in zip((shown, *further), made["horizons"], strict=True):
            last, held = made["last_close"], horizon["quantiles"]
            edges = max(abs(held[name] / last - 1) for name in ("0.05", "0.95"))
            assert 0 < float(text) < 100 * edges
        expected = float(shown) / 100
        assert float(usual.removesuffix(" \u00d7")) == pytest.approx(expected / mean, abs=0.06)
        assert page.url.endswith("#AAPL/1d")
        assert complaints == []


def test_a_link_leads_to_a_series_and_a_model_of_another_interval_is_marked(
    browser: Browser, site: Site
) -> None:
    site.forecaster.intervals = ("1d",)
    days = walk(60, symbol="BTC/USD")
    first_ms, hour_ms = days[0].open_ms, INTERVALS_MS["1h"]
    hours = [
        day.model_copy(
            update={
                "interval": "1h",
                "open_ms": first_ms + number * hour_ms,
                "close_ms": first_ms + (number + 1) * hour_ms,
            }
        )
        for number, day in enumerate(days)
    ]
    site.play([*days, *hours])
    site.play(walk(60))
    with opened(browser, f"{site.url}/dashboard#BTC%2FUSD/1h") as (page, complaints):
        expect(page.locator("#title")).to_have_text("BTC/USD")
        expect(page.locator("#subtitle")).to_contain_text("1h candles")
        assert page.title() == "BTC/USD 1h · Candlecast"
        chosen = page.locator("#rows tr[aria-selected=true]")
        expect(chosen).to_contain_text("persistence (1d)")
        expect(page.locator("#rows tr", has_text="AAPL")).not_to_contain_text("(1d)")
        assert page.locator("#rows .up").count() == 0  # an expected move has no direction
        page.locator("#groups").select_option("interval")
        expect(page.locator("#rows .group")).to_have_text(["1d · 2", "1h · 1"])
        page.get_by_role("link", name="Record").click()
        expect(page.locator("#title")).to_have_text("BTC/USD 1h")
        assert complaints == []


def test_the_chart_reads_out_what_is_pointed_at(browser: Browser, site: Site) -> None:
    site.play(walk(100))
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        readout, figures = page.locator("#readout"), page.locator("#figures .figure")
        newest = walk(100)[-1]
        expect(readout).to_contain_text(
            f"{date_of(newest)} O {newest.open:.2f} H {newest.high:.2f}"
        )
        expect(readout).to_contain_text("forecast 1 candle before it fell")
        expect(readout).to_contain_text("volatility ±")
        expect(figures.nth(1)).to_contain_text(re.compile(r"up: \d+ %"))
        page.locator("#chart").focus()
        page.keyboard.press("ArrowLeft")
        expect(readout).to_contain_text(date_of(walk(100)[-2]))
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        expect(readout).to_contain_text("ahead 1 candle")
        page.locator("#log").focus()  # the chart lets go
        expect(readout).to_contain_text(date_of(newest))
        box = page.locator("#chart").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
        expect(readout).to_contain_text(
            re.compile(r"above \d+\.\d+ .*%.* in 1, .*% in 5, .*% in 10")
        )
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 60)  # a high price stays
        expect(page.locator("#level")).not_to_have_value("")
        expect(figures.nth(1)).to_contain_text("above")
        page.locator("#level").fill("1")
        expect(figures.nth(3)).to_contain_text("above 1.00: over 95")
        page.locator("#level").fill("1000")
        expect(figures.nth(3)).to_contain_text("above 1,000.00: under 5")
        assert complaints == []


def test_odds_are_those_of_the_quantiles(browser: Browser, site: Site) -> None:
    site.play(walk(100))
    with opened(browser, f"{site.url}/dashboard") as (page, _):
        newest = site.live.market.series["AAPL", "1d"].latest
        assert newest is not None
        made = json.loads(newest.encoded)
        quantiles = made["horizons"][1]["quantiles"]
        expect(page.locator("#figures .figure")).to_have_count(4)
        for price in (quantiles["0.25"], (quantiles["0.1"] * quantiles["0.25"]) ** 0.5):
            page.locator("#level").fill(str(price))
            below = np.interp(
                math.log(price),
                [math.log(q) for q in quantiles.values()],
                list(map(float, quantiles)),
            )
            shown = page.locator("#figures .figure").nth(2)
            expect(shown).to_contain_text(re.compile(rf": {round(100 * (1 - below))} %$"))


def test_candles_outside_their_band_are_marked_and_log_scale_is_kept(
    browser: Browser, site: Site
) -> None:
    candles = walk(99)
    last = candles[-1]
    jump = {"close": last.close * 1.5, "high": last.close * 1.6}
    site.play([*candles[:-1], last.model_copy(update=jump)])
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        expect(page.locator("#readout")).to_contain_text("it fell outside")
        plain = page.locator("#chart").screenshot()
        page.locator("#horizon").select_option("5")  # its band of five candles ahead is another
        expect(page.locator("#readout")).to_contain_text("forecast 5 candles before")
        page.locator("#horizon").select_option("1")
        page.keyboard.press("Escape")
        page.locator("#chart").focus()
        page.keyboard.press("l")
        expect(page.locator("#log")).to_have_attribute("aria-pressed", "true")
        assert page.locator("#chart").screenshot() != plain
        page.reload()
        expect(page.locator("#log")).to_have_attribute("aria-pressed", "true")
        assert complaints == []


def test_a_forecast_that_lags_is_faded_and_counted(browser: Browser, site: Site) -> None:
    site.play(walk(90))
    site.show_alone(walk(92)[90:])
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        updated = page.locator("#rows td").last
        expect(updated).to_have_text("2 candles behind")
        site.show_alone(walk(93)[92:])
        expect(updated).to_have_text("3 candles behind")
        expect(page.locator("#back-text")).to_have_text("3 candles behind")
        expect(page.locator("#figures")).to_have_class(re.compile("behind"))
        figures = page.locator("#figures")
        expect(figures).to_contain_text(f"Close then{walk(90)[-1].close:.2f}")
        expect(page.locator("#rows tr")).to_have_class(re.compile("behind"))
        site.play(walk(93)[90:])
        expect(page.locator("#back-text")).to_have_text("now")
        expect(page.locator("#figures")).not_to_have_class(re.compile("behind"))
        expect(figures).to_contain_text(f"Last close{walk(93)[-1].close:.2f}")
        assert complaints == []


def test_shortcuts_have_a_page(browser: Browser, site: Site) -> None:
    with opened(browser, f"{site.url}/dashboard") as (page, _):
        page.keyboard.press("?")
        expect(page.get_by_role("heading", name="Shortcuts")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("heading", name="Shortcuts")).to_be_hidden()
        page.keyboard.press("t")
        page.keyboard.press("g")
        expect(page.locator("#groups")).to_have_value("interval")


def test_each_trouble_is_said_in_its_own_words(browser: Browser, site: Site) -> None:
    site.live.kafka = "broker-1:9092"
    site.play(walk(LENGTH - 1))
    with opened(browser, f"{site.url}/dashboard#NONE/1h") as (page, _):
        trouble = page.locator("#trouble")
        expect(page.locator("#empty-title")).to_have_text("Candles come, forecasts do not yet")
        expect(trouble).to_be_hidden()
        site.play(walk(90)[LENGTH - 1 :])
        page.reload()
        expect(trouble).to_contain_text("The stream has no NONE 1h")
        page.evaluate("location.hash = '#AAPL/1d'")
        expect(trouble).to_be_hidden()
        site.live.since_ms = 1_700_000_000_000
        site.live.connected, site.live.detail = (
            False,
            "Kafka, or one of its topics, is out of reach",
        )
        expect(trouble).to_contain_text(
            "Kafka at broker-1:9092 cannot be reached since 2023-11-14 22:13:20 UTC"
        )
        site.live.detail = "reading the topics' newest messages"
        expect(trouble).to_contain_text("reading the topics' newest messages")
        site.live.connected = True
        expect(trouble).to_be_hidden()
        site.__exit__()
        expect(trouble).to_contain_text("The connection to the API is lost")


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/record", "/dashboard/system"])
def test_every_page_says_what_is_down(browser: Browser, path: str) -> None:
    file, key = create(KeyFile(), "me", (Scope.READ,), None, now_ms=0)
    ring = KeyRing(file.keys, None)
    with Site(free_ports(1)[0], access=AccessRules(keys=lambda: ring)) as site:
        site.live.kafka, site.live.since_ms = "broker-1:9092", 1_700_000_000_000
        site.live.connected, site.live.detail = False, "reading the topics' newest messages"
        site.play(walk(60))
        with opened(browser, f"{site.url}{path}#AAPL/1d") as (page, _):
            state, trouble = page.locator("#state"), page.locator("#trouble")
            expect(state).to_have_text("Key needed")
            page.get_by_label("API key", exact=True).last.fill(key)
            page.get_by_role("button", name="Use it").click()
            expect(trouble).to_contain_text(
                "The API reads what the stream has. It is not done yet: reading", timeout=15_000
            )
            expect(state).to_have_text("Stream down")
            site.live.detail = "Kafka, or one of its topics, is out of reach"
            expect(trouble).to_contain_text(
                "Kafka at broker-1:9092 cannot be reached since 2023-11-14", timeout=15_000
            )
            site.live.connected = True
            expect(trouble).to_be_hidden(timeout=15_000)
            expect(state).to_have_text("Live")
            if not path.endswith("system"):
                expect(page.locator("#title")).to_have_text(re.compile("^AAPL"), timeout=15_000)
            site.__exit__()
            expect(trouble).to_contain_text("The connection to the API is lost", timeout=15_000)
            expect(state).to_have_text("Reconnecting")


def test_scores_are_asked_for_where_they_have_changed(browser: Browser, site: Site) -> None:
    site.play(walk(60))
    asked: list[str] = []
    with opened(browser, "about:blank") as (page, complaints):
        page.on("request", lambda request: asked.append(request.url.removeprefix(site.url)))
        page.goto(f"{site.url}/dashboard")
        expect(page.locator("#coverage-note")).to_contain_text("20 scored")
        for _ in range(3):  # each two seconds: a look at the scores passes without news
            with page.expect_request("**/v1/status"):
                pass
        site.play(walk(61)[60:])
        expect(page.locator("#coverage-note")).to_contain_text("21 scored", timeout=15_000)
        found = [url for url in asked if url.startswith("/v1/scores")]
        assert found[0] == "/v1/scores"
        assert set(found[1:]) == {"/v1/scores?symbols=AAPL"}
        assert complaints == []


def test_the_record_of_a_symbol(browser: Browser, site: Site) -> None:
    site.play(walk(140, symbol="BTC/USD"))
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        page.get_by_role("link", name="Record").click()
        expect(page.locator("#title")).to_have_text("BTC/USD 1d")
        expect(page.locator("#subtitle")).to_have_text(
            "the newest 100 forecasts of 1 candle ahead that have been scored, "
            "2010-02-12 to 2010-05-22"
        )
        expect(page.locator("#drift")).to_contain_text(
            re.compile("It drifts, for \\d+ candles: moves")
        )
        expect(page.locator("#pit div")).to_have_count(10)
        expect(page.locator("#skill-note")).to_contain_text(re.compile("now a skill of .* %, and"))
        expect(page.locator("#misses tr")).to_have_count(10)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download CSV").click()
        assert download.value.suggested_filename == "BTC-USD-1d.csv"
        table = pd.read_csv(download.value.path())
        record = page.evaluate("fetch('/v1/scores/BTC/USD?limit=1000').then(it => it.json())")
        scores = [score for step in record["steps"] for score in step["scores"]]
        assert list(table["pinball"]) == [score["pinball"] for score in scores]
        assert list(table["inside_90"]) == [score["inside"]["90"] for score in scores]
        assert dict(table["step"].value_counts()) == {1: 100, 5: 96, 10: 91}
        worst = max(record["steps"][0]["scores"], key=lambda score: score["pinball"])
        move = 100 * worst["persistence_error"]
        expect(page.locator("#misses td").nth(1)).to_have_text(
            f"{move:+.2f} %".replace("-", "\u2212")
        )
        page.locator("#horizon").select_option("10")
        expect(page.locator("#subtitle")).to_contain_text("91 forecasts of 10 candles ahead")
        page.evaluate("location.hash = ''")
        expect(page.locator("#title")).to_have_text("No symbol is named")
        page.go_back()  # to what has not changed, and is not sent again
        expect(page.locator("#title")).to_have_text("BTC/USD 1d")
        page.keyboard.press("Escape")
        page.locator("#csv").focus()
        page.keyboard.press("r")  # and back
        expect(page).to_have_url(re.compile("/dashboard#BTC%2FUSD/1d$"))
        expect(page.locator("#title")).to_have_text("BTC/USD")
        assert complaints == []


def test_a_record_says_why_it_is_empty(browser: Browser, site: Site) -> None:
    site.play(walk(LENGTH))
    with opened(browser, f"{site.url}/dashboard/record") as (page, _):
        title = page.locator("#title")
        expect(title).to_have_text("No symbol is named")
        page.evaluate("location.hash = '#NONE/1h'")
        expect(title).to_have_text("The stream has no NONE 1h")
        page.evaluate("location.hash = '#AAPL/1d'")
        expect(page.locator("#subtitle")).to_have_text("Nothing of it has been scored yet.")
        expect(page.locator("#trouble")).to_be_hidden()
        site.play(walk(LENGTH + 3)[LENGTH:])
        expect(page.locator("#skill-note")).to_contain_text(
            "50 scores are needed, 3 are there", timeout=20_000
        )  # it looks each five seconds


def test_the_system_in_words(browser: Browser, site: Site) -> None:
    site.live.kafka = "broker-1:9092"
    with opened(browser, f"{site.url}/dashboard/system") as (page, complaints):
        processes = page.locator("#processes tr")
        expect(processes.nth(1)).to_contain_text("no candle has come yet")
        expect(page.locator("#drift")).to_contain_text("Too little has been scored to say.")
        expect(page.locator("#refused-note")).to_contain_text("Every message")
        expect(page.locator("#models td").first).to_have_text("persistence")
        site.play(walk(100))
        half_hour_ago = time.time_ns() // 1_000_000 - 1_800_000
        for at in range(3):
            site.live.pulse.note("candles", half_hour_ago + at * 15_000)
        site.live.pulse.see_lag(7, half_hour_ago)
        place = Place("candles", 3, 17)
        site.live.pulse.refuse(
            place, half_hour_ago, "invalid_price", "high: expected <b>at least</b> low"
        )
        page.reload()
        expect(processes.nth(0)).to_contain_text("answers at broker-1:9092")
        expect(processes.nth(1)).to_contain_text("candles come")
        expect(processes.nth(2)).to_contain_text("every series has the forecast")
        expect(processes.nth(3)).to_contain_text("outcomes are scored")
        expect(page.locator("#rates-note")).to_contain_text(
            re.compile(r"newest minute of the stream \d+ candles, \d+ forecasts and \d+ messages")
        )
        expect(page.locator("#rates canvas").first).to_be_visible()
        drift = page.locator("#drift")  # summaries are reused for 2 s, and asked for each 5 s
        expect(drift).to_contain_text("1d: 1 of its 1 series drift", timeout=15_000)
        expect(page.locator("#refused tr")).to_have_text(
            "invalid_price130 min agocandles, partition 3, offset 17"
            "high: expected <b>at least</b> low"
        )
        site.show_alone(walk(101)[100:])
        page.reload()
        expect(processes.nth(2)).to_contain_text("1 of 1 series wait for a forecast")
        site.live.connected = False
        site.live.detail = "Kafka, or one of its topics, is out of reach"
        page.reload()
        expect(processes.nth(0)).to_contain_text("out of reach, since")
        expect(processes.nth(2)).to_contain_text("not seen")
        expect(page.locator("#trouble")).to_contain_text("Kafka at broker-1:9092 cannot be reached")
        assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(browser: Browser, site: Site, scheme: str) -> None:
    site.play(walk(100))
    options = {"color_scheme": scheme, "reduced_motion": "reduce", "bypass_csp": True}
    with opened(browser, f"{site.url}/dashboard", **options) as (page, _):

        def look(path: str, sign: str) -> None:
            if path:
                page.goto(site.url + path)
            expect(page.locator(sign).first).to_be_visible()
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()

        look("", "#coverages tr")
        page.keyboard.press("g")
        page.keyboard.press("?")
        look("", "#keys-dialog")
        look("/dashboard/record#AAPL/1d", "#misses td")
        site.live.pulse.refuse(Place("candles", 3, 17), 0, "invalid_price", "high")
        look("/dashboard/system", "#refused td")
        site.live.connected = False
        look("/dashboard", "#trouble")
        look("/dashboard/system", "#trouble")


def test_light_and_dark_are_switched_by_keyboard_and_kept(browser: Browser, site: Site) -> None:
    with opened(browser, f"{site.url}/dashboard", color_scheme="light") as (page, _):
        button = page.get_by_role("button", name="Switch between light and dark")
        for _ in range(8):  # past the link that skips and those to other pages
            if button.evaluate("it => it === document.activeElement"):
                break
            page.keyboard.press("Tab")
        expect(button).to_be_focused()
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(ring) == "solid"
        page.keyboard.press("Enter")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


SCROLL: Final = """async () => {
  const scroller = document.querySelector("#symbols .scroll");
  const frames = [];
  let before = await new Promise(requestAnimationFrame);
  for (let at = 0; at < 60; at += 1) {
    scroller.scrollTop = (at + 1) * (scroller.scrollHeight / 60);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    before = now;
  }
  return frames.sort((a, b) => a - b);
}"""
"""Scrolls through the table in a second; gives the times between its frames, ms, rising."""


def test_5000_symbols_sort_filter_scroll_and_obey_the_keyboard(
    browser: Browser, site: Site
) -> None:
    names = [f"S{number:04}" for number in range(5_000)]
    candles = walk(LENGTH, symbol="S0000", start=50.0)
    site.play(candles)
    site.copy(candles[-1], names[1:])
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        expect(page.locator("#count")).to_have_text("5,000")
        drawn = page.locator("#rows tr")
        assert drawn.count() < 60  # those in sight
        assert symbols(page) == names[: drawn.count()]
        page.get_by_role("button", name="Last").click()
        page.get_by_role("button", name="Last").click()
        expect(drawn.first).to_contain_text("S4999")
        frames = page.evaluate(SCROLL)
        assert frames[len(frames) // 2] < 50  # ms; 17 where nothing else runs
        expect(drawn.last).to_contain_text("S0000")
        page.locator("#groups").select_option("interval")
        page.keyboard.press("Escape")
        page.evaluate("document.querySelector('#symbols .scroll').scrollTop = 0")
        expect(drawn.first).to_have_text("1d · 5,000")
        page.locator("#groups").select_option("none")
        page.get_by_role("button", name="Symbol").click()
        page.keyboard.press("/")
        page.keyboard.type("s004")
        expect(drawn).to_have_count(10)
        expect(page.locator("#count")).to_have_text("10 of 5,000")
        drawn.first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#title")).to_have_text("S0041")
        page.keyboard.press("j")
        expect(page.locator("#title")).to_have_text("S0042")
        page.locator("#filter").fill("nothing like it")
        expect(page.locator("#none")).to_have_text("No symbol matches.")
        page.locator("#filter").fill("")
        drawn.first.focus()
        page.keyboard.press("End")
        expect(page.locator(":focus")).to_contain_text("S4999")
        assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_light_and_dark(browser: Browser, site: Site, scheme: str) -> None:
    site.play(walk(90))
    options = {"viewport": PHONE, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    with opened(browser, f"{site.url}/dashboard", **options) as (page, complaints):
        expect(page.locator("#title")).to_have_text("AAPL")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"]
        for number in (1, 3, 4, 6):  # symbol, expected move, against usual, risk
            box = page.locator(f"#rows td:nth-child({number})").bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= PHONE["width"]
        assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("path", "sign"),
    [("", "#coverages tr"), ("/record#AAPL/1d", "#misses td"), ("/system", "#models td")],
)
def test_axe_finds_no_fault_on_a_phone(
    browser: Browser, site: Site, scheme: str, path: str, sign: str
) -> None:
    site.play(walk(100))
    options = {"viewport": PHONE, "color_scheme": scheme, "is_mobile": True, "bypass_csp": True}
    url = f"{site.url}/dashboard{path}"
    with opened(browser, url, reduced_motion="reduce", **options) as (page, _):
        expect(page.locator(sign).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_a_key_is_asked_for_once(browser: Browser) -> None:
    file, key = create(KeyFile(), "me", (Scope.READ,), None, now_ms=0)
    ring = KeyRing(file.keys, None)
    with Site(free_ports(1)[0], access=AccessRules(keys=lambda: ring)) as site:
        site.play(walk(60))
        with opened(browser, f"{site.url}/dashboard") as (page, _):
            page.get_by_label("API key", exact=True).last.fill(key)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#state")).to_have_text("Live")
            expect(page.locator("#title")).to_have_text("AAPL")


def test_the_documentation_needs_nothing_from_elsewhere(browser: Browser, site: Site) -> None:
    asked: list[str] = []
    with opened(browser, "about:blank") as (page, complaints):
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{site.url}/docs")
        expect(page.get_by_text("/v1/forecasts").first).to_be_visible()
        assert all(url.startswith((site.url, "data:")) for url in asked)
        assert complaints == []
