"""Reads candles, forecasts and scores into the market; goes on by itself after any failure."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from api.stream.cursors import Origin
from api.stream.hub import Hub
from api.stream.market import Market, StreamEvent
from api.stream.pulse import Pulse
from api.stream.time_order import TimeOrder
from shared import kafka as clients
from shared.candles import InvalidCandle, decode_candle
from shared.forecasts import Forecast, InvalidForecast
from shared.kafka import Consumer, KafkaSettings, Partition, Record
from shared.messages import printable
from shared.metrics import ApiMetrics
from shared.process import AWAY, WAITING, in_words, is_being_cancelled, now_ms
from shared.score_messages import InvalidScore, Scores
from shared.status import Health, since
from shared.topic_ids import topic_ids
from shared.topics import TopicError, partitions_of
from shared.unusable import UnusableMessages

log = logging.getLogger(__name__)

CHECK_S: Final = 1.0
"""Time between two questions to the broker how far the topics are."""

MEASURE_S: Final = 10.0
"""Time between two sums of the scores for the metrics."""

MEASURED: Final = "90"
"""The central interval whose coverage is a metric, per cent."""

ANSWER_S: Final = 4.0
"""Longest wait for an answer of the broker; after it the client is made again."""

CLOSE_S: Final = 2.0
"""Longest wait for a client that is given up."""

CATCH_UP_S: Final = 6.0
"""Longest reading after a stall, at the pace seen so far; what is older is skipped."""

FIRST_PACE: Final = 5_000.0
"""Messages read in a second, a guess on the low side until there is a measurement."""

MEASURABLE: Final = 5_000
"""Unread messages from which reading them tells the pace."""

BURST: Final = 20_000
"""Unread messages of a topic that are read whatever the pace: 10,000 symbols close at once, and
where older messages are skipped, each still has one among those."""

STANDSTILL_S: Final = 60.0
"""Time without a turn of the follower after which /livez fails."""

_BACK_OFF_S: Final = (0.5, 4.0)  # first, longest
_MAX_RECORDS: Final = 200
_FETCH_BYTES: Final = 256 << 10  # of a partition at once: all partitions' wait in memory


class _TopicsLost(Exception):
    """The topics are not there, or are not those that were followed."""


class _FellBehind(Exception):
    """More unread messages than may be read after a stall."""


@dataclass
class StreamView:
    """The stream as this instance of the API sees it."""

    market: Market
    hub: Hub
    connected: bool = False
    detail: str = "not connected to Kafka yet"
    lag: int | None = None
    kafka: str = ""  # its address
    since_ms: int = field(default_factory=now_ms)  # when connected and detail became so
    started_ms: int = field(default_factory=now_ms)
    topics: tuple[str, ...] = ()  # of candles, forecasts and scores
    pulse: Pulse = field(default_factory=Pulse)
    turned_s: float | None = None  # when the follower last did something, monotonic

    def health(self) -> Health:
        """Fail when the follower stands still; a broker that is away is not its fault."""
        if self.turned_s is not None and time.monotonic() - self.turned_s > STANDSTILL_S:
            still_s = time.monotonic() - self.turned_s
            return Health(
                ok=False, detail=f"the stream's follower stands still for {still_s:.0f} s"
            )
        word = "followed" if self.connected else "not followed"
        return Health(ok=True, detail=f"stream {word}: {self.detail}, {since(self.since_ms)}")


class Follower:
    """A consumer of the topics without a group: each instance of the API sees all."""

    def __init__(
        self, kafka: KafkaSettings, live: StreamView, metrics: ApiMetrics, lookback: int
    ) -> None:
        """Follow from the newest ``lookback`` messages of each topic."""
        self._kafka = kafka
        self._topics = (kafka.candles_topic, kafka.forecasts_topic, kafka.scores_topic)
        self._live = live
        live.kafka = kafka.bootstrap
        live.topics = self._topics
        self._metrics = metrics
        self._lookback = lookback
        self._next: dict[Partition, int] = {}  # the offset to go on from
        self._ids: dict[str, str] = {}  # of the topics that these offsets belong to
        self._pace = FIRST_PACE  # messages read in a second
        self._unusable = UnusableMessages(log)
        self._caught_up = False
        self._reason = ""
        self._said_s = 0.0  # when the log last said so, monotonic

    async def run(self) -> None:
        """Follow until cancelled; whatever fails, all is tried again with a new client."""
        wait_s, longest_s = _BACK_OFF_S
        while True:
            self._live.turned_s = time.monotonic()
            try:
                await self._follow()
            except _FellBehind as error:
                log.warning("%s: only the newest are read", error)
                continue
            except (Exception, asyncio.CancelledError) as error:
                if is_being_cancelled():
                    raise
                if self._live.connected:
                    wait_s = _BACK_OFF_S[0]
                self._lost(error)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, longest_s)

    async def _follow(self) -> None:
        consumer = clients.consumer(
            self._kafka, request_timeout_ms=int(ANSWER_S * 1000), retry_backoff_ms=200,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )  # fmt: skip
        try:
            async with asyncio.timeout(4 * ANSWER_S):
                await clients.start(consumer, self._kafka)
                parts = [part for topic in self._topics for part in await self._parts(topic)]
                await self._recognise()
                self._caught_up = False
                ends = await self._look_back(consumer, parts)
            await self._read(consumer, ends)
        finally:
            async with asyncio.timeout(CLOSE_S):
                await consumer.stop()

    async def _parts(self, topic: str) -> list[Partition]:
        async with asyncio.timeout(ANSWER_S * 2):
            numbers = await partitions_of(self._kafka, topic)
        if not numbers:
            raise _TopicsLost(f"topic {topic} does not exist yet")
        return [Partition(topic, number) for number in numbers]

    async def _recognise(self) -> None:
        """Forget how far the topics were read when they are other ones of the same names."""
        ids = await topic_ids(self._kafka, self._topics)
        if ids != self._ids:
            self._next = {}
        self._ids = ids

    async def _look_back(self, consumer: Consumer, parts: list[Partition]) -> dict[Partition, int]:
        """Choose where following begins or goes on; return where the topics end now."""
        begins = await consumer.beginning_offsets(parts)
        ends: dict[Partition, int] = await consumer.end_offsets(parts)
        if not self._goes_on(begins, ends):
            most = self._most_unread if self._next else self._lookback
            self._live.market.clear()
            self._next = {}
            for part in parts:
                share = most // sum(other.topic == part.topic for other in parts)
                self._next[part] = max(begins[part], ends[part] - share)
        starts = [self._next[part] for part in parts]
        self._live.hub.begin(self._topics, starts, [ends[part] for part in parts])
        return ends

    def _goes_on(self, begins: Mapping[Partition, int], ends: Mapping[Partition, int]) -> bool:
        """Tell whether the next messages are there, and few enough to read them all."""
        return (
            self._next.keys() == ends.keys()
            and all(begins[part] <= at <= ends[part] for part, at in self._next.items())
            and not self._is_far_behind(ends)
        )

    def _is_far_behind(self, ends: Mapping[Partition, int]) -> bool:
        unread: dict[str, int] = {}
        for part, end in ends.items():
            unread[part.topic] = unread.get(part.topic, 0) + end - self._next[part]
        return max(unread.values()) > self._most_unread

    @property
    def _most_unread(self) -> int:
        """How many messages of each topic are read after a stall."""
        return max(BURST, int(self._pace * CATCH_UP_S / len(self._topics)))

    async def _read(self, consumer: Consumer, goal: Mapping[Partition, int]) -> None:
        parts = list(self._next)
        numbers = {part: number for number, part in enumerate(parts)}
        next_check = next_measure = 0.0
        order = TimeOrder(self._next, goal)
        starts, began_s = dict(self._next), time.monotonic()
        unread = sum(end - starts[part] for part, end in goal.items())
        async for read in clients.follow(
            consumer, starts, most=_MAX_RECORDS, wanted=lambda: order.wanted
        ):
            self._live.turned_s = time.monotonic()
            records = read
            if not order.is_over:
                records = [*order.add(read)]
                for part in parts:
                    records += order.reached(part, await consumer.position(part))
            for record in records:
                part = clients.partition_of(record)
                self._take(record, (numbers[part], record.offset))
                self._next[part] = record.offset + 1
            await asyncio.sleep(0)  # a long backlog must not keep requests waiting
            if order.is_over and not self._caught_up:
                self._caught_up = True
                if unread >= MEASURABLE:
                    self._pace = unread / (time.monotonic() - began_s)
            if time.monotonic() >= next_check:
                await self._check(consumer, parts)
                next_check = time.monotonic() + CHECK_S
            if self._caught_up and time.monotonic() >= next_measure:
                self._measure()
                next_measure = time.monotonic() + MEASURE_S

    def _measure(self) -> None:
        """Show how good the next candle's forecasts have been, by interval."""
        metrics = self._metrics
        for interval, [first] in self._live.market.overall(first=True).items():
            metrics.scored.labels(interval).set(first.count)
            for of, coverage in (("published", first.coverage), ("model", first.raw_coverage)):
                metrics.coverage.labels(interval, of).set(coverage.get(MEASURED, math.nan))
            for against, skill in (
                ("baseline", first.baseline_skill),
                ("persistence", first.persistence_skill),
            ):
                metrics.skill.labels(interval, against).set(math.nan if skill is None else skill)

    async def _check(self, consumer: Consumer, parts: list[Partition]) -> None:
        """See whether the broker answers, and how far behind we are."""
        async with asyncio.timeout(ANSWER_S):
            ends = await consumer.end_offsets(parts)
            positions = {part: await consumer.position(part) for part in parts}
        if any(positions[part] > end for part, end in ends.items()):
            raise _TopicsLost("a topic was recreated")
        self._live.lag = sum(end - positions[part] for part, end in ends.items())
        self._metrics.lag.set(self._live.lag)
        self._live.pulse.see_lag(self._live.lag, now_ms())
        if self._caught_up and self._is_far_behind(ends):
            raise _FellBehind(f"{self._live.lag} messages behind after a stall")
        if self._caught_up and not self._live.connected:
            log.info("following %s", ", ".join(sorted({part.topic for part in parts})))
            self._reason = ""
            self._state("following", connected=True)
        elif not self._caught_up:
            self._state("reading the topics' newest messages", connected=False)

    def _take(self, record: Record, origin: Origin) -> None:
        self._live.pulse.note(record.topic, _appended_ms(record))
        self._live.hub.publish(origin, self._event(record, origin))

    def _event(self, record: Record, origin: Origin) -> StreamEvent | None:
        """Return the news of a message; none of one that cannot be used, whatever its fault."""
        try:
            if record.topic == self._kafka.candles_topic:
                candle = decode_candle(record.key, record.value, record.timestamp)
                return self._live.market.add_candle(candle, record.timestamp, origin)
            if record.topic == self._kafka.scores_topic:
                scores = Scores.decode(record.value)
                self._metrics.scores.inc(len(scores.horizons))
                return self._live.market.add_scores(scores, origin)
            forecast = Forecast.decode(record.value)
            return self._live.market.add_forecast(forecast, record.timestamp, origin)
        except InvalidCandle as error:  # the worker puts it aside
            self._pass_over(record, str(error.reason), error)
        except InvalidForecast as error:
            self._pass_over(record, "invalid_forecast", error)
        except InvalidScore as error:
            self._pass_over(record, "invalid_score", error)
        except Exception as error:  # noqa: BLE001 -- one message must not stop those after it
            self._pass_over(record, "error", error)
        return None

    def _pass_over(self, record: Record, reason: str, error: Exception) -> None:
        self._metrics.ignored.labels(reason).inc()
        is_theirs = isinstance(error, ValueError)
        detail = printable(str(error)) if is_theirs else "an error on our side; the log has it"
        self._live.pulse.refuse(record, _appended_ms(record), reason, detail)
        self._unusable.note(record, reason, error)

    def _lost(self, error: BaseException) -> None:
        reason = in_words(error)
        known = isinstance(
            error, (*clients.TRANSIENT, _TopicsLost, TopicError, asyncio.CancelledError)
        )
        is_due = known and time.monotonic() - self._said_s >= clients.SLOW_S
        if is_due or self._reason != reason:  # the log has the details, clients do not
            mark = AWAY if self._next else WAITING
            log.warning(
                "the stream is not followed: %s", reason, exc_info=not known,
                extra=mark if known else None,
            )  # fmt: skip
            self._said_s = time.monotonic()
        self._reason = reason
        self._live.lag = None
        self._metrics.lag.set(math.nan)
        self._state("Kafka, or one of its topics, is out of reach", connected=False)

    def _state(self, detail: str, *, connected: bool) -> None:
        if (self._live.connected, self._live.detail) != (connected, detail):
            self._live.since_ms = now_ms()
        self._live.connected = connected
        self._live.detail = detail
        self._metrics.connected.set(connected)


def _appended_ms(record: Record) -> int:
    """Return when a message was appended; a topic may have times of its writers, of any year."""
    return min(record.timestamp, now_ms())
