"""What the overrides of Faust do that needs no broker; the fault tests show the rest."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP, Message
from mode.utils.queues import FlowControlQueue

from stream_app.faust_app import DirectConsumer, KeepingFlowControl, make_app
from stream_app.fence import Fence
from stream_app.settings import WorkerSettings

SOURCE = "candles"


def message(topic: str, offset: int, partition: int = 0) -> Message:
    return Message(
        topic=topic, partition=partition, offset=offset, timestamp=0.0, timestamp_type=1,
        headers=[], key=b"k", value=b"%d" % offset, checksum=None, tp=TP(topic, partition),
    )  # fmt: skip


@pytest.fixture
def changelog() -> asyncio.Queue[Any]:
    return asyncio.Queue()


@pytest.fixture
def consumer(changelog: asyncio.Queue[Any]) -> DirectConsumer:
    """A consumer that was never started: only what hands messages on."""
    made: Any = object.__new__(DirectConsumer)
    made.app = SimpleNamespace(
        topics=SimpleNamespace(acks_enabled_for=lambda topic: topic == SOURCE),
        tables=SimpleNamespace(changelog_queue=changelog),
    )
    made._read_offset = {}
    return made  # type: ignore[no-any-return]


def test_each_table_gets_the_records_of_its_topic(
    consumer: DirectConsumer, changelog: asyncio.Queue[Any]
) -> None:
    """Every record that was not of the source went to the one table."""
    stream: asyncio.Queue[Any] = asyncio.Queue()
    windows: list[Message] = []
    scores: list[Message] = []
    consumer.deliver_to(stream, {"windows": windows.append, "scores": scores.append})
    chunk = [
        message("windows", 1), message(SOURCE, 5), message("scores", 1), message("windows", 2),
        message(SOURCE, 6), message("scores", 2, partition=1),
    ]  # fmt: skip
    consumer._hand_on(chunk, are_sought=True)
    assert [(one.topic, one.offset) for one in windows] == [("windows", 1), ("windows", 2)]
    assert [(one.topic, one.offset) for one in scores] == [("scores", 1), ("scores", 2)]
    assert [one.offset for one in stream.get_nowait().value] == [5, 6]
    progress = [changelog.get_nowait().message for _ in range(changelog.qsize())]
    assert {(one.tp, one.offset) for one in progress} == {
        (TP("windows", 0), 2), (TP("scores", 0), 1), (TP("scores", 1), 2),
    }  # fmt: skip


def test_records_that_no_table_takes_are_an_error(consumer: DirectConsumer) -> None:
    consumer.deliver_to(asyncio.Queue(), {"windows": lambda _: None})
    with pytest.raises(LookupError, match="topic other: no table takes its records"):
        consumer._hand_on([message("other", 1)], are_sought=True)


def test_nothing_of_a_source_is_handed_on_before_it_was_sought(consumer: DirectConsumer) -> None:
    stream: asyncio.Queue[Any] = asyncio.Queue()
    consumer.deliver_to(stream, {})
    consumer._hand_on([message(SOURCE, 5)], are_sought=False)
    assert stream.empty()


def test_an_acknowledgement_commits_nothing(consumer: DirectConsumer) -> None:
    assert consumer.ack(message(SOURCE, 1)) is False


def test_a_flow_that_runs_keeps_its_buffers_when_it_is_resumed() -> None:
    """faust#596: what was fetched between seek and resumption was lost."""

    async def kept() -> list[int]:
        control = KeepingFlowControl()
        queue: FlowControlQueue[int] = FlowControlQueue(flow_control=control, clear_on_resume=True)
        control.suspend()
        sizes = []
        for number in range(2):  # the first resumption begins a new flow, with empty buffers
            queue.put_nowait(number)
            control.resume()
            sizes.append(queue.qsize())
        return sizes

    assert asyncio.run(kept()) == [0, 1]


def test_the_app_makes_nothing_on_disk_and_reaches_every_broker() -> None:
    async def urls() -> list[str]:
        settings = WorkerSettings.read(["--bootstrap", "a:1, b:2"], "tests")
        app = make_app(settings, Fence(), lambda *_: None)
        app._create_directories()
        return [str(url) for url in app.transport.url]

    assert asyncio.run(urls()) == ["kafka://a:1", "kafka://b:2"]
