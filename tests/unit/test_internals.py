"""Every internal of a library that we use: named here, and missed when a new version lacks it.

An internal is a private attribute, or a hook that the library does not document. The bounds in
``pyproject.toml`` keep versions out that these tests have not seen.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from api.edge.server import LimitedProtocol, Server
from stream_app.faust_app import (
    CommittedThread,
    DirectConsumer,
    DirectTransport,
    KeepingFlowControl,
    SilentMonitor,
    WorkerApp,
)
from stream_app.windows import WindowStore, WindowTable

ROOT: Final = Path(__file__).parents[2]

SUBCLASSES: Final[dict[type[Any], str]] = {
    CommittedThread: "_create_worker_consumer",
    DirectConsumer: "__init__ _commit _committed_offset _drain_messages _get_active_partitions "
    "_getmany _new_consumer_thread _read_offset _to_message ack app assignment beacon "
    "can_resume_flow commit consumer_stopped_errors earliest_offsets flow_active highwaters loop "
    "on_partitions_assigned on_partitions_revoked perform_seek seek_wait should_stop wait",
    DirectTransport: "Consumer",
    KeepingFlowControl: "is_active resume",
    SilentMonitor: "on_message_in on_message_out on_stream_event_in on_stream_event_out "
    "on_topic_buffer_full track_tp_end_offset",
    WorkerApp: "_create_directories flow_control",
    WindowStore: "__post_init__ _key_partition apply_changelog_batch data",
    WindowTable: "_new_store app changelog_topic_name loop name on_recovery_completed",
    Server: "__init__ config lifespan server_state shutdown startup",
    LimitedProtocol: "connection_lost connection_made cycle data_received headers loop on_body "
    "on_header on_headers_complete on_message_begin on_message_complete on_response_complete "
    "pause_writing resume_writing send_400_response timeout_keep_alive_task transport",
}
"""What each of our classes overrides or uses of the library's class that it derives from."""

ATTRIBUTES: Final = (
    "aiokafka:AIOKafkaProducer._sender",  # shared.kafka.abandon, and so the next lines
    "aiokafka:AIOKafkaProducer.client",
    "aiokafka.producer.sender:Sender.sender_task",
    "aiokafka.admin:AIOKafkaAdminClient._send_request",  # shared.topic_ids
    "aiokafka.client:AIOKafkaClient.close",
    "aiokafka.conn:AIOKafkaConnection.send",  # shared.kafka.mend_clients
    "aiokafka.conn:AIOKafkaConnection.close",
    "aiokafka.consumer.fetcher:MemoryRecords",  # shared.batches, and so the next lines
    "aiokafka.consumer.fetcher:PartitionRecords.next_fetch_offset",
    "aiokafka.record.util:decode_varint",
    "aiokafka.record._crecords.default_records:gzip_decode",  # shared.codecs, and so the next
    "aiokafka.record._crecords.default_records:snappy_decode",
    "aiokafka.record._crecords.default_records:lz4_decode",
    "aiokafka.record._crecords.default_records:zstd_decode",
    "aiokafka.partitioner:DefaultPartitioner.__call__",  # producer.resume: where a key lies
    "faust:App.consumer_generation_id",  # stream_app.worker, and so the next lines
    "faust:App.crash",
    "faust:App.crash_reason",
    "faust:App.in_recovery",
    "faust:App.on_partitions_assigned",
    "faust:App.on_partitions_revoked",
    "faust:App.rebalancing",
    "faust.app.base:App.consumer",
    "faust.tables.manager:TableManager.add",
    "faust.tables.manager:TableManager.changelog_queue",
    "faust.tables.base:Collection.on_recover",
    "faust.streams:Stream.noack",
    "faust.transport.conductor:Conductor.acks_enabled_for",
    "faust.transport.consumer:ensure_TP",
    "faust.types:Message.generation_id",
    "faust.types:Message.incref",
    "faust.types:Message.tracked",
    "faust.transport.consumer:Consumer.stop_flow",
    "mode.utils.queues:FlowControlEvent.suspend",
    "pydantic:BaseModel.__pydantic_extra__",  # shared.messages, and so the next lines
    "pydantic:BaseModel.__pydantic_fields_set__",
    "pydantic:BaseModel.__pydantic_private__",
    "pydantic:BaseModel.__pydantic_serializer__",
    "pydantic_settings.sources.types:_CliPositionalArg",  # shared.settings.POSITIONAL
    "uvicorn:Config.load",
    "yfinance:set_tz_cache_location",
    "yfinance.data:YfData.get",
    "yfinance.exceptions:YFRateLimitError",
    "yfinance.pricing_pb2:PricingData",
)
"""What else is used: module, then attribute."""


def has(owner: Any, name: str) -> bool:
    """Tell whether a class has an attribute, or its methods set it on an instance."""
    if hasattr(owner, name):
        return True
    bases = owner.__mro__ if isinstance(owner, type) else ()
    return any(
        name in vars(base).get("__annotations__", {})
        or re.search(rf"self\.{name}\b(: [^=\n]+)? = ", source_of(base))
        for base in bases
    )


@cache
def source_of(base: type[Any]) -> str:
    try:
        return inspect.getsource(base)
    except (OSError, TypeError):  # of the standard library, or built in
        return ""


def names_used(ours: type[Any]) -> set[str]:
    """Return what a class defines, and what it uses of itself."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(ours))).body
    assert isinstance(body, ast.ClassDef)
    defined = {
        node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ast.unparse(name)
        for node in body.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign)
        for name in getattr(node, "targets", [node])
    }
    return defined | {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("ours", SUBCLASSES, ids=lambda ours: ours.__name__)
def test_what_we_override_and_use_of_a_base_class_is_there_and_named(ours: type[Any]) -> None:
    base = ours.__mro__[1]
    of_base = {name for name in names_used(ours) if has(base, name)}
    assert of_base == set(SUBCLASSES[ours].split())


@pytest.mark.parametrize("ours", SUBCLASSES, ids=lambda ours: ours.__name__)
def test_an_override_takes_what_the_base_class_s_method_takes(ours: type[Any]) -> None:
    for name, method in vars(ours).items():
        theirs = getattr(ours.__mro__[1], name, None)
        if not inspect.isfunction(method) or not inspect.isfunction(theirs) or name == "__init__":
            continue
        taken = inspect.signature(method).parameters
        if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in taken.values()):
            continue
        assert list(taken) == list(inspect.signature(theirs).parameters), name


@pytest.mark.parametrize("path", ATTRIBUTES)
def test_an_attribute_is_there(path: str) -> None:
    module, _, names = path.partition(":")
    owner: Any = importlib.import_module(module)
    for name in names.split("."):
        assert has(owner, name), path
        owner = getattr(owner, name, None)


def test_yfinance_keeps_its_cookie_in_the_file_that_is_copied() -> None:
    assert "cookies.db" in inspect.getsource(importlib.import_module("yfinance.cache"))


def test_what_has_such_internals_has_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {line.partition(">=")[0]: line for line in project["dependencies"]}
    for library in ("aiokafka", "faust-streaming", "pydantic", "pydantic-settings", "uvicorn",
                    "yfinance"):  # fmt: skip
        assert ",<" in bounds[library], library
