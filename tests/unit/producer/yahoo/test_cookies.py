"""Yahoo's cookie from one process to the next, whatever the folder is like."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from producer.yahoo import cookies


def write(folder: Path, value: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / cookies.NAME, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # as yfinance has it
        database.execute("CREATE TABLE cookies (value TEXT)")
        database.execute("INSERT INTO cookies VALUES (?)", (value,))


def read(folder: Path) -> str:
    with closing(sqlite3.connect(folder / cookies.NAME)) as database:
        return str(database.execute("SELECT value FROM cookies").fetchone()[0])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


def test_a_cookie_is_kept_for_the_next_process(tmp_path: Path, own: Path) -> None:
    kept = tmp_path / "deep" / "kept"
    cookies.take(kept, own)  # nothing yet: no warning
    cookies.put_back(own, kept)
    assert not kept.exists()
    write(own, "first")
    cookies.put_back(own, kept)
    following = tmp_path / "following"
    following.mkdir()
    cookies.take(kept, following)
    assert read(following) == "first"
    assert [path.name for path in kept.iterdir()] == [cookies.NAME]


def test_one_in_use_by_another_process_is_taken_and_replaced(tmp_path: Path, own: Path) -> None:
    kept = tmp_path / "kept"
    write(kept, "first")
    with closing(sqlite3.connect(kept / cookies.NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        cookies.take(kept, own)
        assert read(own) == "first"
        with closing(sqlite3.connect(own / cookies.NAME, isolation_level=None)) as database:
            database.execute("UPDATE cookies SET value = 'second'")
            cookies.put_back(own, kept)
    following = tmp_path / "following"
    following.mkdir()
    cookies.take(kept, following)
    assert read(following) == "second"


def test_a_folder_that_cannot_be_written_or_read_is_logged(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(own, "first")
    nowhere = Path("/proc/candlecast")  # as on a read-only disk
    cookies.put_back(own, nowhere)
    assert "cache_dir: the cookie cannot be kept in /proc/candlecast" in caplog.text
    assert read(own) == "first"


def test_garbage_is_logged_and_not_taken(
    tmp_path: Path, own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / cookies.NAME).write_text("no database, though as long as the head of one" * 20)
    cookies.take(tmp_path, own)
    assert "cache_dir: no cookie can be taken from" in caplog.text
    assert list(own.iterdir()) == []
