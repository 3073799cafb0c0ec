"""The context of the worker's forecasts: joined as of each close, and awaited where it is due."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import pytest
from aiokafka import ConsumerRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from shared import bundle
from shared.candles import DAY_MS, Candle
from shared.context import ContextSpec, ContextStore, context_key
from shared.forecaster import Models, ModelSet, OnnxForecaster
from shared.forecasts import Forecast
from shared.kafka import KafkaSettings
from shared.metrics import WorkerMetrics
from shared.score_messages import Scores
from stream_app.context import WorkerContext, expected
from stream_app.pipeline import BatchResult, Incoming, advance
from tests import bundles
from tests.candles import candle, walk

NOW_MS: Final = 2_000_000_000_000
SPEC: Final = ContextSpec(symbols=("^GSPC",), interval="1d", length=2)
SPREAD: Final = 0.01
WARM: Final = bundles.LENGTH


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> OnnxForecaster:
    """A model whose volatility is higher by the sum of the closes that it is given."""
    folder = bundles.write(tmp_path_factory.mktemp("context") / "bundle", context=SPEC)
    return OnnxForecaster(bundle.load(folder))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> OnnxForecaster:
    folder = bundles.write(tmp_path_factory.mktemp("plain") / "bundle", levels=(0.1, 0.5, 0.9))
    return OnnxForecaster(bundle.load(folder))


def index(day: int, close: float = 1.0, symbol: str = "^GSPC") -> Candle:
    return candle(day, close, symbol=symbol)


def stored(*candles: Candle) -> ContextStore:
    store = ContextStore()
    for made in candles:
        store.push(made)
    return store


def incoming(candles: list[Candle]) -> list[Incoming]:
    return [
        Incoming(made.symbol.encode(), made.encode(), 0, offset, NOW_MS)
        for offset, made in enumerate(candles)
    ]


def forecasts_of(
    candles: list[Candle], models: Models, store: ContextStore, sizes: list[int] | None = None
) -> list[Forecast]:
    """Return what a worker publishes for candles, in batches of some sizes, again and again."""
    table: dict[bytes, bytes] = {}
    made: list[Forecast] = []
    messages, at = incoming(candles), 0
    for size in sizes or [len(messages)]:
        result = advance(
            messages[at : at + size], table.get, models, 0, NOW_MS, context_of=store.window
        )
        at += size
        table.update({key: state for key, (_, state) in result.states.items()})
        made += [forecast for _, forecast in result.forecasts]
    return made


def seen(forecast: Forecast) -> float:
    """Return the sum of the context closes that the model was given."""
    return round(forecast.horizons[0].volatility - SPREAD, 4)


def test_a_forecast_has_the_context_of_its_close_and_says_how_old_it_is(
    reading: OnnxForecaster,
) -> None:
    store = stored(
        index(WARM - 3, 1.0), index(WARM - 2, 2.0), index(WARM - 1, 4.0), index(WARM, 8.0)
    )
    first, second, third = forecasts_of(walk(WARM + 2), ModelSet(reading), store)
    assert [seen(first), seen(second), seen(third)] == [6, 12, 12]
    assert first.context_as_of_ms == first.as_of_ms
    assert third.context_as_of_ms == third.as_of_ms - DAY_MS == second.as_of_ms


def test_without_a_context_a_model_that_reads_one_forecasts_and_one_that_reads_none_is_as_ever(
    reading: OnnxForecaster, plain: OnnxForecaster
) -> None:
    candles = walk(WARM)
    nothing, full = stored(), stored(index(WARM - 1))
    [without] = forecasts_of(candles, ModelSet(reading), nothing)
    assert (without.context_as_of_ms, seen(without)) == (None, 0)
    [one], [other] = (forecasts_of(candles, ModelSet(plain), store) for store in (nothing, full))
    assert one.model_dump() == other.model_dump()


@settings(max_examples=20, deadline=None)
@given(
    later=st.lists(st.tuples(st.integers(0, WARM + 8), st.floats(0.5, 4, width=32)), max_size=12),
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=10),
)
def test_no_forecast_changes_with_a_context_candle_that_closed_after_its_own(
    reading: OnnxForecaster, later: list[tuple[int, float]], sizes: list[int]
) -> None:
    """The truncation test of the stream: whatever else the topic holds, and in any batches."""
    candles = walk(WARM + 6)
    known = [index(day, 1 + day / 8) for day in range(WARM + 2)]
    whole = forecasts_of(candles, ModelSet(reading), stored(*known), [*sizes, len(candles)])
    for forecast in whole:
        past = [made for made in known if made.close_ms <= forecast.as_of_ms]
        future = [
            index(day, close) for day, close in later if index(day).close_ms > forecast.as_of_ms
        ]
        cut = [made for made in candles if made.close_ms <= forecast.as_of_ms]
        [*_, again] = forecasts_of(cut, ModelSet(reading), stored(*future, *past))
        assert again.model_dump() == forecast.model_dump()


def test_a_correction_of_the_context_changes_what_follows_and_nothing_that_was_said(
    reading: OnnxForecaster,
) -> None:
    candles, store = walk(WARM + 1), stored(index(WARM - 1, 1.0))
    table: dict[bytes, bytes] = {}
    messages = incoming(candles)

    def advanced(some: list[Incoming]) -> BatchResult:
        return advance(some, table.get, ModelSet(reading), 0, NOW_MS, context_of=store.window)

    before = advanced(messages[:-1])
    table.update({key: state for key, (_, state) in before.states.items()})
    store.push(index(WARM - 1, 3.0))
    again = advanced(messages[:-1])
    assert not again.forecasts, "a redelivered candle gives nothing, whatever the context is now"
    after = advanced(messages[-1:])
    [(_, first)], [(_, second)] = before.forecasts, after.forecasts
    assert (seen(first), seen(second)) == (1, 3)
    [(_, encoded)] = after.scores
    [score] = Scores.decode(encoded.value).horizons
    assert score.forecast_id == first.id


def test_models_with_and_without_context_serve_side_by_side_and_take_over_from_each_other(
    reading: OnnxForecaster, plain: OnnxForecaster
) -> None:
    daily, hourly = (
        walk(WARM),
        [
            made.model_copy(update={"interval": "1h", "close_ms": made.open_ms + 3_600_000})
            for made in walk(WARM)
        ],
    )
    mixed = [made for pair in zip(daily, hourly, strict=True) for made in pair]
    made = forecasts_of(mixed, ModelSet(reading, {"1h": plain}), stored(index(WARM - 1, 2.0)))
    assert {forecast.interval: seen(forecast) for forecast in made} == {"1d": 2, "1h": 0}

    table: dict[bytes, bytes] = {}
    store, swapped = stored(*(index(day) for day in range(WARM + 4))), []
    for at, message in enumerate(incoming(walk(WARM + 4))):
        model = reading if at % 2 else plain
        result = advance([message], table.get, ModelSet(model), 0, NOW_MS, context_of=store.window)
        table.update({key: state for key, (_, state) in result.states.items()})
        swapped += [forecast for _, forecast in result.forecasts]
    assert [seen(forecast) > 0 for forecast in swapped] == [
        bool(at % 2) for at in range(WARM - 1, WARM + 4)
    ]


@dataclass
class Arrived:
    """A message as the consumer delivers it."""

    key: bytes | None
    value: bytes | None
    timestamp: float = NOW_MS / 1000


def arrived(*candles: Candle) -> list[Arrived]:
    return [Arrived(made.symbol.encode(), made.encode()) for made in candles]


def test_what_is_about_to_come_is_expected_and_nothing_else() -> None:
    store = stored(index(4))
    at = {day: list(expected(store, SPEC, candle(day).close_ms)) for day in range(3, 14)}
    awaited = [("^GSPC", "1d")]
    assert at[3] == [], "a later candle is there: this one never comes"
    assert at[4] == [], "it has come"
    assert [day for day, late in at.items() if late == awaited] == [5, 6, 7, 8, 9, 10, 11]
    assert at[12] == [], "nothing has come for a week"
    within_the_day = candle(5).close_ms - 300_000
    assert list(expected(store, SPEC, within_the_day)) == []
    assert list(expected(stored(), SPEC, candle(5).close_ms)) == awaited, "it was never heard of"


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


class Scene:
    """A worker's context without a broker: candles of the context are put into its store."""

    def __init__(self, model: OnnxForecaster, wait_s: float) -> None:
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.context = WorkerContext(
            KafkaSettings.read([], "tests"), ModelSet(model), self.metrics, wait_s
        )
        self.context.reader._is_read.set()

    def come(self, *candles: Candle) -> None:
        records = [
            ConsumerRecord(
                "context", 0, 0, NOW_MS, 1, context_key(made), made.encode(), None, 0, 0, ()
            )
            for made in candles
        ]
        self.context.reader._take(records)

    async def waits(self, *candles: Candle) -> float:
        """Return how long candles wait for their context, s."""
        began_s = asyncio.get_running_loop().time()
        await self.context.until_there(arrived(*candles))
        return asyncio.get_running_loop().time() - began_s

    def late(self) -> float:
        return value(self.registry, "candlecast_context_late_total", symbol="^GSPC")


LONG_S: Final = 20.0
SHORT_S: Final = 0.1


def test_a_candle_waits_for_the_context_of_its_close_and_no_longer(reading: OnnxForecaster) -> None:
    async def run() -> None:
        scene = Scene(reading, LONG_S)
        scene.come(index(0))
        waiting = asyncio.create_task(scene.waits(candle(1)))
        await asyncio.sleep(0)
        scene.come(index(0, 2.0))  # a correction is not it
        await asyncio.sleep(0.01)
        assert not waiting.done()
        scene.come(index(1))
        assert await waiting < LONG_S / 2
        assert await scene.waits(candle(1)) < LONG_S / 2, "it is there"
        assert scene.late() == 0

    asyncio.run(run())


def test_a_wait_in_vain_is_the_last_until_the_symbol_comes_again(reading: OnnxForecaster) -> None:
    async def run() -> None:
        scene = Scene(reading, SHORT_S)
        scene.come(index(0))
        assert await scene.waits(candle(1)) >= SHORT_S
        scene.context._wait_s = LONG_S
        assert await scene.waits(candle(1), candle(2)) < LONG_S / 2, "the producer is away"
        assert scene.late() == 1
        scene.come(index(1))
        scene.context._wait_s = SHORT_S
        assert await scene.waits(candle(2)) >= SHORT_S, "it is back"
        assert scene.late() == 2

    asyncio.run(run())


def test_nothing_waits_for_a_model_without_context_nor_for_what_is_no_candle(
    reading: OnnxForecaster, plain: OnnxForecaster
) -> None:
    async def run() -> None:
        scene = Scene(plain, LONG_S)
        scene.come(index(0))
        assert await scene.waits(candle(1)) < LONG_S / 2
        reads = Scene(reading, LONG_S)
        reads.come(index(0))
        await asyncio.wait_for(reads.context.until_there([Arrived(b"A", b"{")]), LONG_S / 2)
        never = Scene(reading, 0.0)
        never.come(index(0))
        assert await never.waits(candle(1)) < LONG_S / 2, "--context-wait-seconds 0"
        assert never.late() == 0

    asyncio.run(run())


def test_forecasts_begin_though_the_topic_cannot_be_read(
    reading: OnnxForecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_app.context.READ_SECONDS", SHORT_S)

    async def run() -> None:
        scene = Scene(reading, SHORT_S)
        scene.context.reader._is_read.clear()
        assert await scene.waits(candle(1)) >= SHORT_S
        monkeypatch.setattr("stream_app.context.READ_SECONDS", LONG_S)
        assert await scene.waits(candle(1)) < LONG_S / 2, "once is enough"

    asyncio.run(run())


def test_the_age_of_the_context_is_counted(reading: OnnxForecaster) -> None:
    async def run() -> list[float]:
        scene = Scene(reading, 0.0)
        scene.come(index(WARM - 1, 2.0))
        made = forecasts_of(walk(WARM + 1), ModelSet(reading), scene.context.reader.store)
        [none] = forecasts_of(walk(WARM), ModelSet(reading), stored())
        scene.context.note(enumerate([*made, none]))
        return [
            value(scene.registry, "candlecast_context_age_seconds_count"),
            value(scene.registry, "candlecast_context_age_seconds_sum"),
            value(scene.registry, "candlecast_forecasts_without_context_total"),
            value(
                scene.registry, "candlecast_context_close_timestamp_seconds",
                symbol="^GSPC", interval="1d",
            ),
        ]  # fmt: skip

    assert asyncio.run(run()) == [2, 86_400, 1, index(WARM - 1).close_ms / 1000]
