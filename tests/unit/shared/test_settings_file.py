"""Settings of a TOML file: tables as processes, and what wins over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import CliSubCommand

from shared.kafka import KafkaSettings
from shared.settings import CommaSeparated, own


class Fit(KafkaSettings):
    """Fit."""

    model_config = own("tool", "fit")

    hidden: int = Field(8, ge=1, description="size")


class Tool(KafkaSettings):
    """A tool."""

    model_config = own("tool")

    parts: CommaSeparated = Field((), description="parts")
    quick: bool = Field(default=False, description="be quick")
    fit: CliSubCommand[Fit] = Field(description="fit")


TEXT = """
bootstrap = "kafka:1"
partitions = 3
model = "of another process"

[tool]
parts = ["a", "b"]
quick = true

[tool.fit]
hidden = 32

[api]
anything = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(TEXT)
    return path


def test_each_table_is_read_by_its_process(file: Path) -> None:
    read = Tool.read(["fit", "--settings-file", str(file)], "tool")
    assert (read.bootstrap, read.partitions, read.parts, read.quick) == (
        "kafka:1", 3, ("a", "b"), True,
    )  # fmt: skip
    assert read.fit is not None
    assert (read.fit.hidden, read.fit.bootstrap) == (32, "kafka:1")
    assert Tool.read([], "tool").partitions == 8


def test_variables_and_flags_win(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLECAST_SETTINGS_FILE", str(file))
    monkeypatch.setenv("CANDLECAST_PARTITIONS", "5")
    read = Tool.read(["--bootstrap=here:2"], "tool")
    assert (read.bootstrap, read.partitions, read.parts) == ("here:2", 5, ("a", "b"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = ", "expected TOML"),
        ("[tool]\nhide = 1", "[tool] hide: no such setting"),
        ("tool = 3", "tool: expected a table, got 3"),
        ("partitions = 0", "partitions: expected at least 1, got 0"),
        ("[tool.fit]\nhidden = 0", "hidden: expected at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_one_line(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        Tool.read(["fit", "--settings-file", str(path)], "tool")
    assert ended.value.code == 2
    assert all(words in line for line in capsys.readouterr().err.splitlines())


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Tool.read(["--settings-file", "/nope.toml"], "tool")
    assert "/nope.toml: cannot be read: No such file" in capsys.readouterr().err
