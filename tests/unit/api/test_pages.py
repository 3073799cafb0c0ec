"""The pages load what was tested, and nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from typing import Final

import pytest

from api.pages import load_assets
from tests.unit.api.client import application, call

THIRD_PARTY: Final = {
    "dashboard.html": {"lightweight-charts.js"},
    "record.html": {"lightweight-charts.js"},
    "system.html": {"lightweight-charts.js"},
    "docs.html": {"swagger-ui-bundle.js", "swagger-ui.css"},
}


@pytest.mark.parametrize("page", THIRD_PARTY)
def test_scripts_of_others_are_pinned_by_hash(page: str) -> None:
    """A browser does not run what has another hash; a new version of a package needs a new one."""
    assets = load_assets()
    text = assets[page].content.decode()
    pinned = dict(re.findall(r'/assets/([\w.-]+)" integrity="sha384-([^"]+)"', text))
    assert pinned.keys() == THIRD_PARTY[page]
    for name, digest in pinned.items():
        found = hashlib.sha384(assets[name].content).digest()
        assert base64.b64encode(found).decode() == digest, name


def test_pages_are_light_and_name_no_other_host() -> None:
    """All that a page of ours may load is below 300 kB as it is sent."""
    assets = load_assets()
    ours = {name: one for name, one in assets.items() if not name.startswith("swagger-ui")}
    sent = sum(len(gzip.compress(one.content)) for one in ours.values())
    assert sent < 300_000
    for name in ours.keys() - {"lightweight-charts.js", "icon.svg"}:
        hosts = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", ours[name].content.decode()))
        assert hosts <= {"https://www.tradingview.com"}  # a link, which nothing is loaded from


@pytest.mark.parametrize(
    ("path", "seconds"),
    [
        ("/dashboard", 0),
        ("/dashboard/record", 0),
        ("/dashboard/system", 0),
        ("/assets/dashboard.js", 300),
        ("/assets/lightweight-charts.js", 300),
    ],
)
def test_a_browser_loads_a_file_once_in_gzip(path: str, seconds: int) -> None:
    app = application()
    first = call(app, "GET", path, headers={"accept-encoding": "gzip, deflate, br"})
    assert first.headers["content-encoding"] == "gzip"
    assert first.headers["cache-control"] == f"max-age={seconds}, must-revalidate"
    known = {"accept-encoding": "gzip", "if-none-match": first.headers["etag"]}
    again = call(app, "GET", path, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
