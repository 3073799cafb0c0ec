"""Collects forecasts into Parquet files: pip install aiokafka cramjam pandas pyarrow.

A file holds what came together, up to ``ROWS`` messages, a row for each horizon. It is named by its
first offset: one that is written again after a crash takes the place of the first. All of them are
``pd.read_parquet(FOLDER)``; a forecast that came twice has the same ``id``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pandas as pd
from aiokafka import AIOKafkaConsumer

ROWS = int(os.environ.get("ROWS", "10000"))
WAIT_MS = int(os.environ.get("WAIT_MS", "5000"))


async def main(folder: Path) -> None:
    """Write what comes, and commit once it is written."""
    consumer = AIOKafkaConsumer(
        os.environ.get("FORECASTS", "market.forecasts.v1"),
        bootstrap_servers=os.environ.get("BOOTSTRAP", "127.0.0.1:9092"),
        group_id=os.environ.get("GROUP", "example-parquet"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        while True:
            got = await consumer.getmany(timeout_ms=WAIT_MS, max_records=ROWS)
            for partition, messages in got.items():
                rows = [row for message in messages for row in rows_of(json.loads(message.value))]
                path = folder / f"{partition.partition:04}-{messages[0].offset:020}.parquet"
                write(pd.DataFrame(rows), path)
                print(f"{path.name}: {len(messages)} forecasts", flush=True)
            if got:
                await consumer.commit()


def rows_of(forecast: dict) -> list[dict]:
    """Return a row for each horizon of a forecast, its quantiles as columns."""
    about = {
        "id": forecast["id"],
        "symbol": forecast["symbol"],
        "interval": forecast["interval"],
        "as_of": pd.Timestamp(forecast["as_of_ms"], unit="ms", tz="UTC"),
        "last_close": forecast["last_close"],
        "model_version": forecast["model_version"],
    }
    return [
        {
            **about,
            "step": horizon["step"],
            "due": pd.Timestamp(horizon["due_ms"], unit="ms", tz="UTC"),
            "volatility": horizon["volatility"],
            **{f"q{level}": price for level, price in horizon["quantiles"].items()},
        }
        for horizon in forecast["horizons"]
    ]


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_suffix(".part")
    table.to_parquet(unfinished, index=False)
    unfinished.replace(path)


if __name__ == "__main__":
    given = Path(sys.argv[1])
    given.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(given))
