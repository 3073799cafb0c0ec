"""Keeps Yahoo's cookie across processes, in a folder that may be shared or unusable.

yfinance keeps its cookie in an SQLite file that it holds open. A process has that file in a
temporary folder of its own; the folder of the settings holds a copy, which is taken at the start
and put back at a clean end. So neither another process's lock nor a read-only disk is in its way.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

NAME: Final = "cookies.db"
"""File name of yfinance's cookie cache."""


def take(kept: Path, own: Path) -> None:
    """Copy the cookie of an earlier process into this one's folder, if there is a usable one."""
    copy = own / NAME
    try:
        shutil.copyfile(kept / NAME, copy)
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA quick_check").fetchone()
    except FileNotFoundError:
        return
    except (OSError, sqlite3.Error) as error:
        copy.unlink(missing_ok=True)
        log.warning("cache_dir: no cookie can be taken from %s: %s", kept / NAME, error)


def put_back(own: Path, kept: Path) -> None:
    """Keep the cookie of this process for the next one, whole or not at all."""
    if not (own / NAME).exists():
        return
    part = kept / f"{NAME}.{os.getpid()}"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(own / NAME)) as live, closing(sqlite3.connect(part)) as copy:
            live.backup(copy)
        part.replace(kept / NAME)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        log.warning("cache_dir: the cookie cannot be kept in %s: %s", kept, error)
