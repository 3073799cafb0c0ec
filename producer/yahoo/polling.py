"""Polls Yahoo for candles as they close, each symbol at its own pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from producer.source import (
    CorporateAction,
    Kind,
    Publication,
    Published,
    SourceError,
    UnreachableError,
)
from producer.yahoo.bars import Bar, Response
from producer.yahoo.errors import UNREACHABLE, ErrorKind, PollError
from producer.yahoo.fetcher import SOURCE_NAME, Fetcher
from producer.yahoo.gate import Backoff
from producer.yahoo.published import RecentCandles, due, rescaled, rescaled_by
from producer.yahoo.queue import PublicationQueue
from producer.yahoo.ranges import chunks, chunks_back, first_ms, from_session_ms, oldest_ms
from producer.yahoo.schedule import expected_close_ms, next_due_ms
from producer.yahoo.sessions import Session
from shared.candles import INTERVALS_MS, MINUTE_MS, Candle

log = logging.getLogger(__name__)

_SPARE: Final = 3
"""Rows at a chart's end that may not be closed candles as of the request.

They are the forming one, the last trade, and one that closed while Yahoo answered.
"""

_MISSED_S: Final = 1800.0
"""Least staleness of a symbol that the log reports; the metric has it at once."""

_FIRST_RETRY_S: Final = 5.0
_LONGEST_RETRY_S: Final = 3600.0


@dataclass
class _Followed:
    """A symbol, its published candles and its newest response."""

    symbol: str
    recent: RecentCandles
    since_ms: int  # followed since then
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_RETRY_S, _LONGEST_RETRY_S))
    response: Response | None = None  # the newest with sessions
    is_missed: bool = False  # whether the log has said so

    def note(self, response: Response) -> None:
        """Keep a response, unless it is void and so has no sessions."""
        if response.sessions or self.response is None:
            self.response = response


class PollingSource:
    """Polls each symbol when a candle of it may have closed, and yields new and changed ones."""

    name = SOURCE_NAME

    def __init__(
        self,
        symbols: tuple[str, ...],
        fetcher: Fetcher,
        *,
        poll_ms: int,
        window: int,
        history: int,
        once: bool = False,
    ) -> None:
        """Prepare only.

        Args:
            symbols: as Yahoo spells them.
            fetcher: fetches one symbol.
            poll_ms: time from one poll of a symbol to the next while its exchange is open.
            window: candles to publish again after a split.
            history: newest candles that a symbol begins with of which none is published.
            once: whether to end after one poll of each symbol.
        """
        self.symbols = symbols
        self.interval = fetcher.interval
        self.now_ms = fetcher.now_ms
        self._fetcher = fetcher
        self._metrics = fetcher.metrics
        self._poll_ms = poll_ms
        self._window = window
        self._history = history
        self._once = once
        self._followed: dict[str, _Followed] = {}
        self._queue = PublicationQueue()
        self._first_failures: dict[str, PollError] = {}
        self._has_succeeded = False

    async def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        now_ms = self.now_ms()
        self._followed = {
            symbol: _Followed(symbol, RecentCandles.of(published.get(symbol, ())), now_ms)
            for symbol in self.symbols
        }
        for symbol, followed in self._followed.items():
            staleness = self._metrics.staleness.labels(symbol)
            staleness.set_function(partial(self._stale_s, followed))
        polls = [self._follow(followed) for followed in self._followed.values()]
        try:
            async with aclosing(self._queue.read(polls)) as publications:
                async for publication in publications:
                    yield publication
        finally:
            self._fetcher.close()

    async def provisional(self, candle: Candle) -> bool:
        """Publish a candle made from ticks, and return whether that was possible.

        It must be newer than all before, and not the first of its session: only a poll shows
        whether that session trades on the scale of those before it.
        """
        followed = self._followed.get(candle.symbol)
        newest_ms = None if followed is None else followed.recent.newest_ms
        if followed is None or newest_ms is None or candle.open_ms <= newest_ms:
            return False
        begun = (
            session
            for session in self.sessions(candle.symbol)
            if session.start_ms <= candle.open_ms
        )
        session = next(begun, None)
        if session is None or newest_ms < session.start_ms:
            return False
        await self._publish(followed, Publication(candle, Kind.PROVISIONAL))
        return True

    def sessions(self, symbol: str) -> Sequence[Session]:
        """Return the sessions in the newest response for a symbol, newest first."""
        followed = self._followed.get(symbol)
        return () if followed is None or followed.response is None else followed.response.sessions

    async def _follow(self, followed: _Followed) -> None:
        while True:
            pause_s = await self._poll(followed)
            if self._once:
                return
            await asyncio.sleep(pause_s)

    async def _poll(self, followed: _Followed) -> float:
        """Poll a symbol and return the seconds until its next poll."""
        await self._queue.wait_for_room()
        try:
            await self._catch_up(followed)
        except PollError as error:
            self._note_failure(followed, error)
            return followed.backoff.failed()
        followed.backoff.reset()
        self._has_succeeded = True
        self._note_missing(followed)
        now_ms = self.now_ms()
        calendar = None if followed.response is None else followed.response.calendar
        return (next_due_ms(now_ms, self._poll_ms, self.interval, calendar) - now_ms) / 1000

    async def _catch_up(self, followed: _Followed) -> None:
        """Publish all that has closed since the newest published candle, span by span."""
        oldest_open_ms = followed.recent.oldest_ms
        if oldest_open_ms is None:
            await self._begin(followed)
            return
        now_ms = self.now_ms()
        start_ms = max(
            from_session_ms(oldest_open_ms, self.interval), oldest_ms(self.interval, now_ms)
        )
        for span in chunks(start_ms, now_ms + MINUTE_MS, self.interval):
            response = await self._fetcher.fetch(followed.symbol, span)
            self._note_gap(followed, response)
            followed.note(response)
            splits = rescaled_by(followed.recent, response)
            if splits is not None:
                response = await self._rescale(followed, splits)
            await self._publish_all(followed, due(followed.recent, response, self._make(followed)))

    async def _begin(self, followed: _Followed) -> None:
        """Publish the newest candles of a symbol of which none is published yet."""
        now_ms, count = self.now_ms(), self._history
        start_ms = first_ms(self.interval, count, now_ms)
        response = await self._fetcher.look_back(
            followed.symbol,
            chunks_back(start_ms, now_ms + MINUTE_MS, self.interval, count),
            lambda bars: len(bars) >= count,
            newest=count + _SPARE,
        )
        followed.note(response)
        publications = due(followed.recent, response, self._make(followed))
        await self._publish_all(followed, publications[-count:])

    async def _publish_all(self, followed: _Followed, publications: Sequence[Publication]) -> None:
        for publication in publications:
            await self._publish(followed, publication)

    async def _rescale(self, followed: _Followed, splits: tuple[CorporateAction, ...]) -> Response:
        """Publish the window's candles again on the scale of today, and return their response."""
        now_ms, newest_ms = self.now_ms(), followed.recent.newest_ms or 0
        start_ms = max(oldest_ms(self.interval, now_ms), 0)
        response = await self._fetcher.look_back(
            followed.symbol,
            chunks_back(start_ms, now_ms + MINUTE_MS, self.interval, self._window),
            lambda bars: sum(bar.open_ms <= newest_ms for bar in bars) >= self._window,
        )
        again = rescaled(followed.recent, response, splits, self._make(followed), self._window)
        log.warning(
            "%s %s: %s: its newest %d candles are published again on the new scale",
            followed.symbol, self.interval,
            ", ".join(f"split {split.value}" for split in splits)
            or "Yahoo has rescaled its history",
            len(again),
        )  # fmt: skip
        await self._publish_all(followed, again)
        followed.recent.rescaled_for.update(splits)
        return response

    def _make(self, followed: _Followed) -> Callable[[Bar], Candle | None]:
        return partial(self._fetcher.candle, followed.symbol)

    async def _publish(self, followed: _Followed, publication: Publication) -> None:
        """Note a candle as published and queue it; waits while the sink cannot take it."""
        followed.recent.note(publication.candle)
        await self._queue.put(publication)
        self._metrics.publications.labels(publication.kind.value).inc()
        for action in publication.actions:
            if publication.kind is not Kind.RESCALED:
                self._metrics.actions.labels(action.kind.value).inc()
                log.warning("%s: %s %s", followed.symbol, action.kind.value, action.value)

    def _note_gap(self, followed: _Followed, response: Response) -> None:
        newest = followed.recent.newest
        limit_ms = oldest_ms(self.interval, self.now_ms())
        if newest is not None and response.bars and newest.close_ms < limit_ms:
            log.warning(
                "%s %s: a gap: Yahoo has nothing between the candles opened at %d and %d ms",
                followed.symbol, self.interval, newest.open_ms, response.bars[0].open_ms,
            )  # fmt: skip

    def _note_failure(self, followed: _Followed, error: PollError) -> None:
        """Raise ``SourceError`` when at the start no symbol at all could be polled."""
        if self._has_succeeded:
            return
        self._first_failures[followed.symbol] = error
        if len(self._first_failures) < len(self.symbols):
            return
        kinds = {failure.kind for failure in self._first_failures.values()}
        if kinds <= UNREACHABLE:
            raise UnreachableError(f"Yahoo cannot be reached: {error}")
        if self._once:
            raise SourceError(
                f"none of the {len(self.symbols)} symbols could be polled; the last: {error}"
            )
        if kinds == {ErrorKind.UNKNOWN_SYMBOL}:
            raise SourceError(f"Yahoo knows none of the {len(self.symbols)} symbols: {error}")

    def _note_missing(self, followed: _Followed) -> None:
        """Log once that candles are missing though the exchange is open, and once their return."""
        if followed.response is None or followed.response.calendar is None:
            return  # opening hours are unknown: FX sleeps at weekends
        stale_s = self._stale_s(followed)
        was_missed = followed.is_missed
        followed.is_missed = stale_s >= max(_MISSED_S, 2 * INTERVALS_MS[self.interval] / 1000)
        if followed.is_missed and not was_missed:
            log.warning(
                "%s %s: no candle for %.0f min though its exchange is open: halted, delisted, or "
                "seldom traded", followed.symbol, self.interval, stale_s / 60,
            )  # fmt: skip
        elif was_missed and not followed.is_missed:
            log.info("%s %s: candles come again", followed.symbol, self.interval)

    def _stale_s(self, followed: _Followed) -> float:
        """Return how much older the newest candle is than the newest that could be there.

        A symbol without any candle is as old as it is followed, so that it is missed in time.
        """
        newest, response = followed.recent.newest, followed.response
        newest_ms = followed.since_ms if newest is None else newest.close_ms
        hours = None if response is None else response.hours
        expected_ms = expected_close_ms(self.interval, hours, self.now_ms(), newest_ms)
        return (expected_ms - newest_ms) / 1000
