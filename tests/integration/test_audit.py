"""``make audit`` sees every pinned version, and fails on one with an advisory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from docs.hashes import HASHED, ROOT, canonical, pins

pytestmark = pytest.mark.integration


class Advisories(BaseHTTPRequestHandler):
    """A service of advisories as osv.dev is one: it knows of one, in jinja2."""

    asked: ClassVar[dict[str, str]] = {}

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = canonical(question["package"]["name"])
        self.asked[name] = question["version"]
        advisory = {
            "id": "PYSEC-2026-1",
            "summary": "a test",
            "modified": "2026-11-01T00:00:00Z",
            "affected": [
                {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "ranges": [
                    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}
                ]}
            ],
        }  # fmt: skip
        body = json.dumps({"vulns": [advisory]} if name == "jinja2" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Log nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(service: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command of the Makefile against a service on this machine."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    [command] = re.findall(r"^\t\$\(BIN\)/(pip-audit .*)$", makefile, re.MULTILINE)
    words = command.split()
    plain = [word for word in words if not word.startswith("$(")]
    plain[0] = str(Path(sys.executable).with_name("pip-audit"))
    return subprocess.run(
        [*plain, "--vulnerability-service", "osv", "--osv-url", service, *args],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


def test_every_pin_is_asked_about_and_an_advisory_fails_unless_it_is_excepted(
    service: str,
) -> None:
    found = audit(service)
    assert found.returncode == 1, found.stderr
    assert "PYSEC-2026-1" in found.stdout
    versions = pins(HASHED.read_text())
    assert versions.items() >= Advisories.asked.items()
    elsewhere = versions.keys() - Advisories.asked.keys()  # needed on other platforms only
    assert len(elsewhere) < 15, elsewhere
    excepted = audit(service, "--ignore-vuln", "PYSEC-2026-1")
    assert excepted.returncode == 0, excepted.stderr
    assert "1 ignored" in excepted.stderr
