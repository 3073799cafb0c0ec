"""What the API looks at before it serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.__main__ import TlsError, check_tls
from api.settings import ApiSettings


def read(*argv: str | Path) -> ApiSettings:
    return ApiSettings.read([str(part) for part in argv], "api")


@pytest.mark.parametrize("flag", ["--tls-certificate", "--tls-key", "--tls-client-authorities"])
def test_a_missing_file_of_tls_is_named_with_its_flag(flag: str) -> None:
    with pytest.raises(TlsError, match=rf"{flag}: /nope\.pem: No such file"):
        check_tls(read(flag, "/nope.pem"))


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "api.pem"
    path.write_text("nothing")
    with pytest.raises(TlsError, match=r"expected a certificate and its private key.*api\.pem"):
        check_tls(read("--tls-certificate", path))


def test_without_tls_nothing_is_looked_at() -> None:
    check_tls(read())
