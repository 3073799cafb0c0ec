"""Resets the global state of yfinance 1.7 between tests."""

from __future__ import annotations

from typing import Any

from yfinance import base, cache
from yfinance.data import SingletonMeta, YfData


def forget() -> None:
    """Forget the client, its answers, its caches and its counter of failures."""
    singletons: Any = SingletonMeta
    singletons._instances.clear()
    clear: Any = YfData.cache_get.cache_clear
    clear()
    base._tz_info_fetch_ctr = 0
    managers: Any = cache
    managers._TzCacheManager._tz_cache = None
    managers._CookieCacheManager._Cookie_cache = None
