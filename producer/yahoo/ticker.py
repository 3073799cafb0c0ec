"""Yahoo's websocket of ticks: connects, subscribes, decodes, and reconnects after any end."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from enum import Enum
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from yfinance.pricing_pb2 import PricingData

from producer.yahoo.gate import Backoff
from producer.yahoo.ticks import Tick
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)

URL: Final = "wss://streamer.finance.yahoo.com/?version=2"

SUBSCRIBE_S: Final = 15.0
"""Time between subscriptions: Yahoo forgets one that is not repeated."""

BAD_FRAME: Final = (ValueError, LookupError, TypeError, DecodeError)
"""Errors of decoding a frame that does not hold a tick."""

_BEAT_S: Final = 1.0
_OPEN_S: Final = 10.0


class StreamEvent(Enum):
    """An event of the stream beside ticks."""

    CONNECTED = "connected"  # ticks from now on are complete
    BEAT = "beat"  # a second has passed
    LOST = "lost"  # ticks may be missing from now on


class TickStream:
    """Streams the ticks of some symbols; it never ends by itself."""

    def __init__(
        self,
        symbols: Sequence[str],
        metrics: ProducerMetrics,
        *,
        proxy: str | None = None,
        ca_bundle: Path | None = None,
        idle_s: float,
        first_pause_s: float = 1.0,
    ) -> None:
        """Prepare only; ``events`` connects.

        Args:
            symbols: to subscribe to.
            metrics: counts ticks and lost connections.
            proxy: URL of a proxy on the way to Yahoo.
            ca_bundle: PEM file of the authorities to trust instead of the usual ones.
            idle_s: a connection that is silent for so long counts as lost, though its exchange
                may be closed.
            first_pause_s: pause before the first new connection, which doubles up to a minute.
        """
        self._symbols = sorted(symbols)
        self._metrics = metrics
        self._proxy = proxy
        self._tls = ssl.create_default_context(cafile=ca_bundle)
        self._idle_s = idle_s
        self._backoff = Backoff(first_pause_s, 60.0)

    async def events(self) -> AsyncGenerator[Tick | StreamEvent, None]:
        """Yield ticks and stream events; between two ticks a beat each second."""
        while True:
            try:
                async with self._connected() as socket, aclosing(self._received(socket)) as events:
                    yield StreamEvent.CONNECTED
                    async for event in events:
                        yield event
            except (OSError, WebSocketException, TimeoutError) as error:
                log.warning("live stream lost: %s: %s", type(error).__name__, error)
            self._metrics.ticks.labels("lost").inc()
            yield StreamEvent.LOST
            await asyncio.sleep(self._backoff.failed())

    def _connected(self) -> connect:
        return connect(
            URL,
            ssl=self._tls,
            proxy=self._proxy or True,  # True: as the environment says
            open_timeout=_OPEN_S,
            close_timeout=1.0,
            max_size=1 << 20,
        )

    async def _received(self, socket: ClientConnection) -> AsyncGenerator[Tick | StreamEvent, None]:
        loop = asyncio.get_running_loop()
        subscribe_s = received_s = beat_s = loop.time()
        while True:
            if loop.time() >= beat_s:
                beat_s = loop.time() + _BEAT_S
                yield StreamEvent.BEAT
            if loop.time() >= subscribe_s:
                await socket.send(json.dumps({"subscribe": self._symbols}))
                subscribe_s = loop.time() + SUBSCRIBE_S
            try:
                frame = await asyncio.wait_for(socket.recv(), _BEAT_S)
            except TimeoutError:
                if loop.time() - received_s > self._idle_s:
                    raise TimeoutError(f"silent for {self._idle_s:g} s") from None
                continue
            tick = self._decode(frame)
            if tick is not None:
                received_s = loop.time()
                self._backoff.reset()
                yield tick

    def _decode(self, frame: str | bytes) -> Tick | None:
        try:
            tick = decode(frame)
        except BAD_FRAME as error:
            self._metrics.ticks.labels("unreadable").inc()
            log.debug("unreadable frame: %s", error)
            return None
        self._metrics.ticks.labels("ok").inc()
        return tick


def decode(frame: str | bytes) -> Tick:
    """Return the tick in a frame; raises one of ``BAD_FRAME`` for any other content."""
    message = json.loads(frame)["message"]
    make: Any = PricingData
    quote = make.FromString(base64.b64decode(message, validate=True))
    if not quote.id or not quote.price > 0 or not quote.time:
        raise ValueError("expected id, price and time")
    return Tick(quote.id, int(quote.time), float(quote.price), int(quote.day_volume))
