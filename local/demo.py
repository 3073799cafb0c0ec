"""The whole flow, watched: starts the parts in order, follows the topics, ends when all is done."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Final

from local import live_training
from local.accounting import Accounting
from local.follow import Follower
from local.screen import Frame, Rate, Screen
from local.settings import LocalSettings
from local.system import PartFailed, System
from shared import process, topics
from shared.kafka import KafkaSettings

_READY_S: Final = 60.0
_TICK_S: Final = 0.25


class End(Enum):
    """Why a run came to its end."""

    DONE = "all is forecast"
    STALLED = "nothing happened any more"
    STOPPED = "stopped by a signal"
    STOPPED_EARLY = "stopped while starting"
    FAILED = "failed"


class Demo:
    """One run over a system whose broker is up; made within a running event loop."""

    def __init__(
        self,
        settings: LocalSettings,
        kafka: KafkaSettings,
        system: System,
        account: Accounting,
        *,
        began_s: float,
    ) -> None:
        """Prepare only; ``began_s`` is when the whole run began, by the monotonic clock."""
        self._settings = settings
        self._kafka = kafka
        self._system = system
        self._account = account
        self._follower = Follower(kafka, account)
        self._candles_rate = Rate()
        self._forecasts_rate = Rate()
        self._began_s = began_s
        self._progress = 0
        self._services_s = self._progress_s = time.monotonic()
        self._has_forecast = False
        self._story: live_training.Story | None = None

    async def run(self, screen: Screen) -> End:
        """Start worker, API and, once they are ready, the producer; watch until the end.

        Raises:
            PartFailed: when a part ends or does not get ready.
            topics.TopicError: when the topics cannot be made.
        """
        stop = process.stop_on_signals()
        await topics.ensure(self._kafka, topics.market_topics(self._kafka))
        self._services_s = time.monotonic()
        self._system.start_services()
        if self._settings.live_training:
            flags = live_training.watch_flags(self._settings, self._system.folder)
            log = self._system.start_trainer(flags, live_training.CHALLENGERS)
            self._story = live_training.Story(log, self._settings.interval)
        async with self._follower:
            reading = asyncio.create_task(self._follower.run())
            try:
                return await self._watch(screen, stop, reading)
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading

    async def _watch(self, screen: Screen, stop: asyncio.Event, reading: asyncio.Task[None]) -> End:
        while not stop.is_set():
            killed_by = self._system.revive_trainer()
            if killed_by:
                screen.tell(
                    f"the trainer ended with {killed_by} and is started again, which trains within "
                    "a minute; the models before serve on"
                )
            self._system.check()
            if reading.done():
                reading.result()
            await self._start_producer_when_ready()
            self._note_progress()
            self._tell(screen)
            screen.show(self._frame(), time.monotonic())
            if self._settings.exit_when_done:
                end = await self._end()
                if end is not None:
                    return end
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _TICK_S)
        return End.STOPPED

    def _tell(self, screen: Screen) -> None:
        """Show what is new of a live training."""
        newest = max(self._follower.newest.values(), key=lambda made: made.as_of_ms, default=None)
        if self._story is not None and newest is not None:
            for line in self._story.news(newest.model_version, newest.as_of_ms):
                screen.tell(line)

    async def _start_producer_when_ready(self) -> None:
        if self._system.is_producing:
            return
        if await asyncio.to_thread(self._system.are_services_ready):
            self._system.start_producer()
            self._progress_s = time.monotonic()
        elif time.monotonic() - self._services_s > _READY_S:
            raise PartFailed(
                f"worker and API were not both ready within {_READY_S:g} s; the ends of their "
                f"logs:\n{self._system.logs()}"
            )

    def _note_progress(self) -> None:
        account = self._account
        progress = account.candles + account.forecasts + account.scores + account.dead_letters
        if progress != self._progress:
            self._progress = progress
            self._progress_s = time.monotonic()
        if account.forecasts and not self._has_forecast:
            self._has_forecast = True
            after_s = time.monotonic() - self._began_s
            print(f"the first forecast came after {after_s:.1f} s", file=sys.stderr, flush=True)

    @property
    def _owes(self) -> int:
        """Forecasts and scores that are due and missing."""
        return self._account.missing + self._account.missing_scores

    async def _end(self) -> End | None:
        if (
            self._system.is_published
            and self._owes == 0
            and await self._follower.has_read_all()
            and self._owes == 0
        ):
            return End.DONE
        pause_s = 1 / self._settings.speed if self._settings.speed else 0.0
        silent_s = time.monotonic() - self._progress_s
        if self._system.is_producing and silent_s > self._settings.stall_seconds + pause_s:
            return End.STALLED
        return None

    def _frame(self) -> Frame:
        now_s = time.monotonic()
        newest = self._follower.newest
        return Frame(
            state=self._state(),
            forecasts=[newest[symbol] for symbol in sorted(newest)],
            summary=self._account.summary(),
            candles_rate=self._candles_rate.update(now_s, self._account.candles),
            forecasts_rate=self._forecasts_rate.update(now_s, self._account.forecasts),
        )

    def _state(self) -> str:
        if not self._system.is_producing:
            return "worker and API are starting"
        if self._system.is_published:
            if self._account.missing:
                return "all candles are published, the last forecasts are on their way"
            return "the replay is over; dashboard and API stay up until Ctrl-C"
        # a replay may stand in for the source in the settings
        return f"candles flow from {self._follower.source or self._settings.source}"


@contextmanager
def run_folder(data_dir: Path | None) -> Iterator[Path]:
    """Yield the folder of a run: the given one, or one that goes unless the run fails."""
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield data_dir.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="candlecast-"))
    try:
        yield folder
    except PartFailed:
        print(f"the logs are kept in {folder}", file=sys.stderr)
        shutil.rmtree(folder / "kafka" / "kafka", ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
