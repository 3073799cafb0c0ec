"""The lease: one watcher at a time, whatever the others do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shared.objects import open_objects
from shared.process import now_ms
from trainer import lease
from trainer.lease import LEASE_MS, Lease, LeaseLost


def a_lease(folder: Path, name: str) -> Lease:
    made = Lease(open_objects(str(folder)))
    made._me = name
    return made


def test_one_at_a_time_and_the_next_at_once(tmp_path: Path) -> None:
    first, second = a_lease(tmp_path, "first"), a_lease(tmp_path, "second")
    with first.held() as holder:
        assert holder == ""
        with second.held() as other:
            assert other == "first"
    with second.held() as holder:
        assert holder == ""
        with first.held() as other:
            assert other == "second"


def test_a_lease_of_one_that_was_killed_is_taken_when_it_has_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, second = a_lease(tmp_path, "killed"), a_lease(tmp_path, "second")
    assert killed._take() == ""
    with second.held() as holder:
        assert holder == "killed"
    later = now_ms() + LEASE_MS + 1
    monkeypatch.setattr(lease, "now_ms", lambda: later)
    with second.held() as holder:
        assert holder == ""


def test_who_has_lost_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    stopped, second = a_lease(tmp_path, "stopped"), a_lease(tmp_path, "second")
    with stopped.held():
        stopped.check()
        assert second._write(stopped._step + 1, now_ms() + LEASE_MS)
        for _ in range(500):
            if stopped._lost:
                break
            threading.Event().wait(0.01)
        with pytest.raises(LeaseLost, match="second holds the lease"):
            stopped.check()


def test_a_damaged_lease_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "0000000007.json").write_bytes(b"\x00half")
    with a_lease(tmp_path, "first").held() as holder:
        assert holder == ""
    assert "0000000008.json" in {path.name for path in (tmp_path / "leases").iterdir()}
