#!/usr/bin/env python
"""Takes pictures in docs/images: dashboard, record and system, over the running demo.

``make screenshots`` needs Chromium: ``apt-get install chromium`` on Debian.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # a script has only its own folder on the path

from local.ports import HOST, free_ports  # noqa: E402

FOLDER: Final = ROOT / "docs" / "images"
FLAGS: Final = (
    "--no-sandbox",  # Chromium as root, in a container
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
Scheme = Literal["light", "dark"]

SIZE: Final = {"width": 1280, "height": 1130}

SYMBOLS: Final = ("AAPL", "GOOG", "IBM", "MSFT")
"""Symbols that the dashboard lists before the pictures are taken."""

PAGES: Final = {
    "dashboard": ("/dashboard#AAPL/1d", "#skills dd"),
    "record": ("/dashboard/record#AAPL/1d", "#misses tr"),
    "system": ("/dashboard/system", "#models tr"),
}
"""Pictures by name: the address, and what is there once the page is."""

SCHEMES: Final[dict[str, tuple[Scheme, ...]]] = {
    "dashboard": ("light", "dark"),
    "record": ("light",),
    "system": ("light",),
}

LATE_S: Final = 600.0
"""Longest time that the demo gets to replay its candles."""


def main() -> int:
    """Run the demo, take the pictures and return the exit code."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("Chromium is not installed: apt-get install chromium", file=sys.stderr)
        return 1
    port = free_ports(1)[0]
    url = f"http://{HOST}:{port}"
    flags = ["--api-port", str(port), "--speed", "150"]
    with tempfile.TemporaryFile() as log:
        demo = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "local", *flags], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            _wait_until_replayed(port, demo)
            _take(url, chromium)
        finally:
            demo.terminate()
            demo.wait(60)
    return 0


def _wait_until_replayed(port: int, demo: subprocess.Popen[bytes]) -> None:
    """Wait until the newest forecasts stop changing, so that scores and bands are complete."""
    deadline = time.monotonic() + LATE_S
    before = b""
    while time.monotonic() < deadline and demo.poll() is None:
        time.sleep(3)
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/v1/forecasts", timeout=5) as got:
                newest = got.read()
        except OSError:
            continue
        if newest == before and all(symbol.encode() in newest for symbol in SYMBOLS):
            return
        before = newest
    raise RuntimeError("the demo ended, or did not replay its candles in time")


def _take(url: str, chromium: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for name, (address, sign) in PAGES.items():
            for scheme in SCHEMES[name]:
                page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
                page.goto(url + address)
                page.locator(sign).first.wait_for()
                page.wait_for_timeout(2_000)  # for the chart
                path = FOLDER / f"{name}-{scheme}.png"
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
                few.save(path, optimize=True)
                print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size // 1024} kB")
                page.close()
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
