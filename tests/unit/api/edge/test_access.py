from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from limits import parse

from api.__main__ import LOOPBACK_NAMES, UnsafeError, access_rules, open_keys
from api.edge import keys_command
from api.edge.access import AccessRules, host_name
from api.edge.keys import (
    KeyFile,
    KeyFileError,
    KeyRing,
    Scope,
    WatchedKeys,
    create,
    load,
    revoke,
    save,
)
from api.edge.logs import AccessLog
from api.settings import ApiSettings
from api.stream.follower import StreamView
from api.stream.hub import CLOSING, Hub
from api.stream.market import Market
from api.stream.routes import StreamLimits
from tests.unit.api.client import application, call, history, predict, problem_of

ALL = tuple(Scope)


def ring_with(*scopes: Scope, rate: str | None = None) -> tuple[KeyRing, str]:
    file, key = create(KeyFile(), "test", scopes, rate, now_ms=0)
    return KeyRing(file.keys, None), key


def guarded(ring: KeyRing) -> Any:
    return application(access=AccessRules(keys=lambda: ring))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_without_a_key_only_probes_and_pages_are_open() -> None:
    app = guarded(ring_with(*ALL)[0])
    document = call(app, "GET", "/openapi.json").json()
    for path in ("/livez", "/readyz", "/dashboard", "/docs", "/assets/dashboard.js"):
        assert call(app, "GET", path).status_code == 200
    for path, operations in document["paths"].items():
        for method in operations:
            if path not in {"/livez", "/readyz"}:
                answer = call(app, method.upper(), path)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"].startswith("Bearer")
                problem_of(answer)


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        (Scope.READ, "GET", "/"),
        (Scope.READ, "GET", "/v1/model"),
        (Scope.READ, "GET", "/v1/scores"),
        (Scope.PREDICT, "POST", "/predict"),
        (Scope.PREDICT, "POST", "/v1/forecasts"),
        (Scope.PREDICT, "POST", "/v2/models/persistence/infer"),
        (Scope.ADMIN, "GET", "/metrics"),
    ],
)
def test_each_scope_opens_its_own_doors(scope: Scope, method: str, path: str) -> None:
    ring, key = ring_with(scope)
    assert call(guarded(ring), method, path, headers=bearer(key)).status_code not in {401, 403}
    assert call(guarded(ring), method, path, headers={"x-api-key": key}).status_code not in {
        401,
        403,
    }
    ring, key = ring_with(*(other for other in Scope if other is not scope))
    answer = call(guarded(ring), method, path, headers=bearer(key))
    assert answer.status_code == 403
    assert problem_of(answer).errors[0].rule == "scope"


def test_every_route_needs_the_scope_that_the_document_names() -> None:
    document = call(application(), "GET", "/openapi.json").json()
    rings = {scope: ring_with(*(other for other in Scope if other is not scope)) for scope in Scope}
    seen = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in {"/livez", "/readyz"}:
                continue
            scope = Scope(operation["description"].rpartition("Scope: ")[2].rstrip("."))
            ring, key = rings[scope]
            answer = call(guarded(ring), method.upper(), path, headers=bearer(key))
            assert answer.status_code == 403, path
            seen.add(scope)
    assert seen == set(Scope)


def test_only_the_very_key_opens() -> None:
    ring, key = ring_with(*ALL)
    other = ring_with(*ALL)[1]
    head = key[:12]
    bad = [other, key[:-1], key + "x", key.upper(), "", "cc_", "é", f"{key[:12]}{'A' * 43}", head]
    for wrong in bad:
        assert ring.client(wrong) is None
    client = ring.client(key)
    assert client is not None
    assert client.name == "test"


def test_a_stream_ends_when_its_key_is_revoked() -> None:
    ring, key = ring_with(Scope.READ)
    rings = iter([ring, ring, ring, KeyRing((), None)])  # asked for again at each heartbeat
    app = application(
        access=AccessRules(keys=lambda: next(rings)),
        live=StreamView(Market(), Hub(), connected=True),
        streams=StreamLimits(heartbeat_s=0.01),
    )
    answer = call(app, "GET", "/v1/stream", headers=bearer(key))
    assert answer.text.startswith("retry: 2000\nid: ")
    assert answer.text.endswith(CLOSING.decode())


def test_a_file_holds_no_key_and_survives_a_round(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    file, key = create(KeyFile(), "a", (Scope.READ,), "5/minute", now_ms=1)
    save(path, file)
    assert key[12:] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path) == file
    with pytest.raises(KeyFileError, match="there is such a key already"):
        create(file, "a", (Scope.READ,), None, now_ms=2)
    closed = revoke(file, "a", now_ms=3)
    assert KeyRing(closed.keys, None).client(key) is None
    with pytest.raises(KeyFileError, match="no such key"):
        revoke(closed, "a", now_ms=4)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    file, key = create(KeyFile(), "a", (Scope.READ,), None, now_ms=1)
    save(path, file)
    watched = WatchedKeys.open(path, None)
    assert watched.ring.client(key) is not None
    assert not watched.refresh()
    save(path, revoke(file, "a", now_ms=2))
    assert watched.refresh()
    assert watched.ring.client(key) is None
    path.write_text("{}x")
    with pytest.raises(KeyFileError, match="not a key file"):
        watched.refresh()


def test_the_command_makes_lists_and_revokes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = ["--file", str(tmp_path / "keys.json")]
    assert keys_command.main(["create", "grafana", "--scopes", "admin,read", *file]) == 0
    key = capsys.readouterr().out.strip()
    assert KeyRing(load(tmp_path / "keys.json").keys, None).client(key) is not None
    assert keys_command.main(["list", *file]) == 0
    listed = capsys.readouterr().out
    assert "grafana" in listed
    assert "admin,read" in listed
    assert key not in listed
    assert keys_command.main(["revoke", "grafana", *file]) == 0
    assert keys_command.main(["revoke", "grafana", *file]) == 1
    assert "no such key" in caplog.text


def test_a_key_has_its_rate() -> None:
    ring, key = ring_with(*ALL, rate="3/minute")
    app = guarded(ring)
    answers = [predict_with(app, key) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert problem_of(answers[-1]).errors[0].rule == "rate"
    assert call(app, "GET", "/livez").status_code == 200


def predict_with(app: Any, key: str) -> Any:
    return call(app, "POST", "/predict", json={"history": history()}, headers=bearer(key))


def test_the_default_rate_holds_for_keys_without_their_own() -> None:
    file, key = create(KeyFile(), "a", ALL, None, now_ms=0)
    app = guarded(KeyRing(file.keys, parse("1/minute")))
    assert [predict_with(app, key).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("A.b:80", "a.b"), ("[::1]:8000", "::1"), ("127.0.0.1", "127.0.0.1"), ("", ""),
        ("[::1]evil.com", ""), ("[::1", ""), ("[localhost]", ""), ("localhost:80:80", ""),
        ("localhost:evil.com", ""), ("evil@localhost", ""), ("localhost/x", ""),
    ],
)  # fmt: skip
def test_host_names(header: str, name: str) -> None:
    assert host_name(header) == name


def test_a_foreign_host_is_refused() -> None:
    app = application(access=AccessRules(hosts=LOOPBACK_NAMES))
    for host, status in (("localhost:8000", 200), ("[::1]", 200), ("evil.example", 421)):
        assert call(app, "GET", "/", headers={"host": host}).status_code == status


def test_two_hosts_are_refused_whatever_is_allowed() -> None:
    for hosts in (None, LOOPBACK_NAMES):
        app = application(access=AccessRules(hosts=hosts))
        both = [("host", "localhost"), ("host", "evil.example")]
        answer = call(app, "GET", "/", headers=both)
        assert answer.status_code == 400
        assert problem_of(answer).errors[0].field == "host"


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=abc", "text/plain; version=1.0.0; escaping=x",
        "text/plain; version=..", "application/openmetrics-text; version=9e9;escaping=values",
        ";,;=", "text/plain;version=1.0.0;escaping", "é",
    ],
)  # fmt: skip
def test_metrics_are_given_whatever_is_accepted(accept: str) -> None:
    answer = call(application(), "GET", "/metrics", headers={"accept": accept.encode()})
    assert answer.status_code == 200
    assert "candlecast_model_info" in answer.text


def test_a_key_file_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    save(path, KeyFile())
    watched = WatchedKeys.open(path, None)
    path.chmod(0o602)
    with pytest.raises(KeyFileError, match="anybody may write to it: run chmod 600"):
        load(path)
    with pytest.raises(KeyFileError, match="anybody may write"):
        watched.refresh()


def test_beyond_loopback_keys_are_needed() -> None:
    with pytest.raises(UnsafeError, match="without API keys"):
        open_keys(ApiSettings.read(["--host", "0.0.0.0"], "api"))  # noqa: S104
    assert open_keys(ApiSettings.read(["--host", "0.0.0.0", "--without-keys"], "api")) is None  # noqa: S104
    for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1"):
        settings = ApiSettings.read(["--host", host], "api")
        assert open_keys(settings) is None
        assert access_rules(settings, None).hosts == LOOPBACK_NAMES | {host}


def test_headers_are_strict_everywhere() -> None:
    app = application()
    for path in ("/", "/nowhere", "/v1/forecasts", "/dashboard", "/assets/dashboard.js", "/docs"):
        headers = call(app, "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
        assert len(headers["x-request-id"]) == 16
    tls = call(application(over_tls=True), "GET", "/").headers
    assert "strict-transport-security" in tls


def test_cors_is_for_named_origins_only() -> None:
    ring, key = ring_with(*ALL)
    app = application(access=AccessRules(keys=lambda: ring), cors_origins=("https://a.example",))
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    answer = call(app, "OPTIONS", "/predict", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = bearer(key) | {"origin": "https://b.example"}
    assert "access-control-allow-origin" not in call(app, "GET", "/", headers=other).headers


def test_a_request_id_travels_and_the_log_tells_no_secret() -> None:
    stream = io.StringIO()
    ring, key = ring_with(*ALL)
    log = AccessLog(stream)
    app = application(access=AccessRules(keys=lambda: ring), log=log)
    headers = bearer(key) | {"x-request-id": "mine-1"}
    answer = call(app, "GET", "/v1/model?secret=1", headers=headers)
    assert answer.headers["x-request-id"] == "mine-1"
    assert call(app, "GET", "/", headers={"x-request-id": "no\tgood"}).headers["x-request-id"] != ""
    log.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0]["request_id"] == "mine-1"
    assert (lines[0]["client"], lines[0]["route"], lines[0]["status"]) == ("test", "/v1/model", 200)
    assert key not in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_answers_tell_no_paths_or_versions() -> None:
    app = application()
    for answer in (
        call(app, "GET", "/nowhere"),
        predict(app, [{"open": "x"}]),
        call(app, "GET", "/v1/forecasts"),
        call(app, "GET", "/readyz"),
    ):
        for leak in ("/work", "site-packages", "Traceback", "uvicorn", "pydantic", os.getcwd()):  # noqa: PTH109
            assert leak not in answer.text
