"""A certificate for Yahoo's hosts, of an authority of one run."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from local.authority import Authority

HOSTS: Final = (
    "query1.finance.yahoo.com",
    "query2.finance.yahoo.com",
    "finance.yahoo.com",
    "fc.yahoo.com",
    "guce.yahoo.com",
    "consent.yahoo.com",
    "streamer.finance.yahoo.com",
)
"""Host names that the certificate covers."""


def make(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context for Yahoo's hosts, and the bundle that trusts it."""
    authority = Authority("Stand-in authority")
    chain = authority.issue(folder / "server.pem", "Stand-in Yahoo", HOSTS)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return context, authority.write(folder / "ca.pem")
