"""Lints the OpenAPI document with Redocly and Spectral, then generates and uses a client.

``make openapi`` runs it. It needs Node.js 20 or later and npm, which fetches 60 MB. The rules and
the Python client are tested without Node.js too.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvicorn

from api.openapi import example_history
from tests.integration.api.test_fuzz import make_app
from tests.unit.api.client import LENGTH, call

FOLDER = Path(__file__).parent / "typescript"


def main() -> int:
    """Return 0 when all is content."""
    if shutil.which("npm") is None:
        print("expected Node.js and npm, found none: install nodejs, then again", file=sys.stderr)
        return 1
    app = make_app()
    (FOLDER / "openapi.json").write_text(call(app, "GET", "/openapi.json").text)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.05)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            return _run(url)
        finally:
            server.should_exit = True
            thread.join()


def _run(url: str) -> int:
    history = json.dumps(example_history(LENGTH))
    for command in (
        ["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        ["run", "lint"],
        ["run", "generate"],
        ["run", "check"],
        ["run", "--silent", "use", "--", url, history],
    ):
        made = subprocess.run(["npm", *command], cwd=FOLDER, check=False)
        if made.returncode != 0:
            return made.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
