"""The doctor's verdicts, and what it says to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from local import doctor
from local.ports import HOST, documented_or_free, is_free


def test_this_python_and_its_packages_are_right() -> None:
    assert doctor.python().verdict == "ok"
    assert doctor.packages(["pydantic>=2", "rich"]).verdict == "ok"


@pytest.mark.parametrize(
    ("requirement", "detail"),
    [
        ("pydantic>=99", "pydantic: expected >=99, got 2."),
        ("no-such-package>=1", "no-such-package: expected >=1, got none"),
    ],
)
def test_a_package_that_does_not_fit_is_named(requirement: str, detail: str) -> None:
    finding = doctor.packages([requirement])
    assert finding.verdict == "wrong"
    assert detail in finding.detail
    assert finding.remedy.startswith("pip install")


def test_packages_of_extras_need_not_be_there() -> None:
    assert doctor.packages(['no-such-package; extra == "train"']).verdict == "ok"


def test_a_full_disk_is_wrong_and_a_folder_to_come_has_its_parent_s(tmp_path: Path) -> None:
    [fine] = doctor.disks([tmp_path / "not" / "yet"], enough=1)
    assert fine.verdict == "ok"
    [full] = doctor.disks([tmp_path], enough=1 << 62)
    assert (full.verdict, full.remedy.partition(":")[0]) == ("wrong", "make room")


def test_a_model_that_is_not_there_is_wrong(tmp_path: Path) -> None:
    finding = doctor.model(tmp_path)
    assert finding.verdict == "wrong"
    assert str(tmp_path / "config.json") in finding.detail


def test_keys_are_for_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert doctor.key_file(path).verdict == "wrong"
    path.write_text('{"keys": []}')
    path.chmod(0o644)
    assert doctor.key_file(path).remedy == f"chmod 600 {path}"
    path.chmod(0o600)
    assert doctor.key_file(path).verdict == "ok"


def test_a_clock_behind_the_broker_s_is_wrong() -> None:
    assert doctor.clock(10_000, 10_000).verdict == "ok"
    assert doctor.clock(10_000, 70_000).detail == "the newest forecast is 60 s old"
    behind = doctor.clock(13_000, 10_000)
    assert behind.verdict == "wrong"
    assert "3.0 s ahead" in behind.detail


def test_a_documented_port_that_is_taken_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANDLECAST_KAFKA_CACHE", str(tmp_path / "cache"))
    with socket.create_server((HOST, 0)) as server:
        taken = server.getsockname()[1]
        assert not is_free(taken)
        [other] = documented_or_free([taken])
        assert other != taken
    assert documented_or_free([taken]) == [taken]
    code = f"from local.ports import documented_or_free as d; print(d([{taken}]) != [{taken}])"
    beside = [sys.executable, "-c", code]  # it starts before anybody listens on what we took
    for folder in (tmp_path, Path.cwd()):  # whatever its folder for temporary files
        env = {**os.environ, "TMPDIR": str(folder)}
        done = subprocess.run(beside, capture_output=True, text=True, check=True, env=env)
        assert done.stdout == "True\n"
    monkeypatch.setenv("CANDLECAST_KAFKA_CACHE", "/dev/null/cache")
    done = subprocess.run(beside, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n", "nothing can be reserved there"
