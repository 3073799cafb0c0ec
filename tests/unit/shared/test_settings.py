from __future__ import annotations

import re

import pytest
from pydantic import BaseModel, Field
from pydantic_settings import CliPositionalArg, CliSubCommand

from docs import reference
from shared.access import client_options
from shared.kafka import KafkaSettings
from shared.setting_words import placeholder, type_in_words
from shared.settings import (
    POSITIONAL,
    CommandGroup,
    CommaSeparated,
    ServiceSettings,
    flag_of,
    flags,
    is_flag,
    own,
    sub_commands,
    variable,
)


class Symbols(ServiceSettings):
    """Takes symbols."""

    symbols: CommaSeparated = ("AAPL",)
    once: bool = False
    limit: int | None = None


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        KafkaSettings.read(argv, "python -m x")
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_defaults_are_those_of_one_machine() -> None:
    settings = KafkaSettings.read([], "x")
    assert settings.bootstrap == "127.0.0.1:9092"
    assert settings.candles_topic == "market.candles.v1"
    assert settings.forecasts_topic == "market.forecasts.v1"
    assert settings.dlq_topic == "market.candles.v1.dlq"
    assert settings.log_level == "INFO"


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_PARTITIONS", "3")
    monkeypatch.setenv("CANDLECAST_BOOTSTRAP", "one:1,two:2")
    settings = KafkaSettings.read(["--partitions", "5"], "x")
    assert settings.partitions == 5
    assert settings.bootstrap == "one:1,two:2"


def test_variables_of_other_services_do_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_NO_SUCH_SETTING", "1")
    KafkaSettings.read([], "x")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--partitions", "many"], "partitions: expected a whole number, got"),
        (["--partitions", "0"], 'partitions: expected at least 1, got "0"'),
        (["--replication", "8"], "replication: expected at most 7"),
        (["--log-level", "loud"], 'expected DEBUG, INFO, WARNING or ERROR, got "loud"'),
    ],
)
def test_a_bad_value_ends_with_one_clear_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = complaint(argv, capsys).splitlines()
    assert line.startswith("python -m x: ")
    assert words in line


def test_an_unknown_flag_ends_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--no-such-flag" in complaint(["--no-such-flag", "1"], capsys)


def test_a_bad_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDLECAST_PARTITIONS", "x")
    assert "partitions: " in complaint([], capsys)


def test_every_bad_value_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = complaint(["--partitions", "0", "--replication", "0"], capsys).splitlines()
    assert len(lines) == 2


LEAKED = re.compile(
    r"Input should|input is|valid |[Vv]alue error|pars(e|ing)|separator|out of range"
    r"|outside expected|pydantic|Traceback|<class"
)
"""Words of pydantic's and of Python's, which say nothing to who gave a flag."""


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "nan", "99999999999999999999", "\udcff"])
@pytest.mark.parametrize("command", reference.PROCESSES)
def test_no_bad_value_of_any_flag_is_answered_in_words_of_a_library(
    command: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[tuple[list[str], type[BaseModel]]] = [([], reference.PROCESSES[command])]
    for path, settings_cls in commands:
        commands += [([*path, name], part) for name, part in sub_commands(settings_cls)]
        argv = [*path, *("x" for _ in positionals(settings_cls))]
        argv += [
            f"{flag_of(name, field)}={value}"
            for name, field in flags(settings_cls)
            if is_flag(field) and field.default not in {True, False} and name != "settings_file"
        ]
        with pytest.raises(SystemExit) as ended:
            reference.PROCESSES[command].read(argv, command)
        assert ended.value.code == 2
        for line in capsys.readouterr().err.splitlines():
            assert not LEAKED.search(line.replace(repr(value), "")), line


def positionals(settings_cls: type[BaseModel]) -> list[str]:
    return [
        name for name, field in settings_cls.model_fields.items() if POSITIONAL in field.metadata
    ]


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        KafkaSettings.read(["--help"], "python -m x")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "python -m x" in shown
    for name, field in KafkaSettings.model_fields.items():
        if is_flag(field):
            assert f"  {flag_of(name, field)} " in shown


@pytest.mark.parametrize(
    ("argv", "symbols"),
    [
        ([], ("AAPL",)),
        (["--symbols", "AAPL,MSFT"], ("AAPL", "MSFT")),
        (["--symbols", "AAPL", "--symbols", "^GSPC,BTC-USD"], ("AAPL", "^GSPC", "BTC-USD")),
        (["--symbols", " AAPL , ,MSFT,"], ("AAPL", "MSFT")),
    ],
)
def test_lists_are_separated_by_comma(argv: list[str], symbols: tuple[str, ...]) -> None:
    assert Symbols.read(argv, "x").symbols == symbols


def test_a_list_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_SYMBOLS", "AAPL,MSFT")
    assert Symbols.read([], "x").symbols == ("AAPL", "MSFT")


def test_switches_need_no_value() -> None:
    assert Symbols.read(["--once"], "x").once
    assert not Symbols.read([], "x").once


def test_the_log_level_is_known_in_any_case() -> None:
    assert Symbols.read(["--log-level", "debug"], "x").log_level == "DEBUG"


def test_a_variable_means_one_thing_in_every_process() -> None:
    """``CANDLECAST_RATE`` was a number in the producer and ``200/second`` in the API."""
    declarers: dict[str, set[object]] = {}
    for setting in reference.variables():
        declarers.setdefault(setting.name, set()).add(setting.owner)
    assert {name: owners for name, owners in declarers.items() if len(owners) > 1} == {}


def test_a_variable_has_the_name_of_the_process_that_it_belongs_to() -> None:
    for setting in reference.variables():
        processes = {reader.split()[0] for reader in setting.readers}
        if setting.owner in reference.SHARED:
            assert len(processes) > 1, setting.name
            assert not setting.name.startswith(
                tuple(f"CANDLECAST_{process.upper()}_" for process in reference.PROGRAMS)
            )
        else:
            [process] = processes
            assert setting.name.startswith(f"CANDLECAST_{process.upper()}_"), setting.name


def test_every_variable_is_read_by_its_processes_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``local`` gives one environment to all: what is wrong in it for one may not stop another."""
    for setting in reference.variables():
        if type_in_words(setting.field) in {"text", "path", "texts, by comma"}:
            continue
        with monkeypatch.context() as patched:
            patched.setenv(setting.name, "nonsense")
            for reader, settings in reference.commands():
                if reader not in setting.readers and not any(
                    field.is_required() for field in settings.model_fields.values()
                ):
                    settings.read([], reader)
    assert capsys.readouterr().err == ""


def test_a_process_reads_its_own_variable_only(monkeypatch: pytest.MonkeyPatch) -> None:
    read = dict(reference.commands())
    monkeypatch.setenv("CANDLECAST_RATE", "nonsense")
    monkeypatch.setenv("CANDLECAST_API_RATE", "5/second")
    monkeypatch.setenv("CANDLECAST_PRODUCER_RATE", "7")
    assert read["producer"].read([], "x").model_dump()["rate"] == 7
    assert read["api"].read([], "x").model_dump()["rate"] == "5/second"


class Named(ServiceSettings):
    """Take a thing."""

    model_config = own("tool", "take")

    thing: CliPositionalArg[str] = Field(description="what to take")
    most: int = Field(3, ge=1, le=9, description="how many")
    parts: CommaSeparated = Field(("a", "b"), description="which parts; 100 %")


class Group(CommandGroup):
    """Do things."""

    take: CliSubCommand[Named] = Field(description="take a thing")


class Tool(ServiceSettings):
    """A tool."""

    model_config = own("tool")

    width: float | None = Field(None, gt=0, description="how wide")
    do: CliSubCommand[Group] = Field(description="do things")


def shown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        Tool.read(argv, "tool")
    assert ended.value.code == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_help_speaks_of_people_s_types(capsys: pytest.CaptureFixture[str]) -> None:
    top = shown(["--help"], capsys)
    assert "--width NUMBER how wide [CANDLECAST_TOOL_WIDTH]" in top
    assert "do do things" in top
    of_command = shown(["do", "take", "--help"], capsys)
    assert "THING what to take options" in of_command
    assert "--most NUMBER how many (default: 3) [CANDLECAST_TOOL_TAKE_MOST]" in of_command
    assert "--parts A,B,... which parts; 100 % (default: a,b)" in of_command


@pytest.mark.parametrize(("reader", "settings"), list(reference.commands()))
def test_no_help_shows_python_s_types(
    reader: str, settings: type[ServiceSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings.read(["--help"], reader)
    told = capsys.readouterr().out
    raw = r"tuple\b|factory:|default: (None|\(|False|True)|--[\w-]+ (str|int|float|Path|date\w*)\b"
    assert re.findall(raw, told) == []


def test_a_command_reads_its_variables_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_TOOL_TAKE_MOST", "5")
    monkeypatch.setenv("CANDLECAST_TOOL_TAKE_THING", "other")
    read = Tool.read(["do", "take", "it", "--parts", "c"], "tool")
    assert read.do is not None
    assert read.do.take is not None
    assert (read.do.take.thing, read.do.take.most, read.do.take.parts) == ("it", 5, ("c",))
    assert variable(Named, "most") == "CANDLECAST_TOOL_TAKE_MOST"


def test_types_have_words() -> None:
    assert type_in_words(Named.model_fields["most"]) == "whole number from 1 to 9"
    assert type_in_words(Tool.model_fields["width"]) == "number above 0"
    assert placeholder(tuple[int, ...]) == "N,N,..."


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for argv in (["--sasl-password", "s3cret"], ["--ssl-key-password=s3cret"]):
        said = complaint(argv, capsys)
        assert "a secret is never given on a command line" in said
        assert "CANDLECAST_S" in said
        assert "s3cret" not in said
    with pytest.raises(SystemExit):  # nor by a short form of it
        KafkaSettings.read(["--sasl-passw", "s3cret"], "x")


def test_a_secret_is_read_from_its_variable_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CANDLECAST_SASL_PASSWORD", "s3cret")
    flags = ["--security-protocol", "SASL_SSL", "--sasl-username", "worker"]
    settings = KafkaSettings.read(flags, "x")
    assert client_options(settings)["sasl_plain_password"] == "s3cret"  # noqa: S105
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()}"
