"""Says when a close fell below its forecast's 1 % quantile: pip install aiokafka cramjam.

The topic of scores has it already: ``pit`` is the probability that the forecast gave to a lower
outcome. ``SHARE`` is the share of candles that should fall so; over many, the rate tells whether
the quantile holds.
"""

from __future__ import annotations

import asyncio
import json
import os

from aiokafka import AIOKafkaConsumer

SHARE = float(os.environ.get("SHARE", "0.01"))
STEP = int(os.environ.get("STEP", "1"))


async def main() -> None:
    """Print a line for each breach, and how many there were among how many outcomes."""
    consumer = AIOKafkaConsumer(
        os.environ.get("SCORES", "market.scores.v1"),
        bootstrap_servers=os.environ.get("BOOTSTRAP", "127.0.0.1:9092"),
        group_id=os.environ.get("GROUP", "example-var-alert"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    breaches = outcomes = 0
    async with consumer:
        async for message in consumer:
            scores = json.loads(message.value)
            if not scores["corrected"]:  # a correction scores again what was scored before
                for horizon in scores["horizons"]:
                    if horizon["step"] == STEP:
                        outcomes += 1
                        if horizon["pit"] < SHARE:
                            breaches += 1
                            alert(scores, horizon, breaches, outcomes)
            await consumer.commit()  # after the alert, so that none is lost


def alert(scores: dict, horizon: dict, breaches: int, outcomes: int) -> None:
    """Print a breach; here a message to people would go out."""
    move = scores["close"] / horizon["last_close"] - 1
    print(
        f"{scores['symbol']} {scores['interval']} at {scores['close_ms']}: {move:+.2%} is below "
        f"the {SHARE:.1%} quantile; {breaches} of {outcomes} outcomes so far",
        flush=True,
    )


if __name__ == "__main__":
    asyncio.run(main())
