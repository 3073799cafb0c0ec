"""A site for tests: the API over real sockets, with a stream that the test plays, and a browser."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Self

from playwright.sync_api import Browser, ConsoleMessage, Page
from prometheus_client import CollectorRegistry

from api.app import Options, create_app
from api.edge.server import Server, SocketLimits, make_config
from api.stream.cursors import Origin
from api.stream.follower import StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from local.ports import HOST
from shared.candles import Candle
from shared.forecaster import ModelSet
from shared.metrics import ApiMetrics
from tests.forecasters import PersistenceForecaster
from tests.streams import Stream

LENGTH: Final = 40
WIDE: Final = {"width": 1360, "height": 900}
PHONE: Final = {"width": 390, "height": 844}


class Site:
    """The API in a thread, with a stream that the test plays."""

    def __init__(self, port: int, **options: Any) -> None:
        self.live = StreamView(Market(), Hub(), connected=True, detail="following", lag=0)
        self.url = f"http://{HOST}:{port}"
        self.forecaster = PersistenceForecaster(LENGTH)
        self._worker = Stream(ModelSet(self.forecaster))
        self._read = [0, 0, 0]  # candles, forecasts, scores
        self.live.topics = ("candles", "forecasts", "scores")
        self.live.hub.begin(self.live.topics, self._read, self._read)
        registry = CollectorRegistry()
        app = create_app(
            ModelSet(self.forecaster),
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
        forecasts, scores = len(self._worker.forecasts), len(self._worker.scores)
        self._worker.take(*candles)
        self._show(candles, forecasts, scores, lag_ms)

    def show_alone(self, candles: list[Candle]) -> None:
        """Let candles come in that the worker does not see."""
        self._show(candles, len(self._worker.forecasts), len(self._worker.scores))

    def _show(self, candles: list[Candle], forecasts: int, scores: int, lag_ms: int = 12) -> None:
        """Let candles, and what the worker made from some numbers on, come in."""
        assert self._loop is not None
        done = threading.Event()
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

    def copy(self, candle: Candle, others: list[str], *, scored: bool = False) -> None:
        """Let a candle and the newest forecast come in for other symbols, each dearer.

        With ``scored`` all scores so far come in for each of them too.
        """
        made, candles = self._worker.forecasts[-1], []
        known, settled = len(self._worker.scores), list(self._worker.scores if scored else ())
        for number, symbol in enumerate(others, 1):
            close = made.last_close + number / 100
            update = {"symbol": symbol, "id": f"{number:032x}", "last_close": close}
            self._worker.forecasts.append(made.model_copy(update=update))
            candles.append(candle.model_copy(update={"symbol": symbol}))
            self._worker.scores += [one.model_copy(update={"symbol": symbol}) for one in settled]
        self._show(candles, len(self._worker.forecasts) - len(others), known)

    def _next(self, part: int) -> Origin:
        self._read[part] += 1
        self.live.pulse.note(self.live.topics[part], time.time_ns() // 1_000_000)
        return part, self._read[part] - 1


class Place(NamedTuple):
    """Where a message stands."""

    topic: str
    partition: int
    offset: int


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
