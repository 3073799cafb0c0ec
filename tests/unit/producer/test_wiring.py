"""A replay does without Yahoo's libraries, which take a second and 100 MB to import."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("curl_cffi", "exchange_calendars", "peewee", "yfinance")
CODE = f"""
import sys
import producer.__main__
print([name for name in {HEAVY} if name in sys.modules])
"""


def test_the_producer_starts_without_yahoos_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
