"""Yahoo's candles as they close, each symbol at its own pace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from producer.source import Action, Kind, Publication, Published, SourceError, UnreachableError
from producer.yahoo.bars import Session
from producer.yahoo.client import Answer
from producer.yahoo.errors import UNREACHABLE, ErrorKind, PollError
from producer.yahoo.fetcher import SOURCE, Asker
from producer.yahoo.gate import Backoff
from producer.yahoo.published import Ledger, Seen, due, rescaled, rescaled_by
from producer.yahoo.queue import Handover
from producer.yahoo.ranges import chunks, chunks_back, first_ms, oldest_ms
from producer.yahoo.schedule import expected_close_ms, next_due_ms
from shared.candles import DAY_MS, INTERVALS_MS, MINUTE_MS, Candle
from shared.metrics import ProducerMetrics

log = logging.getLogger(__name__)

LONGEST_WINDOW: Final = 160
"""Candles that the longest window of a model holds; so many come again after a split."""

_SPARE: Final = 2
"""Rows at an answer's end that may be no closed candle: the forming one, and the last trade."""

_MISSED_S: Final = 1800.0
"""How stale a symbol is when the log says so; the metric tells it at once."""

_FIRST_RETRY_S: Final = 5.0
_LONGEST_RETRY_S: Final = 3600.0


def real_now_ms() -> int:
    """Return the current time, UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass
class _Followed:
    """A symbol and what is known of it."""

    symbol: str
    ledger: Ledger
    since_ms: int  # followed since then
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_RETRY_S, _LONGEST_RETRY_S))
    answer: Answer | None = None  # the newest that told the sessions
    is_missed: bool = False  # whether the log has said so

    def note(self, answer: Answer) -> None:
        """Keep an answer, unless Yahoo has nothing of its span and so tells no sessions."""
        if answer.sessions or self.answer is None:
            self.answer = answer


class PollingSource:
    """Polls each symbol when a candle of it may have closed, and gives what is new or changed."""

    name = SOURCE

    def __init__(
        self,
        symbols: tuple[str, ...],
        asker: Asker,
        *,
        poll_ms: int,
        once: bool = False,
        window: int = LONGEST_WINDOW,
        history: int = LONGEST_WINDOW,
        now_ms: Callable[[], int] = real_now_ms,
    ) -> None:
        """Take what to poll and how.

        Args:
            symbols: as Yahoo spells them.
            asker: asks for one symbol.
            poll_ms: time from one poll of a symbol to the next while its exchange is open.
            once: whether to end after one poll of each symbol.
            window: candles to publish again after a split.
            history: newest candles that a symbol begins with of which none is published.
            now_ms: the current time.
        """
        self.symbols = symbols
        self.interval = asker.interval
        self._asker = asker
        self._metrics: ProducerMetrics = asker.metrics
        self._poll_ms = poll_ms
        self._once = once
        self._window = window
        self._history = history
        self._now_ms = now_ms
        self._followed: dict[str, _Followed] = {}
        self._handover = Handover()
        self._first_failures: dict[str, PollError] = {}
        self._has_answer = False

    async def candles(self, published: Published) -> AsyncGenerator[Publication, None]:
        now_ms = self._now_ms()
        self._followed = {
            symbol: _Followed(symbol, Ledger.of(published.get(symbol, ())), now_ms)
            for symbol in self.symbols
        }
        for one in self._followed.values():
            self._metrics.staleness.labels(one.symbol).set_function(partial(self._stale_s, one))
        polls = [self._follow(followed) for followed in self._followed.values()]
        try:
            async with aclosing(self._handover.read(polls)) as publications:
                async for publication in publications:
                    yield publication
        finally:
            self._asker.close()

    async def provisional(self, candle: Candle) -> bool:
        """Give a candle made from ticks, and return whether that was possible.

        It must be newer than all before, and not the first of its session: only a poll tells
        whether that session trades on the scale of those before it.
        """
        followed = self._followed.get(candle.symbol)
        newest_ms = None if followed is None else followed.ledger.newest_ms
        if followed is None or newest_ms is None or candle.open_ms <= newest_ms:
            return False
        holds = [one for one in self.sessions(candle.symbol) if one.start_ms <= candle.open_ms]
        if not holds or newest_ms < holds[0].start_ms:
            return False
        await self._give(followed, Publication(candle, Kind.PROVISIONAL))
        return True

    def sessions(self, symbol: str) -> Sequence[Session]:
        """Return the sessions of a symbol that its newest answer told, newest first."""
        followed = self._followed.get(symbol)
        return () if followed is None or followed.answer is None else followed.answer.sessions

    async def _follow(self, followed: _Followed) -> None:
        while True:
            pause_s = await self._poll(followed)
            if self._once:
                return
            await asyncio.sleep(pause_s)

    async def _poll(self, followed: _Followed) -> float:
        """Poll a symbol and return the seconds until its next poll."""
        await self._handover.room()
        try:
            await self._catch_up(followed)
        except PollError as error:
            self._note_failure(followed, error)
            return followed.backoff.failed()
        followed.backoff.reset()
        self._has_answer = True
        self._note_missing(followed)
        now_ms = self._now_ms()
        calendar = None if followed.answer is None else followed.answer.calendar
        return (next_due_ms(now_ms, self._poll_ms, self.interval, calendar) - now_ms) / 1000

    async def _catch_up(self, followed: _Followed) -> None:
        """Give all that has closed since the newest published candle, span by span."""
        oldest_open_ms = followed.ledger.oldest_ms
        if oldest_open_ms is None:
            await self._begin(followed)
            return
        now_ms = self._now_ms()
        length = INTERVALS_MS[self.interval]
        # a day's row is stamped with its session, which may begin before its midnight UTC
        before_ms = length if length >= DAY_MS else 0
        start_ms = max(oldest_open_ms - before_ms, oldest_ms(self.interval, now_ms))
        for span in chunks(start_ms, now_ms + MINUTE_MS, self.interval):
            answer = await self._asker.ask(followed.symbol, span)
            self._note_gap(followed, answer)
            followed.note(answer)
            seen = self._seen(answer)
            splits = rescaled_by(followed.ledger, seen)
            if splits is not None:
                seen = await self._rescale(followed, splits)
            await self._give_all(followed, due(followed.ledger, seen, self._make(followed)))

    async def _begin(self, followed: _Followed) -> None:
        """Give the newest candles of a symbol of which none is published yet."""
        now_ms, count = self._now_ms(), self._history
        start_ms = first_ms(self.interval, count, now_ms)
        answer = await self._asker.look_back(
            followed.symbol,
            chunks_back(start_ms, now_ms + MINUTE_MS, self.interval, count),
            lambda bars: len(bars) >= count,
            newest=count + _SPARE,
        )
        followed.note(answer)
        found = due(followed.ledger, self._seen(answer), self._make(followed))
        await self._give_all(followed, found[-count:])

    async def _give_all(self, followed: _Followed, publications: Sequence[Publication]) -> None:
        for publication in publications:
            await self._give(followed, publication)

    async def _rescale(self, followed: _Followed, splits: tuple[Action, ...]) -> Seen:
        """Give the window's candles again on the scale of today, and return what was seen."""
        now_ms, newest_ms = self._now_ms(), followed.ledger.newest_ms or 0
        start_ms = max(oldest_ms(self.interval, now_ms), 0)
        answer = await self._asker.look_back(
            followed.symbol,
            chunks_back(start_ms, now_ms + MINUTE_MS, self.interval, self._window),
            lambda bars: sum(one.open_ms <= newest_ms for one in bars) >= self._window,
        )
        seen = self._seen(answer)
        again = rescaled(followed.ledger, seen, splits, self._make(followed), self._window)
        log.warning(
            "%s %s: %s: its newest %d candles are published again on the new scale",
            followed.symbol, self.interval,
            ", ".join(f"split {one.value}" for one in splits) or "Yahoo has rescaled its history",
            len(again),
        )  # fmt: skip
        await self._give_all(followed, again)
        followed.ledger.done.update(splits)
        return seen

    def _seen(self, answer: Answer) -> Seen:
        return Seen(answer.bars, answer.actions, answer.market_ms, self._now_ms())

    def _make(self, followed: _Followed) -> Callable[..., Candle | None]:
        return partial(self._asker.candle, followed.symbol)

    async def _give(self, followed: _Followed, publication: Publication) -> None:
        """Hand a candle over; waits while the sink cannot take it, and remembers it then."""
        followed.ledger.note(publication.candle)
        await self._handover.put(publication)
        self._metrics.publications.labels(publication.kind.value).inc()
        for action in publication.actions:
            if publication.kind is not Kind.RESCALED:
                self._metrics.actions.labels(action.kind.value).inc()
                log.warning("%s: %s %s", followed.symbol, action.kind.value, action.value)

    def _note_gap(self, followed: _Followed, answer: Answer) -> None:
        newest = followed.ledger.newest
        limit_ms = oldest_ms(self.interval, self._now_ms())
        if newest is not None and answer.bars and newest.close_ms < limit_ms:
            log.warning(
                "%s %s: a gap: Yahoo has nothing between the candles opened at %d and %d ms",
                followed.symbol, self.interval, newest.open_ms, answer.bars[0].open_ms,
            )  # fmt: skip

    def _note_failure(self, followed: _Followed, error: PollError) -> None:
        """Raise ``SourceError`` when at the start no symbol at all could be polled."""
        if self._has_answer:
            return
        self._first_failures[followed.symbol] = error
        if len(self._first_failures) < len(self.symbols):
            return
        kinds = {one.kind for one in self._first_failures.values()}
        if kinds <= UNREACHABLE:
            raise UnreachableError(f"Yahoo cannot be reached: {error}")
        if self._once:
            raise SourceError(
                f"none of the {len(self.symbols)} symbols could be polled; the last: {error}"
            )
        if kinds == {ErrorKind.UNKNOWN_SYMBOL}:
            raise SourceError(f"Yahoo knows none of the {len(self.symbols)} symbols: {error}")

    def _note_missing(self, followed: _Followed) -> None:
        """Say once that nothing comes though the exchange is open, and once that it does again."""
        if followed.answer is None or followed.answer.calendar is None:
            return  # whether it is open is not known: FX sleeps at weekends
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
        newest, answer = followed.ledger.newest, followed.answer
        newest_ms = followed.since_ms if newest is None else newest.close_ms
        hours = None if answer is None else answer.hours
        expected_ms = expected_close_ms(self.interval, hours, self._now_ms(), newest_ms)
        return (expected_ms - newest_ms) / 1000
