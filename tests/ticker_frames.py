"""Frames of Yahoo's websocket of ticks, good and bad, and scripts that send them."""

from __future__ import annotations

import base64
import json
from datetime import date

from aiohttp import web
from yfinance.pricing_pb2 import PricingData

from producer.yahoo.ticks import Tick
from tests.new_york import at

DAY = date(2026, 11, 4)
OPEN_MS = at(DAY, 12)


def tick(second: float, price: float, day_volume: int = 0, symbol: str = "AAPL") -> Tick:
    return Tick(symbol, OPEN_MS + int(second * 1000), price, day_volume)


def frame(tick: Tick, **changed: object) -> str:
    fields = {"id": tick.symbol, "price": tick.price, "time": tick.at_ms}
    quote = PricingData(**(fields | {"day_volume": tick.day_volume} | changed))
    message = base64.b64encode(quote.SerializeToString()).decode()
    return json.dumps({"type": "pricing", "message": message})


GARBAGE = (
    "not JSON", "{}", "[]", "null", '{"message": 5}', '{"message": "???"}',
    json.dumps({"message": base64.b64encode(b"\xff\xff\xff").decode()}),
    frame(tick(1, 10.0), price=0), frame(tick(1, 10.0), id=""), frame(tick(1, 10.0), time=0),
)  # fmt: skip


ONE, TWO = tick(1, 10.0, 5), tick(2, 11.0, 6)


async def says_two(socket: web.WebSocketResponse) -> None:
    await socket.send_str(frame(TWO))


async def aborts(socket: web.WebSocketResponse) -> None:
    transport = socket._req.transport if socket._req is not None else None
    assert transport is not None
    transport.abort()


async def closes(socket: web.WebSocketResponse) -> None:
    await socket.send_str(frame(ONE))
    await socket.close()


async def falls_silent(socket: web.WebSocketResponse) -> None:
    await socket.send_str(frame(ONE))


async def raves(socket: web.WebSocketResponse) -> None:
    for text in GARBAGE:
        await socket.send_str(text)
    await socket.send_bytes(b"\x00\x01")
    await socket.send_str(frame(ONE))
    await socket.close()
