"""The console script: its help, mistakes, completion, and what it hands on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from shutil import which

import pytest
from pydantic import BaseModel

from api.edge.keys_command import KeysCommand
from local import command
from local.command import COMMANDS, SHELLS, main
from shared.process import Exit
from shared.settings import commands_of_script, sub_commands


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == Exit.DONE
    shown = capsys.readouterr().out
    for name in (*COMMANDS, "completion"):
        assert f"\n    {name}" in shown
    assert "exit codes: 0 done" in shown
    assert main([]) == Exit.USAGE


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == Exit.DONE
    assert capsys.readouterr().out.startswith("candlecast ")


def test_a_mistyped_command_gets_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trainr"]) == Exit.USAGE
    assert "got 'trainr'; did you mean trainer?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help_that_speaks_of_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([name, "--help"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == Exit.DONE
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: candlecast {name}")
    assert "python -m" not in shown


USUAL_TITLES = {"Example", "Examples", "options", "positional arguments", "subcommands"}
WITHOUT_FLAGS = {"completion", "dlq", "worker dlq"}


def every_command() -> Iterator[str]:
    """Yield all that can be called, whole: commands, their commands, and those of theirs."""
    yield "completion"
    for name, called in COMMANDS.items():
        module, _, cls = called.settings.partition(":")
        if name == "trainer":
            yield from (f"{name} {step}" for step in import_module(called.module).COMMANDS)
        else:
            yield from of_settings(name, getattr(import_module(module), cls))
    yield from of_settings("api keys", KeysCommand)


def of_settings(name: str, settings_cls: type[BaseModel]) -> Iterator[str]:
    yield name
    for step, part in sub_commands(settings_cls):
        yield from of_settings(f"{name} {step}", part)


@pytest.mark.parametrize("name", [*every_command()])
def test_each_command_s_help_is_for_people(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Examples, flags by topic, the version; no type of Python's, no Markdown."""
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert re.search(r"Examples?:\n  (eval \"\$\()?candlecast ", shown)
    assert (
        re.findall(r"`|tuple\b|factory:|<class|NoneType|default: (?:None|\(|False|True)", shown)
        == []
    )
    titles = {*re.findall(r"^([A-Za-z][\w ,'-]*):$", shown, re.MULTILINE)} - USUAL_TITLES
    assert titles or name in WITHOUT_FLAGS
    for line in shown.splitlines():
        assert len(line) <= 100, line


@pytest.mark.parametrize("name", sorted(set(every_command()) - {"completion"}))
def test_each_command_knows_its_version(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("candlecast ")


def test_the_commands_of_a_group_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dlq", "--help"])
    assert "[{list,show,replay,skip} ...]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["dlq"], "candlecast dlq: expected one of list, show, replay, skip\n"),
        (["dlq", "list", "--since", "x"], "candlecast dlq list: since: expected a time such as "),
        (["acls", "--partitions", "0"], "candlecast acls: partitions: expected at least 1"),
    ],
)
def test_a_mistake_is_said_behind_the_command_that_was_called(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    assert capsys.readouterr().err.startswith(words)


def test_modules_are_called_by_their_commands() -> None:
    text = "python -m stream_app dlq list; python -m local kafka; python -m api keys"
    assert commands_of_script(text) == (
        "candlecast dlq list; candlecast kafka; candlecast api keys"
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_that_knows_commands_and_flags(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == Exit.DONE
    script = capsys.readouterr().out
    for word in (*COMMANDS, "backtest", "exit-when-done"):
        assert word in script


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bash = which("bash")
    if bash is None:
        pytest.skip("needs bash")
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    lines = """source ./script
COMP_WORDS=(candlecast wo); COMP_CWORD=1; COMP_LINE='candlecast wo'; COMP_POINT=13
_shtab_candlecast; echo "${COMPREPLY[*]}"
COMP_WORDS=(candlecast api --tls-c); COMP_CWORD=2; COMP_LINE='candlecast api --tls-c'; COMP_POINT=22
_shtab_candlecast; echo "${COMPREPLY[*]}"
"""
    done = subprocess.run(
        [bash, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["worker"],
        ["--tls-certificate", "--tls-client-authorities"],
    ], done.stderr


@pytest.mark.parametrize("argv", [["--help"], ["completion", "bash"], ["dlq", "--help"]])
def test_a_reader_that_has_enough_ends_it_quietly(argv: list[str]) -> None:
    """As in ``candlecast --help | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    script = "from local.command import script; script()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *argv], stdout=writing, stderr=subprocess.PIPE,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == ""


def test_completion_of_no_shell_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == Exit.USAGE
    assert "expected bash or" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(command, "import_module", missing)
    monkeypatch.setattr("shared.extras.extras", lambda: {"torch": "train"})
    assert main(["trainer"]) == Exit.FAILED
    assert "pip install 'candlecast[train]'" in capsys.readouterr().err
