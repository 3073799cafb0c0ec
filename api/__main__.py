"""``python -m api``: reads the settings, loads the model and serves."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

import numpy as np
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from api.app import create_app
from api.openapi import example_history
from api.settings import ApiSettings
from shared import bundle
from shared.forecaster import Forecaster, LstmForecaster
from shared.settings import configure_logging

log = logging.getLogger("api")


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _end)
    settings = ApiSettings.read(sys.argv[1:], "python -m api")
    configure_logging(settings.log_level)
    try:
        forecaster = LstmForecaster(bundle.load(settings.model))
        listener = listen(settings.host, settings.port)
    except (bundle.BundleError, OSError) as error:
        log.error("%s", error)
        return 1
    warm_up(forecaster)
    app = create_app(forecaster, CollectorRegistry())
    log.info("serving %s on %s", forecaster.model_version, url(listener))
    serve(app, listener)
    return 0


def warm_up(forecaster: Forecaster) -> None:
    """Run the model once: its first call takes tens of milliseconds."""
    history = example_history(forecaster.window_length)
    forecaster.predict(np.array([[list(one.values()) for one in history]]))


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve an application on a listening socket, until a signal ends it."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises ``OSError`` naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def url(listener: socket.socket) -> str:
    """Return where a socket listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _end(_: int, __: FrameType | None) -> NoReturn:
    # uvicorn drains by its own handler and raises the signal again when it is done
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
