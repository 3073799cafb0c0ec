"""The API over TLS, also with certificates of clients."""

from __future__ import annotations

import http.client
import ssl
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.ports import HOST, free_ports
from tests.integration.processes import Processes, wait_until

pytestmark = pytest.mark.integration


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, private


def over_tls(port: int, context: ssl.SSLContext) -> http.client.HTTPResponse | None:
    """Return the answer of ``/readyz``, its body unread; None while nobody listens."""
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
    with closing(connection):
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse()
        except ConnectionRefusedError:
            return None


def test_it_speaks_tls(processes: Processes, tmp_path: Path) -> None:
    pem, private = certificate(tmp_path)
    port = free_ports(1)[0]
    flags = ["--tls-certificate", str(pem), "--tls-key", str(private)]
    process = processes.start(
        "api", "--port", str(port), "--bootstrap", f"{HOST}:{free_ports(1)[0]}", *flags
    )
    context = ssl.create_default_context(cafile=str(pem))

    answer = wait_until(lambda: over_tls(port, context), 60, "it answers over TLS", process=process)
    assert answer is not None
    assert answer.headers["strict-transport-security"]
    assert process.stop(10.0) == 0


def test_clients_show_certificates_where_they_are_asked_to(
    processes: Processes, tmp_path: Path
) -> None:
    pem, private = certificate(tmp_path)
    port = free_ports(1)[0]
    process = processes.start(
        "api", "--port", str(port), "--bootstrap", f"{HOST}:{free_ports(1)[0]}",
        "--tls-certificate", str(pem), "--tls-key", str(private),
        "--tls-client-authorities", str(pem),
    )  # fmt: skip
    known = ssl.create_default_context(cafile=str(pem))
    known.load_cert_chain(pem, private)

    answer = wait_until(lambda: over_tls(port, known), 60, "it answers", process=process)
    assert answer is not None
    assert answer.status == 200
    with pytest.raises(OSError, match=r"certificate required|reset|closed|EOF"):
        over_tls(port, ssl.create_default_context(cafile=str(pem)))
