"""TLS and SASL as settings: what does not fit together, secrets of files, renewed certificates."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from pathlib import Path

import pytest

from local.authority import Authority
from shared.access import AccessError, client_options, explain
from shared.kafka import KafkaSettings

SASL = ["--security-protocol", "SASL_SSL", "--sasl-username", "worker"]


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        KafkaSettings.read(argv, "python -m x")
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--security-protocol", "SASL_SSL"], "sasl_username: SASL_SSL with SCRAM-SHA-512 needs"),
        (SASL, "set CANDLECAST_SASL_PASSWORD or --sasl-password-file"),
        ([*SASL, "--sasl-mechanism", "OAUTHBEARER"], "sasl_token_command: OAUTHBEARER needs"),
        (["--sasl-username", "worker"], "of no use with --security-protocol PLAINTEXT"),
        (["--ssl-ca", "ca.pem"], "expected one with SSL"),
        (
            ["--security-protocol", "SSL", "--ssl-key", "key.pem"],
            "ssl_key: a key without --ssl-certificate",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_before_any_connection(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in complaint(argv, capsys)


@pytest.mark.parametrize(
    ("flags", "content", "words"),
    [
        ([*SASL, "--sasl-password-file"], None, "sasl_password_file: .*: No such file"),
        ([*SASL, "--sasl-password-file"], b"\n", "expected a password, got an empty file"),
        ([*SASL, "--sasl-password-file"], b"\xff", "is not text"),
        (["--security-protocol", "SSL", "--ssl-ca"], None, "ssl_ca: .*: No such file"),
        (["--security-protocol", "SSL", "--ssl-ca"], b"no PEM", "ssl_ca: .*: expected PEM"),
        (
            ["--security-protocol", "SSL", "--ssl-certificate"],
            b"no PEM",
            "ssl_certificate: .*: expected PEM",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_setting(
    tmp_path: Path, flags: list[str], content: bytes | None, words: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AccessError, match=words):
        client_options(KafkaSettings.read([*flags, str(path)], "x"))


def test_a_password_file_may_end_with_a_line_break_and_is_read_for_each_client(
    tmp_path: Path,
) -> None:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    settings = KafkaSettings.read([*SASL, "--sasl-password-file", str(path)], "x")
    assert client_options(settings)["sasl_plain_password"] == "s3cret"  # noqa: S105
    path.write_text("other")
    assert client_options(settings)["sasl_plain_password"] == "other"  # noqa: S105


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('token')", None),
        ("import sys; sys.exit('no right to one')", "exit code 1: no right to one"),
        ("pass", "got 0 characters"),
    ],
)
def test_a_token_comes_from_a_command(program: str, words: str | None) -> None:
    command = f'{sys.executable} -c "{program}"'
    flags = ["--security-protocol", "SASL_SSL", "--sasl-mechanism", "OAUTHBEARER"]
    settings = KafkaSettings.read([*flags, "--sasl-token-command", command], "x")
    provider = client_options(settings)["sasl_oauth_token_provider"]
    if words is None:
        assert asyncio.run(provider.token()) == "token"
        return
    with pytest.raises(AccessError, match=words):
        asyncio.run(provider.token())


def test_a_renewed_certificate_is_shown_to_the_next_broker(tmp_path: Path) -> None:
    authority = Authority("Test")
    ca = authority.write(tmp_path / "ca.pem")
    ours = authority.issue(tmp_path / "client.pem", "worker", [])
    flags = ["--security-protocol", "SSL", "--ssl-ca", str(ca), "--ssl-certificate", str(ours)]
    client = client_options(KafkaSettings.read(flags, "x"))["ssl_context"]
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    server.load_cert_chain(authority.issue(tmp_path / "server.pem", "broker", ["kafka"]))
    server.verify_mode = ssl.CERT_REQUIRED
    first, again = shown(client, server), shown(client, server)
    assert first == again
    authority.issue(ours, "worker", [])
    os.utime(ours, ns=(0, 0))  # another time, however coarse the file system's clock
    assert shown(client, server) != first


def shown(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """Shake hands in memory; return the serial number of the certificate that the client shows."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="kafka"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    certificate = ends[1].getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_a_bootstrap_that_is_no_address_is_named() -> None:
    with pytest.raises(AccessError, match=r"bootstrap: expected host:port, .* got 'kafka'"):
        asyncio.run(explain(KafkaSettings.read([], "x"), "kafka"))
