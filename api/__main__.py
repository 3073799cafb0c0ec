"""``python -m api``: reads the settings and serves; ``python -m api keys`` tends the keys."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry

from api import PROCESS
from api.app import Options, create_app
from api.background import Background
from api.edge import keys_command, logs
from api.edge.access import AccessRules
from api.edge.keys import KeyFileError, WatchedKeys
from api.edge.middleware import request_id
from api.edge.server import Server, SocketLimits, Tls, make_config
from api.forecast.predict import DEFAULT_INTERVAL
from api.settings import ApiSettings
from api.stream.follower import Follower, StreamView
from api.stream.hub import Hub
from api.stream.market import Market
from api.stream.routes import StreamLimits
from shared import bundle, permissions, process, traces
from shared.context_topic import ContextReader
from shared.forecaster import contexts_of, references_of
from shared.kafka import TRANSIENT, AccessError
from shared.metrics import ApiMetrics
from shared.model_store import StoreError
from shared.model_watch import ModelWatch
from shared.process import Exit
from shared.traces import Traces

log = logging.getLogger("api")

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Host names that a browser on this machine may use."""

KAFKA_S: Final = 4.0
"""Longest wait at the start for Kafka to say whether it lets us in."""

KEYS_CHECK_S: Final = 1.0
"""Time between two looks at the key file."""


class UnsafeError(Exception):
    """Settings that would let anybody in."""


class TlsError(Exception):
    """Files for TLS that cannot be used."""


def main(argv: Sequence[str] | None = None, prog: str = "python -m api") -> int:
    """Serve, or run a command on keys; return the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["keys"]:  # --keys is a flag of the API, so that no field can be both
        return keys_command.main(given[1:], f"{prog} keys")
    settings = ApiSettings.read(given, prog)
    return process.live(
        PROCESS,
        settings.log_level,
        lambda: start(settings),
        expected=(
            AccessError,
            bundle.BundleError,
            StoreError,
            KeyFileError,
            TlsError,
            UnsafeError,
            OSError,
        ),
        context=lambda: {"request_id": identity} if (identity := request_id.get()) else {},
    )


def start(settings: ApiSettings) -> int:
    """Load the model and serve until a signal."""
    keys = open_keys(settings)
    check_tls(settings)
    registry = CollectorRegistry()
    metrics = ApiMetrics(registry)
    watched = ModelWatch(settings.models, bundle.load(settings.model), metrics)
    listener = listen(settings.host, settings.port)
    watched.begin()
    version = watched.served.of(DEFAULT_INTERVAL).model_version
    log.info("serving %s on %s", version, url(settings, listener))
    with traces.opened(settings, PROCESS) as traced:
        return uvloop.run(serve(settings, watched, (metrics, registry), keys, listener, traced))


async def serve(
    settings: ApiSettings,
    watched: ModelWatch,
    measured: tuple[ApiMetrics, CollectorRegistry],
    keys: WatchedKeys | None,
    listener: socket.socket,
    traced: Traces | None = None,
) -> int:
    """Serve on a listening socket, until a signal ends it.

    Raises:
        AccessError: when Kafka refuses this client, or what it needs.
        TlsError: when the files for TLS cannot be used.
    """
    await see_that_kafka_lets_us_in(settings)
    metrics, registry = measured
    live = StreamView(
        Market(
            forgotten=metrics.forgotten.inc,
            references=lambda: references_of(watched.served),
        ),
        Hub(),
    )
    follower = Follower(settings, live, metrics, settings.lookback)
    context = ContextReader(settings, metrics)

    def take_models() -> None:
        context.want(contexts_of(watched.served))

    take_models()
    options = Options(
        catalogue=lambda: watched.catalogue,
        model_state=lambda: watched.state,
        access=access_rules(settings, keys),
        streams=StreamLimits(
            settings.max_streams,
            settings.max_streams_a_client,
            longest_s=settings.stream_seconds,
        ),
        cors_origins=settings.cors_origins,
        over_tls=settings.tls_certificate is not None,
        log=logs.AccessLog(sys.stderr) if settings.access_log else None,
        live=live,
        traces=traced,
        context_of=lambda spec, as_of_ms: context.store.contexts(spec).window(as_of_ms),
        background=Background(
            {
                "the stream's follower": follower.run,
                "the context's follower": context.run,
                "the watch of the models": lambda: watched.run(take_models),
            }
            | ({"the watch of the key file": lambda: watch(keys)} if keys else {})
        ),
    )
    app = create_app(watched.served, metrics, registry, options)
    limits = SocketLimits(
        settings.max_connections,
        settings.max_connections_an_address,
        settings.receive_seconds,
        settings.send_seconds,
    )
    try:
        server_config = make_config(app, limits, tls_of(settings))
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise TlsError(f"TLS: {error}") from error
    process.calm_collector()
    await Server(server_config, live.hub.shut).serve([listener])
    return Exit.DONE


async def see_that_kafka_lets_us_in(settings: ApiSettings) -> None:
    """Raise ``AccessError`` when Kafka refuses us; one that is away is waited for while serving."""
    try:
        async with asyncio.timeout(KAFKA_S):
            needed = permissions.of_api(settings)
            await permissions.check(settings, needed, timeout_s=0.0)
    except AccessError:
        raise
    except TRANSIENT as error:
        log.warning("Kafka at %s does not answer yet: %s", settings.bootstrap, error)


def open_keys(settings: ApiSettings) -> WatchedKeys | None:
    """Return the keys that are needed; None where nothing but this machine can ask.

    Raises:
        UnsafeError: when there are no keys and others could ask.
        KeyFileError: when the file cannot be used.
    """
    if settings.keys is not None:
        return WatchedKeys.open(settings.keys, settings.rate_limit)
    if not (settings.is_loopback or settings.without_keys):
        raise UnsafeError(
            f"refusing to serve on {settings.host} without API keys: give --keys FILE (made by "
            "python -m api keys create NAME --file FILE), or --host 127.0.0.1"
        )
    return None


def access_rules(settings: ApiSettings, keys: WatchedKeys | None) -> AccessRules:
    """Return what has to be shown at the door."""
    hosts = frozenset(name.lower() for name in settings.allowed_hosts)
    if not hosts and keys is None and settings.is_loopback:
        hosts = LOOPBACK_NAMES | {settings.host}
    ring = (lambda: keys.ring) if keys is not None else None
    return AccessRules(keys=ring, hosts=hosts or None)


async def watch(keys: WatchedKeys) -> None:
    """Read the key file when it changes; a damaged one leaves the keys as they are."""
    complaint = ""
    while True:
        await asyncio.sleep(KEYS_CHECK_S)
        try:
            if keys.refresh():
                log.info("the key file has changed and is read")
            complaint = ""
        except KeyFileError as error:
            if str(error) != complaint:
                log.error("%s; the keys stay as they were", error)
            complaint = str(error)


def check_tls(settings: ApiSettings) -> None:
    """Look whether the files for TLS can be read, before anything is served.

    Raises:
        TlsError: naming the flag and the file.
    """
    for name in ("tls_certificate", "tls_key", "tls_client_authorities"):
        path: Path | None = getattr(settings, name)
        if path is None:
            continue
        try:
            path.open("rb").close()
        except OSError as error:
            flag = f"--{name.replace('_', '-')}"
            raise TlsError(f"{flag}: {process.in_words(error)}") from error
    if settings.tls_certificate is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        files = " and ".join(map(str, filter(None, (settings.tls_certificate, settings.tls_key))))
        raise TlsError(
            f"--tls-certificate, --tls-key: expected a certificate and its private key in PEM, "
            f"got {files}: {error}"
        ) from error


def tls_of(settings: ApiSettings) -> Tls | None:
    """Return the files for TLS, None without it."""
    if settings.tls_certificate is None:
        return None
    authorities = settings.tls_client_authorities
    return Tls(
        certificate=str(settings.tls_certificate),
        key=str(settings.tls_key) if settings.tls_key else None,
        client_authorities=str(authorities) if authorities else None,
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises ``OSError`` naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def url(settings: ApiSettings, listener: socket.socket) -> str:
    """Return where a socket listens, as a URL."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


if __name__ == "__main__":
    process.leave(main())
