"""Records of partitions, read one after the other, come by time."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from api.stream.time_order import ENOUGH, TimeOrder
from shared.kafka import Partition, Record

TOPIC = "candles"


def record(part: int, offset: int, timestamp: int) -> Record:
    made = SimpleNamespace(topic=TOPIC, partition=part, offset=offset, timestamp=timestamp)
    return cast("Record", made)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 10**9))
def test_all_come_once_by_time_and_in_the_order_of_their_partition(
    sizes: list[int], seed: int
) -> None:
    chance = random.Random(seed)
    parts = [Partition(TOPIC, number) for number in range(len(sizes))]
    clock = 0
    records: dict[int, list[Record]] = {number: [] for number in range(len(sizes))}
    left = list(sizes)
    while any(left):
        number = chance.choice([index for index, size in enumerate(left) if size])
        clock += chance.randrange(3)
        records[number].append(record(number, len(records[number]), clock))
        left[number] -= 1
    order = TimeOrder(dict.fromkeys(parts, 0), dict(zip(parts, sizes, strict=True)))
    came: list[Record] = []
    for number in chance.sample(range(len(sizes)), len(sizes)):  # one partition after the other
        came += order.add(records[number])
    assert order.is_over
    assert len(came) == sum(sizes)
    assert [one.timestamp for one in came] == sorted(one.timestamp for one in came)
    for number, size in enumerate(sizes):
        assert [one.offset for one in came if one.partition == number] == list(range(size))


def test_what_is_read_far_ahead_of_others_waits() -> None:
    first, second = Partition(TOPIC, 0), Partition(TOPIC, 1)
    order = TimeOrder({first: 0, second: 0}, {first: 5_000, second: 2})
    assert [*order.add([record(0, offset, offset) for offset in range(ENOUGH)])] == []
    assert order.wanted == [second]
    came = [*order.add([record(1, 0, 10)])]
    assert [one.timestamp for one in came] == [*range(11), 10][: len(came)]
    assert [*order.reached(second, 2)], "a transaction's end has an offset and no record"
    assert not order.is_over


def test_what_came_after_the_end_is_not_lost() -> None:
    part = Partition(TOPIC, 0)
    order = TimeOrder({part: 0}, {part: 1})
    assert len([*order.add([record(0, 0, 1), record(0, 1, 2)])]) == 2
    assert order.is_over
