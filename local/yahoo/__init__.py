"""A local stand-in of Yahoo, for tests, benchmarks and demos without internet.

The real yfinance client requests its usual URLs; a proxy and a certificate authority, both
ordinary settings of the producer, lead it here. The clock is an argument.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from local.yahoo import authority
from local.yahoo.market import Listing
from local.yahoo.proxy import TunnelProxy
from local.yahoo.server import Fault, YahooServer
from shared.process import now_ms as real_now_ms

__all__ = ["Fault", "Listing", "YahooStandIn", "real_now_ms"]


class YahooStandIn:
    """Server and proxy in a thread of their own; use as a context manager."""

    def __init__(self, *listings: Listing, now_ms: Callable[[], int] = real_now_ms) -> None:
        """Prepare only; entering the context listens on free ports."""
        self.server = YahooServer({listing.symbol: listing for listing in listings}, now_ms)
        self.ca_bundle = Path()
        self.proxy_url = ""
        self._folder = tempfile.TemporaryDirectory(prefix="yahoo-")
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="yahoo", daemon=True)
        self._proxy: TunnelProxy | None = None

    def __enter__(self) -> Self:
        tls, self.ca_bundle = authority.make(Path(self._folder.name))
        self._thread.start()
        self._run(self.server.start(tls))
        self._proxy = TunnelProxy(self.server.port)
        self._run(self._proxy.start())
        self.proxy_url = f"http://127.0.0.1:{self._proxy.port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._proxy is not None:
            self._run(self._proxy.stop())
        self._run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._folder.cleanup()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
