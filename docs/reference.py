"""Pages of reference that follow from the code: settings, metrics, exit codes and exceptions."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import Counter, Info
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from api.edge.keys_command import KeysCommand
from api.settings import ApiSettings
from local import jars
from local.doctor import DoctorSettings
from local.settings import LocalCommand
from local.tail import TailSettings
from producer.settings import ProducerSettings
from shared import process
from shared.access import AccessSettings
from shared.bundle import ServingSettings
from shared.files.table_settings import TableSettings
from shared.kafka import KafkaSettings
from shared.metrics import GROUPS, Metric, declared
from shared.model_store import StoreSettings
from shared.setting_words import default_in_words, type_in_words
from shared.settings import (
    ServiceSettings,
    commands_of_script,
    flag_of,
    flags,
    is_flag,
    owner,
    sub_commands,
    variable,
)
from shared.topic_tool import TopicsSettings
from shared.traces import TraceSettings
from stream_app.settings import WorkerCommand
from trainer.__main__ import COMMANDS

SHARED: Final = (
    ServiceSettings,
    AccessSettings,
    KafkaSettings,
    ServingSettings,
    StoreSettings,
    TableSettings,
    TraceSettings,
)
"""Settings that processes share."""

PROCESSES: Final[dict[str, type[ServiceSettings]]] = {
    "producer": ProducerSettings,
    "worker": WorkerCommand,
    "api": ApiSettings,
    "api keys": KeysCommand,
    "topics": TopicsSettings,
    "local": LocalCommand,
    "local topics": KafkaSettings,  # read from the environment alone
    "tail": TailSettings,
    "doctor": DoctorSettings,
    **{f"trainer {name}": settings for name, (settings, _) in COMMANDS.items()},
}
"""The settings of each process, and of its commands beside those that these name themselves."""

PROGRAMS: Final = {
    "producer": "producer",
    "worker": "stream_app",
    "api": "api",
    "topics": "shared.topics",
    "local": "local",
    "trainer": "trainer",
    "tail": "local.tail",
    "doctor": "local.doctor",
}
"""The package that each process runs."""

SETTINGS_FILE_EXAMPLE: Final = """```toml
bootstrap = "kafka:9092"
symbols = ["AAPL", "MSFT"]

[api]
port = 8001

[trainer.fit]
hidden = 32
```"""

ROOTS: Final = frozenset({"Exception", "LookupError", "OSError", "ValueError", "KafkaError"})
"""Exceptions of others that ours derive from."""

PACKAGES: Final = ("producer", "stream_app", "api", "trainer", "shared", "local")


@dataclass
class Variable:
    """An environment variable: what declares it, and the commands that read it."""

    name: str
    flag: str  # empty for a secret, which has its variable alone
    field: FieldInfo
    owner: type[BaseModel]
    readers: list[str]


def commands() -> Iterator[tuple[str, type[ServiceSettings]]]:
    """Yield every command of every process, such as ``worker dlq list``, with its settings."""
    for name, settings in PROCESSES.items():
        yield from _commands(name, settings)


def _commands(name: str, settings: type[BaseModel]) -> Iterator[tuple[str, type[ServiceSettings]]]:
    if issubclass(settings, ServiceSettings):
        yield name, settings
    for command, of_command in sub_commands(settings):
        yield from _commands(f"{name} {command}", of_command)


def variables() -> list[Variable]:
    """Return every variable that a command reads, once for each class that declares it."""
    known: dict[tuple[str, type[BaseModel]], Variable] = {}
    for reader, settings in commands():
        for name, field in flags(settings):
            declarer = owner(settings, name)
            key = (variable(settings, name), declarer)
            flag = f"`{flag_of(name, field)}`" if is_flag(field) else ""
            known.setdefault(key, Variable(key[0], flag, field, declarer, [])).readers.append(
                reader
            )
    return list(known.values())


def settings_page() -> str:
    """Return the page of all settings of all processes."""
    parts = [
        "# Settings",
        "Written by `docs/generate.py` from the code.",
        (
            "Each setting is a flag of the command and an environment variable; the flag wins. A "
            "setting that processes share is `CANDLECAST_X`. One that belongs to a process is "
            "`CANDLECAST_<PROCESS>_X`, and one of a command of it "
            "`CANDLECAST_<PROCESS>_<COMMAND>_X`; so a variable means one thing in every process. "
            "A list takes its parts by comma. A switch that is off has a flag that turns it on, "
            "one that is on has `--no-x`."
        ),
        (
            "`--settings-file FILE`, or `CANDLECAST_SETTINGS_FILE`, reads them from TOML; flags "
            "and variables win. Shared settings stand at its top, the others in a table of their "
            "process or command:"
        ),
        SETTINGS_FILE_EXAMPLE,
    ]
    known = variables()
    shared = [setting for setting in known if setting.owner in SHARED]
    parts += ["## Shared", _table(_shared_rows(shared))]
    for title, program in PROGRAMS.items():
        own = [setting for setting in known if setting not in shared and _is_of(title, setting)]
        parts += [f"## {title.capitalize()}: `{_called(program)}`", _table(_own_rows(own))]
    parts += [
        "## Beside them",
        (
            f"`{jars.CACHE_VARIABLE}` names the folder that keeps Apache Kafka's jars, by default "
            "`~/.cache/candlecast`. `CANDLECAST_MODELS_FOLDER` is read by "
            "`docker-compose.yml` alone: the folder that worker, API and trainer see as `/models`."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def env_example() -> str:
    """Return a file of variables for ``docker compose``: every setting of its services."""
    parts = [
        "# Written by docs/generate.py from the code. docker compose reads .env: copy into it what",
        "# you change, without the #. A password belongs into a file that its variable",
        "# with _FILE names, mounted into the container.",
        "",
        "# demo replays the bundled candles, live follows Yahoo",
        "COMPOSE_PROFILES=demo",
        "",
        "# folder of the model store, which user 10001 can write; by default the volume models",
        "#CANDLECAST_MODELS_FOLDER=./data/models",
        "",
        "# where CANDLECAST_TRACES=true sends traces; OpenTelemetry has more such variables",
        "#OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318",
    ]
    for setting in variables():
        if {"producer", "worker", "api", "topics", "trainer watch", "trainer fit"} & {
            *setting.readers
        }:
            parts += ["", *_comment(setting.field.description or "")]
            parts.append(f"#{setting.name}={default_in_words(setting.field)}")
    return "\n".join(parts) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")


def _called(program: str) -> str:
    """Return how a program is called: by the console script, and where there is one by module."""
    script = commands_of_script(f"python -m {program}")
    if program in {"local.tail", "local.doctor"}:
        return f"candlecast {program.removeprefix('local.')}"
    return f"{script}`, `python -m {program}"


def _is_of(title: str, setting: Variable) -> bool:
    return any(reader.split()[0] == title for reader in setting.readers)


def _shared_rows(settings: Iterable[Variable]) -> Iterator[tuple[str, ...]]:
    yield "variable", "flag", "type", "default", "meaning", "read by"
    for setting in settings:
        readers = sorted({reader.split()[0] for reader in setting.readers}, key=[*PROGRAMS].index)
        yield (*_cells(setting), ", ".join(readers))


def _own_rows(settings: Iterable[Variable]) -> Iterator[tuple[str, ...]]:
    yield "variable", "flag", "type", "default", "meaning"
    for setting in settings:
        yield _cells(setting)


def _cells(setting: Variable) -> tuple[str, ...]:
    field = setting.field
    default = default_in_words(field)
    shown = "required" if field.is_required() else f"`{default}`" if default else ""
    meaning = field.description or ""
    return f"`{setting.name}`", f"{setting.flag}", type_in_words(field), shown, meaning


def metrics_page() -> str:
    """Return the page of all metrics of all processes."""
    parts = [
        "# Metrics",
        "Written by `docs/generate.py` from `shared/metrics.py`.",
        (
            "Each service serves them at `/metrics`, producer and worker on a port of their own, "
            "the API on its only one. Times are in seconds, sizes in bytes. Every service also has "
            "`process_cpu_seconds_total`, `process_resident_memory_bytes`, "
            "`process_virtual_memory_bytes`, `process_open_fds`, `process_max_fds` and "
            "`process_start_time_seconds` of `prometheus_client`, on Linux."
        ),
    ]
    for name, group in GROUPS.items():
        rows = [("metric", "kind", "labels", "meaning")]
        rows += [_metric_cells(metric) for _, metric in declared(group)]
        parts += [f"## {name.capitalize()}", _table(rows)]
    return "\n\n".join(parts) + "\n"


def _metric_cells(metric: Metric) -> tuple[str, str, str, str]:
    kind = metric.kind
    suffix = "_total" if kind is Counter else "_info" if kind is Info else ""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"`{metric.name}{suffix}`", kind.__name__.lower(), labels, metric.help


def errors_page(root: Path) -> str:
    """Return the page of exit codes and of the tree of exceptions."""
    codes = [("code", "name", "meaning")]
    codes += [(f"`{code.value}`", code.name, meaning) for code, meaning in exit_codes(root)]
    tree = "\n".join(_tree(root))
    return (
        "\n\n".join(
            [
                "# Errors",
                "Written by `docs/generate.py` from the code.",
                "## Exit codes",
                _table(codes),
                "An expected error is one line in the log; any other is logged with its traceback.",
                "## Exceptions",
                "Each is raised where its package says; Python's own stand unindented.",
                f"```\n{tree}\n```",
            ]
        )
        + "\n"
    )


def exit_codes(root: Path) -> Iterator[tuple[process.Exit, str]]:
    """Yield each exit code with its docstring."""
    module = ast.parse((root / "shared" / "process.py").read_text())
    [body] = [
        node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Exit"
    ]
    docs = [
        node.value.value
        for node in body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    yield from zip(process.Exit, map(str, docs[1:]), strict=True)


def _tree(root: Path) -> Iterator[str]:
    """Yield a line for each exception, below the one that it derives from."""
    classes = [*_classes(root)]
    bases = {node.name: [ast.unparse(base) for base in node.bases] for _, node in classes}
    below: dict[str, list[tuple[str, ast.ClassDef]]] = {}
    for module, node in classes:
        if node.bases and _is_exception(node.name, bases):
            below.setdefault(ast.unparse(node.bases[0]), []).append((module, node))
    for top in sorted(set(below) - set(bases)):
        yield top
        yield from _below(top, below, depth=1)


def _below(
    base: str, below: dict[str, list[tuple[str, ast.ClassDef]]], depth: int
) -> Iterator[str]:
    for module, node in below.get(base, ()):
        first, *_ = (ast.get_docstring(node) or "").splitlines()
        yield f"{'  ' * depth}{module}.{node.name}: {first}"
        yield from _below(node.name, below, depth + 1)


def _is_exception(name: str, bases: dict[str, list[str]]) -> bool:
    return name in ROOTS or any(_is_exception(base, bases) for base in bases.get(name, ()))


def _classes(root: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield module, node


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
