"""A load of candles, each known by its identity, and the account of what became of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from local.process import Process
from shared.candles import Candle
from shared.forecaster import ContextOf, Models, longest, without_context
from shared.forecasts import Forecast
from shared.score_messages import Scores
from stream_app.pipeline import Incoming, advance
from stream_app.rebuild import SOURCE_KEY
from stream_app.state import SymbolState, join, series_of, stored_order
from tests.candles import walk
from tests.integration.processes import wait_until
from tests.integration.topics import Record, count, read
from tests.integration.workers import WorkerTopics

SYMBOLS = 100
DAYS_AHEAD = 2000  # more than any test needs
NOW_MS = 1_800_000_000_000  # when a replay without a broker makes its messages

STILL_S = 60.0  # no forecast comes for so long: none will
LONGEST_S = 280.0  # that a busy machine takes for all that is owed
LOOK_S = 0.5
WINDOWS_S = 90.0


class Load:
    """Sends candles of many symbols in a thread of its own: the warm-up at once, then paced.

    A broker that goes away is waited for; what it did not acknowledge is sent again.
    """

    def __init__(
        self, topics: WorkerTopics, warm_up: int, *, rate: float, symbols: int = SYMBOLS
    ) -> None:
        self._topics = topics
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), name="load")
        names = [f"S{i:03d}" for i in range(symbols)]
        self._series = [walk(warm_up + DAYS_AHEAD, symbol=name) for name in names]
        self._warm_up = warm_up
        self._producer: AIOKafkaProducer | None = None
        self.sent = 0  # acknowledged, warm-up included
        self.seconds = 0.0  # of the paced part
        self.warm = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Stop after the day that is being sent."""
        self._stop.set()
        self._thread.join(120)

    def owed(self) -> set[tuple[str, int]]:
        """Return symbol and close of every candle sent that is past the warm-up."""
        days = self.sent // len(self._series)
        return {
            (one.symbol, one.close_ms)
            for series in self._series
            for one in series[self._warm_up : days]
        }

    async def _send(self) -> None:
        days = [list(day) for day in zip(*self._series, strict=True)]
        await self._send_all([one for day in days[: self._warm_up] for one in day])
        self.warm.set()
        start = time.monotonic()
        for number, day in enumerate(days[self._warm_up :]):
            due = start + number * len(day) / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._stop.is_set():
                return
            await self._send_all(day)
            self.seconds = time.monotonic() - start

    async def _send_all(self, candles: list[Candle]) -> None:
        while True:
            try:
                await self._send_once(candles)
            except (KafkaError, OSError):
                await asyncio.sleep(0.2)
            else:
                self.sent += len(candles)
                return

    async def _send_once(self, candles: list[Candle]) -> None:
        producer = await self._connected()
        sent = [
            await producer.send(self._topics.candles, one.encode(), one.symbol.encode())
            for one in candles
        ]
        await asyncio.gather(*sent)

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._topics.bootstrap,
                enable_idempotence=True,
                request_timeout_ms=120_000,
            )
            await producer.start()
            self._producer = producer
        return self._producer


@dataclass(frozen=True)
class Account:
    """What a topic of forecasts says of a load."""

    missing: set[tuple[str, int]]
    contradictions: int  # repeats whose numbers differ, and candles with two identities
    out_of_order: int  # first forecasts of a symbol that came behind a later one's
    repeats: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing is missing, contradicted or out of order; repeats are allowed."""
        return not self.missing and not self.contradictions and not self.out_of_order


def settle(records: list[Record], owed: set[tuple[str, int]]) -> Account:
    """Count forecasts by identity."""
    forecasts = [Forecast.decode(one.value) for one in records if one.value]
    by_id: dict[str, list[dict[str, object]]] = defaultdict(list)
    newest: Counter[str] = Counter()
    out_of_order = 0
    for one in forecasts:
        if one.id not in by_id:
            out_of_order += one.as_of_ms < newest[one.symbol]
            newest[one.symbol] = max(newest[one.symbol], one.as_of_ms)
        by_id[one.id].append(one.model_dump(exclude={"made_at_ms"}))
    candles = {(one.symbol, one.as_of_ms) for one in forecasts}
    differing = sum(one != same[0] for same in by_id.values() for one in same)
    return Account(
        missing=owed - candles,
        contradictions=differing + len(by_id) - len(candles),
        out_of_order=out_of_order,
        repeats=len(forecasts) - len(by_id),
    )


def settled(
    topics: WorkerTopics,
    owed: set[tuple[str, int]],
    *,
    process: Process | None = None,
    tend: Callable[[], object] = lambda: None,
) -> Account:
    """Return the account once every owed forecast is there, or none has come for a minute.

    The topic's length alone is looked at while it grows: to read it takes the processor from those
    who are to fill it.

    Args:
        topics: whose forecasts.
        owed: symbol and close of each candle that has one.
        process: that must not end meanwhile.
        tend: called at each look.
    """
    length, since_s = -1, time.monotonic()

    def look() -> Account | None:
        nonlocal length, since_s
        tend()
        before, length = length, count(topics.bootstrap, topics.forecasts)
        if length != before:
            since_s = time.monotonic()
            return None
        is_still = time.monotonic() - since_s > STILL_S
        if length < len(owed) and not is_still:
            return None
        account = settle(read(topics.bootstrap, topics.forecasts), owed)
        return account if is_still or not account.missing else None

    account = wait_until(look, LONGEST_S, "the last forecast", process=process, poll_s=LOOK_S)
    assert account is not None
    return account


def clean_account(
    topics: WorkerTopics,
    owed: set[tuple[str, int]],
    *,
    process: Process | None = None,
    tend: Callable[[], object] = lambda: None,
) -> Account:
    """Return the account of ``settled``, held to be of a load that says something, and clean."""
    account = settled(topics, owed, process=process, tend=tend)
    assert len(owed) > 1000, "the load was too small to say anything"
    assert account.is_clean, account
    return account


def wait_for_replay(topics: WorkerTopics, models: Models, expected: Replay) -> None:
    """Wait for the windows of a replay, then hold the scores to its own.

    A batch's windows are sent when its forecasts and scores are acknowledged.
    """
    wait_until(
        lambda: recovered_windows(topics, models) == expected.windows, WINDOWS_S,
        "the windows of a replay",
    )  # fmt: skip
    assert missing_scores(topics, expected) == 0


def unlike_a_replay(topics: WorkerTopics, models: Models, forecasts: list[Record]) -> set[str]:
    """Return the ids that only the worker or only an unfaulted replay of the candles has.

    An id follows from everything that the numbers follow from.
    """
    made = {Forecast.decode(one.value).id for one in forecasts if one.value}
    return made ^ replay(topics, models).forecasts


def recovered_windows(topics: WorkerTopics, models: Models) -> dict[bytes, SymbolState]:
    """Return the windows that a recovery from the changelog gives, by its rule."""
    capacity = longest(models.all())
    wholes: dict[bytes, bytes] = {}
    spans: dict[bytes, list[bytes]] = {}
    for one in read(topics.bootstrap, f"{topics.group}-windows-changelog"):
        if one.key is None or one.value is None or one.key == SOURCE_KEY:
            continue
        series, is_span = series_of(one.key)
        if is_span:
            spans.setdefault(series, []).append(one.value)
        elif series not in wholes or stored_order(one.value) > stored_order(wholes[series]):
            wholes[series] = one.value
    return {
        key: _content(key, join(whole, spans.get(key, []), capacity), models)
        for key, whole in wholes.items()
    }


def replayed_windows(topics: WorkerTopics, models: Models) -> dict[bytes, SymbolState]:
    """Return the windows that a fresh replay of the candles topic gives."""
    return replay(topics, models).windows


@dataclass
class Replay:
    """What the whole candles topic gives without a fault."""

    windows: dict[bytes, SymbolState]
    forecasts: set[str]  # ids
    scores: dict[tuple[str, int], dict[str, object]]  # by forecast and step


def replay(topics: WorkerTopics, models: Models, context_of: ContextOf = without_context) -> Replay:
    """Return the windows, the forecasts' ids and the scores that the whole candles topic gives."""
    table: dict[bytes, bytes] = {}
    ids: set[str] = set()
    scores: dict[tuple[str, int], dict[str, object]] = {}
    messages = [
        Incoming(one.key, one.value, one.partition, one.offset, one.timestamp_ms)
        for one in read(topics.bootstrap, topics.candles)
    ]
    for start in range(0, len(messages), 512):
        result = advance(
            messages[start : start + 512], table.get, models, 0, NOW_MS, context_of=context_of
        )
        table.update({key: state for key, (_, state) in result.states.items()})
        ids.update(made.id for _, made in result.forecasts)
        for _, encoded in result.scores:
            scores |= by_horizon(Scores.decode(encoded.value))
    windows = {key: _content(key, state, models) for key, state in table.items()}
    return Replay(windows, ids, scores)


def by_horizon(scores: Scores) -> dict[tuple[str, int], dict[str, object]]:
    """Return what a message says of each horizon, by forecast and step."""
    about = scores.model_dump(exclude={"made_at_ms", "horizons", "id"})
    return {(one.forecast_id, one.step): about | one.model_dump() for one in scores.horizons}


def missing_scores(topics: WorkerTopics, expected: Replay) -> int:
    """Return how many due horizons have no score yet; no score may say else than a replay."""
    found = set()
    for record in read(topics.bootstrap, topics.scores):
        for key, score in by_horizon(Scores.decode(record.value)).items():
            assert expected.scores.get(key) == score, (key, score, expected.scores.get(key))
            found.add(key)
    return len(expected.scores.keys() - found)


def _content(key: bytes, stored: bytes, models: Models) -> SymbolState:
    """Return a state, its calibration too, without what depends on how it was written.

    A recovery leaves older candles in a window until its next candle.
    """
    interval = key.decode().rpartition("|")[2]
    capacity = longest(models.all(), (interval,))
    return SymbolState.decode(stored, capacity).with_tail(0)
