from __future__ import annotations

from pathlib import Path

import pytest

from trainer import tracking


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:geheim@db/x: no", "postgresql://me:***@db/x: no"),
        ("http://:geheim@host", "http://:***@host"),
        ("http://me:ge@heim@host/", "http://me:***@host/"),
        ("http://me:ge/heim@host/", "http://me:***@host/"),
        ("sqlite:///a.db?password=geheim&x=1", "sqlite:///a.db?password=***&x=1"),
        ("sqlite:///mlflow.db: plain", "sqlite:///mlflow.db: plain"),
        ("http://host:5000/a", "http://host:5000/a"),
    ],
)
def test_a_password_is_not_shown(text: str, shown: str) -> None:
    assert tracking.without_password(text) == shown


def test_an_error_of_the_store_has_no_password(tmp_path: Path) -> None:
    uri = f"nothing://me:geheim@{tmp_path}/x"
    with pytest.raises(tracking.TrackingError) as failed, tracking.run(uri, "a", "b"):
        pass
    assert "geheim" not in str(failed.value)
