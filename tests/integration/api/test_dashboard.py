"""The dashboard in a real Chromium, over real sockets."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final, Self

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from prometheus_client import CollectorRegistry

from api.app import Options, create_app
from api.edge.access import AccessRules
from api.edge.keys import KeyFile, KeyRing, Scope, create
from api.edge.server import Server, SocketLimits, make_config
from api.stream.cursors import Origin
from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from local.ports import HOST, free_ports
from shared.candles import Candle
from shared.forecaster import ModelSet
from shared.metrics import ApiMetrics
from tests.candles import walk
from tests.forecasters import PersistenceForecaster
from tests.integration.api.test_stream import get, make_topics, publish, settings_of, start
from tests.integration.processes import Processes, wait_until
from tests.streams import Stream

pytestmark = pytest.mark.integration

LENGTH: Final = 40
WIDE: Final = {"width": 1360, "height": 900}
PHONE: Final = {"width": 390, "height": 844}


class Site:
    """The API in a thread, with a stream that the test plays."""

    def __init__(self, port: int, **options: Any) -> None:
        self.live = StreamView(Market(), Hub(), connected=True, detail="following", lag=0)
        self.url = f"http://{HOST}:{port}"
        self._forecaster = PersistenceForecaster(LENGTH)
        self._worker = Stream(ModelSet(self._forecaster))
        self._read = [0, 0, 0]  # candles, forecasts, scores
        self.live.hub.begin(("candles", "forecasts", "scores"), self._read, self._read)
        registry = CollectorRegistry()
        app = create_app(
            ModelSet(self._forecaster),
            ApiMetrics(registry),
            registry,
            Options(live=self.live, **options),
        )
        self._config = make_config(app, SocketLimits())
        self._config.host, self._config.port = HOST, port
        self._server = Server(self._config, self.live.hub.close)
        self._thread = threading.Thread(target=self._run)
        self._loop: asyncio.AbstractEventLoop | None = None

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve()

        asyncio.run(serve())

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "the site does not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)

    def play(self, candles: list[Candle], *, lag_ms: int = 12) -> None:
        """Let candles, and the forecasts and scores made at them, come in."""
        assert self._loop is not None
        done = threading.Event()
        forecasts, scores = len(self._worker.forecasts), len(self._worker.scores)
        self._worker.take(*candles)
        market, now_ms = self.live.market, time.time_ns() // 1_000_000

        def take() -> None:
            for candle in candles:
                origin = self._next(0)
                self.live.hub.publish(origin, market.add_candle(candle, now_ms, origin))
            for made in self._worker.forecasts[forecasts:]:
                origin = self._next(1)
                timed = made.model_copy(update={"made_at_ms": now_ms})
                event = market.add_forecast(timed, now_ms + lag_ms, origin)
                self.live.hub.publish(origin, event)
            for settled in self._worker.scores[scores:]:
                origin = self._next(2)
                self.live.hub.publish(origin, market.add_scores(settled, origin))
            done.set()

        self._loop.call_soon_threadsafe(take)
        assert done.wait(30)

    def _next(self, part: int) -> Origin:
        self._read[part] += 1
        return part, self._read[part] - 1


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    """Open a page; give it, and a list that collects what its console complains of."""
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    context = browser.new_context(**({"viewport": WIDE} | options))
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    try:
        yield page, complaints
    finally:
        context.close()


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
        expected = float(move.removeprefix("± ").removesuffix(" %")) / 100
        assert float(usual.removesuffix(" \u00d7")) == pytest.approx(expected / mean, abs=0.06)
        assert page.url.endswith("#AAPL/1d")
        assert complaints == []


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(browser: Browser, site: Site, scheme: str) -> None:
    site.play(walk(100))
    options = {"color_scheme": scheme, "reduced_motion": "reduce", "bypass_csp": True}
    with opened(browser, f"{site.url}/dashboard", **options) as (page, _):
        expect(page.locator("#coverages tr")).to_have_count(3)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        site.live.connected = False
        expect(page.locator("#trouble")).to_be_visible()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_light_and_dark_are_switched_by_keyboard_and_kept(browser: Browser, site: Site) -> None:
    with opened(browser, f"{site.url}/dashboard", color_scheme="light") as (page, _):
        for _ in range(3):  # past the link that skips and the one to the documents
            page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Switch between light and dark")).to_be_focused()
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(ring) == "solid"
        page.keyboard.press("Enter")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_500_symbols_sort_filter_and_obey_the_keyboard(browser: Browser, site: Site) -> None:
    names = [f"S{number:03}" for number in range(500)]
    for number, name in enumerate(names):
        site.play(walk(LENGTH + 2, symbol=name, start=50.0 + number))
    with opened(browser, f"{site.url}/dashboard") as (page, complaints):
        expect(page.locator("#rows tr")).to_have_count(500)
        assert symbols(page) == names
        page.get_by_role("button", name="Last").click()
        page.get_by_role("button", name="Last").click()
        assert symbols(page) == names[::-1]
        page.keyboard.press("/")
        page.keyboard.type("s04")
        expect(page.locator("#rows tr")).to_have_count(10)
        expect(page.locator("#count")).to_have_text("10 of 500")
        page.locator("#rows tr").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#title")).to_have_text("S048")
        page.locator("#filter").fill("nothing like it")
        expect(page.locator("#none")).to_have_text("No symbol matches.")
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
        assert complaints == []


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
