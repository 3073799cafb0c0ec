"""Measures the dashboard in Chromium with thousands of symbols: frames, waits, and what it loads.

An API in this process has a forecast of every symbol, and scores of each. Chromium opens the
dashboard, scrolls, sorts and filters its table; then a part of the symbols gets a candle and a
forecast each second, and after that there is silence. ``frames`` are times between them, ms; bytes
are those on the wire. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect, sync_playwright

from local.ports import free_ports
from shared.candles import DAY_MS
from tests.candles import walk
from tests.dashboard_site import Site, opened
from tests.integration.conftest import FLAGS

HISTORY: Final = 100
"""Candles of the first symbol, which all others are copies of."""

SOME: Final = 500
"""Symbols that come in at once; the first of these have scores, which take long to make."""

LOAD_MS: Final = 60_000
"""Longest time that the page gets to show all symbols."""

SCROLL: Final = """async () => {
  const scroller = document.querySelector("#symbols .scroll");
  const frames = [];
  let before = await new Promise(requestAnimationFrame);
  for (let at = 0; at < 120; at += 1) {
    scroller.scrollTop = (at + 1) * (scroller.scrollHeight / 120);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    before = now;
  }
  return frames;
}"""
"""Scrolls through the table in 120 frames; gives the times between them."""

WATCH: Final = """() => {
  window.frames_ = [];
  let before = performance.now();
  const see = (now) => { frames_.push(now - before); before = now; requestAnimationFrame(see); };
  requestAnimationFrame(see);
}"""

ACT: Final = """async (act) => {
  const began = performance.now();
  const rows = document.querySelector("#rows");
  const first = rows.textContent;
  if (act === "sort") document.querySelector("#head button").click();
  else {
    document.querySelector("#filter").value = act;
    document.querySelector("#filter").dispatchEvent(new Event("input"));
  }
  while (rows.textContent === first) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""
"""Turns the order of all rows, or filters them; gives the time until others are shown."""


def spread(frames: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and largest of times, ms."""
    ordered = sorted(frames)
    at = {"p50": len(ordered) // 2, "p99": int(len(ordered) * 0.99), "most": len(ordered) - 1}
    return {name: round(ordered[index], 1) for name, index in at.items()}


class Wire:
    """Bytes and answers that a page has had, by path, by Chromium's own count."""

    def __init__(self, page: Page) -> None:
        self._paths: dict[str, str] = {}
        self._bytes: Counter[str] = Counter()
        session = page.context.new_cdp_session(page)
        session.on("Network.requestWillBeSent", self._sent)
        session.on("Network.dataReceived", self._data)
        session.on("Network.loadingFinished", self._done)
        session.send("Network.enable")
        self._streamed: Counter[str] = Counter()

    def _sent(self, event: dict[str, Any]) -> None:
        self._paths[event["requestId"]] = urlsplit(event["request"]["url"]).path

    def _data(self, event: dict[str, Any]) -> None:
        self._streamed[event["requestId"]] += event["dataLength"]

    def _done(self, event: dict[str, Any]) -> None:
        self._streamed.pop(event["requestId"], None)
        self._bytes[self._paths.get(event["requestId"], "?")] += int(event["encodedDataLength"])

    def take(self) -> dict[str, int]:
        """Return the bytes since the last call, most first; of what is still coming its data."""
        found = self._bytes.copy()
        for request, size in self._streamed.items():
            found[self._paths.get(request, "?")] += size
        self._bytes.clear()
        self._streamed.clear()
        return dict(found.most_common(8))


def run(symbols: int, each_second: int, live_s: int, quiet_s: int) -> dict[str, Any]:
    """Return the figures of one visit."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise FileNotFoundError("Chromium is not installed: apt-get install chromium")
    names = [f"S{number:05}" for number in range(symbols)]
    candles = walk(HISTORY, symbol=names[0])
    found: dict[str, Any] = {"symbols": symbols}
    with Site(free_ports(1)[0]) as site, sync_playwright() as driver:
        site.play(candles)
        for first in range(1, symbols, SOME):
            site.copy(candles[-1], names[first : first + SOME], scored=first == 1)
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        with opened(browser, "about:blank") as (page, complaints):
            wire = Wire(page)
            began_s = time.monotonic()
            page.goto(f"{site.url}/dashboard")
            expect(page.locator("#count")).to_have_text(f"{symbols:,}", timeout=LOAD_MS)
            found["seconds_to_all_rows"] = round(time.monotonic() - began_s, 2)
            expect(page.locator("#rows td", has_text=" \u00d7").first).to_be_visible(
                timeout=LOAD_MS
            )
            found["seconds_to_all_scores"] = round(time.monotonic() - began_s, 2)
            found["bytes_loaded"] = wire.take()
            found["scroll_frames_ms"] = spread(page.evaluate(SCROLL))
            found["sort_ms"] = round(page.evaluate(ACT, "sort"), 1)
            found["filter_ms"] = round(page.evaluate(ACT, names[-1][:3]), 1)
            page.evaluate(ACT, "")
            wire.take()
            page.evaluate(WATCH)
            last = candles[-1]
            for second in range(live_s):
                last = last.model_copy(
                    update={"open_ms": last.open_ms + DAY_MS, "close_ms": last.close_ms + DAY_MS}
                )
                first = second * each_second % (symbols - each_second) + 1
                site.play([last])
                site.copy(last, names[first : first + each_second])
                page.wait_for_timeout(1_000)
            found["live"] = {
                "candles_a_second": each_second,
                "frames_ms": spread(page.evaluate("frames_.splice(0)")),
                "bytes_a_minute": _a_minute(wire.take(), live_s),
            }
            page.wait_for_timeout(12_000)  # the last scores are requested
            wire.take()
            page.wait_for_timeout(1_000 * quiet_s)
            found["silence"] = {"bytes_a_minute": _a_minute(wire.take(), quiet_s)}
            found["heap_mb"] = round(page.evaluate("performance.memory.usedJSHeapSize") / 1e6, 1)
            found["complaints"] = complaints
        browser.close()
    return found


def _a_minute(sizes: dict[str, int], seconds: float) -> dict[str, int]:
    return {path: round(size * 60 / seconds) for path, size in sizes.items()}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks page", description=__doc__)
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--each-second", type=int, default=100, help="symbols with a candle")
    parser.add_argument("--live", type=int, default=20, help="seconds with candles")
    parser.add_argument("--quiet", type=int, default=20, help="seconds without")
    options = parser.parse_args(argv)
    try:
        found = run(options.symbols, options.each_second, options.live, options.quiet)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0
