"""Background work: begun again when it ends, and said by the probes."""

from __future__ import annotations

import asyncio

from api.background import Background
from tests.kafka_contract import until


def test_work_that_ends_is_begun_again_and_said_until_it_is_proven() -> None:
    """A follower that had ended was noticed by nothing: 291,184 events were missed."""
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ValueError("no reason")
        await asyncio.Event().wait()

    async def run() -> tuple[str, bool]:
        background = Background({"the follower": work}, pause_s=0.02, proven_s=0.2)
        background.start()
        await asyncio.sleep(0.01)
        assert not background.health().ok
        detail = background.health().detail
        await until(lambda: background.health().ok)
        await background.stop()
        return detail, background.health().ok

    detail, ok = asyncio.run(asyncio.wait_for(run(), 10))
    assert ok
    assert begun == 3
    assert "the follower ended (no reason) since 20" in detail
