"""The documentation as a site: built without a warning, its links lead somewhere, its search finds.

``docs/website.py`` builds it as ``make site`` does, in the repository's own ``build`` folder.
"""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from docs import website
from docs.website import ROOT, SITE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


class Page(HTMLParser):
    """Collects a page's anchors, its links, and what a browser loads with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag in {"img", "script", "source"}:
            self.loaded |= {given[name] for name in ("src", "srcset") if name in given}
        elif tag == "link" and given.get("rel") in {"stylesheet", "icon", "preload"}:
            self.loaded.add(given["href"])


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    """The pages of the site, built strictly: a warning ends the build."""
    done = subprocess.run(
        [sys.executable, "docs/website.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stderr
    return {path: Page(path.read_text()) for path in SITE.rglob("*.html")}


def target(page: Path, link: str) -> Path:
    """Return the file that a link on a page leads to."""
    path = unquote(urlsplit(link).path)
    found = SITE / path.lstrip("/") if path.startswith("/") else page.parent / path
    found = found.resolve() if path else page
    return found / "index.html" if found.is_dir() else found


def test_every_link_leads_to_a_page_and_an_anchor(pages: dict[Path, Page]) -> None:
    lost = []
    for path, page in pages.items():
        for link in page.links | page.loaded:
            if urlsplit(link).scheme in {"http", "https", "mailto"}:
                continue
            to, anchor = target(path, link), unquote(urlsplit(link).fragment)
            known = pages[to].anchors if to in pages else {anchor}
            if not to.exists() or (anchor and anchor not in known):
                lost.append(f"{path.relative_to(SITE)}: {link}")
    assert lost == []
    assert sum(len(page.links) for page in pages.values()) > 10_000


def test_nothing_is_loaded_from_another_host(pages: dict[Path, Page]) -> None:
    assert {link for page in pages.values() for link in page.loaded if "://" in link} == set()
    assert not any("mermaid" in path.read_text() for path in website.PAGES.rglob("*.md"))


def test_every_document_and_every_module_has_a_page(pages: dict[Path, Page]) -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        place = SITE / website.place_of(document)
        page = place if place.stem in {"index", "README"} else place.with_suffix("") / "README"
        assert page.parent / "index.html" in pages, document
    modules = [path for path in (ROOT / "shared").rglob("*.py") if not path.stem.startswith("__")]
    for module in modules:
        page = SITE / "code" / module.relative_to(ROOT).with_suffix("") / "index.html"
        name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
        assert name in pages[page].anchors


def test_the_apis_are_described(pages: dict[Path, Page]) -> None:
    http_api = pages[SITE / "http-api" / "index.html"]
    assert {"post-v1forecasts", "forecastsrequest", "problem"} <= http_api.anchors
    messages = (SITE / "messages" / "index.html").read_text()
    for field in ("market.scores.v1", "expected_shortfall", "ce_specversion"):
        assert field in messages


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(pages: dict[Path, Page]) -> Iterator[str]:
    assert pages
    handler = functools.partial(_Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_reader_searches_and_finds(browser: Browser, url: str) -> None:
    page = browser.new_page()
    complaints: list[str] = []
    asked: set[str] = set()  # hosts
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.goto(url)
    expect(page.get_by_role("heading", name="Candlecast").first).to_be_visible()
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("combobox", name="Search").fill("expected_shortfall")
    page.get_by_role("option", name="Horizon").first.click()
    expect(page.get_by_role("cell", name="expected_shortfall").first).to_be_visible()
    for place in ("tutorial", "notebooks/train-and-compare", "http-api", "code/shared/window"):
        page.goto(f"{url}/{place}/", wait_until="networkidle")
    assert complaints == []
    assert asked == {urlsplit(url).netloc}
    page.close()
