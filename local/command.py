"""``candlecast``: one command for every process and tool, safe from the user's own folders.

A console script has no current directory on its path, so that a folder named ``api`` beside a
user's files is never imported in place of ours, as ``python -m api`` would.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, NoReturn

import shtab

from shared import extras, process
from shared.process import Exit
from shared.settings import HelpFormatter, command_line, installed_version

PROG: Final = "candlecast"

SHELLS: Final = tuple(shtab.SUPPORTED_SHELLS)


@dataclass(frozen=True)
class Command:
    """A command: the module that runs it, and the arguments that go before the user's."""

    module: str  # has main(argv, prog)
    about: str
    arguments: tuple[str, ...] = ()
    program: str = ""  # the command that it is a part of
    settings: str = ""  # name of its class of settings, for completion


COMMANDS: Final[Mapping[str, Command]] = {
    "demo": Command(
        "local.__main__", "run everything here: Kafka, worker, API, producer",
        settings="local.settings:LocalCommand",
    ),
    "kafka": Command(
        "local.__main__", "run the embedded Kafka alone", ("kafka",), "demo",
        settings="local.settings:KafkaCommand",
    ),
    "producer": Command(
        "producer.__main__", "publish candles of Yahoo or of files",
        settings="producer.settings:ProducerSettings",
    ),
    "worker": Command(
        "stream_app.__main__", "forecast every candle of the stream",
        settings="stream_app.settings:WorkerCommand",
    ),
    "api": Command(
        "api.__main__", "serve forecasts over HTTP; api keys makes keys",
        settings="api.settings:ApiSettings",
    ),
    "trainer": Command("trainer.__main__", "train, back-test, evaluate and search for models"),
    "dlq": Command(
        "stream_app.__main__", "list, show and replay dead letters", ("dlq",), "worker",
        settings="stream_app.settings:DlqCommands",
    ),
    "tail": Command(
        "local.tail", "show forecasts as they come; in a pipe as JSON lines",
        settings="local.tail:TailSettings",
    ),
    "topics": Command(
        "shared.topic_tool", "make the topics, compare them with what we need, mend them",
        settings="shared.topic_tool:TopicsSettings",
    ),
    "acls": Command(
        "local.__main__", "print or make what each service must be allowed in Kafka", ("acls",),
        "demo", settings="local.settings:AclSettings",
    ),
    "inspect": Command(
        "trainer.__main__", "show a model bundle, or what a file of candles holds", ("inspect",),
        "trainer", settings="trainer.settings:InspectSettings",
    ),
    "doctor": Command(
        "local.doctor", "check versions, ports, broker, topics, clock, disk, model and keys",
        settings="local.doctor:DoctorSettings",
    ),
}  # fmt: skip

EXAMPLES: Final = """\
examples:
  candlecast demo                                 everything, on bundled candles
  candlecast demo --path prices.csv               the same, on yours
  candlecast trainer fit --data prices.csv --out my-bundle
  candlecast tail --symbols AAPL | jq .horizons
  candlecast doctor                               what is wrong here
  eval "$(candlecast completion bash)"            complete commands and flags by tab

exit codes: 0 done, 1 failed, 2 a flag is wrong, 130 interrupted before the end
"""

COMPLETION_EXAMPLES: Final = """\
Examples:
  candlecast completion bash > ~/.local/share/bash-completion/completions/candlecast
  eval "$(candlecast completion zsh)"                 in this shell only
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in {"-h", "--help"}:
        print(parser().format_help(), end="")
        return Exit.DONE if given else Exit.USAGE
    if given[0] == "--version":
        print(f"{PROG} {installed_version()}")
        return Exit.DONE
    name, *rest = given
    if name == "completion":
        return _complete(rest)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, "completion"], 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        names = ", ".join([*COMMANDS, "completion"])
        print(f"{PROG}: expected {names}, got {name!r}{hint}", file=sys.stderr)
        return Exit.USAGE
    command = COMMANDS[name]
    try:
        run: Callable[[Sequence[str], str], int] = import_module(command.module).main
    except ModuleNotFoundError as error:
        told = extras.how_to_install(error.name)
        if told is None:
            raise
        print(f"{PROG} {name} {told}", file=sys.stderr)
        return Exit.FAILED
    return run([*command.arguments, *rest], f"{PROG} {command.program or name}")


def script() -> NoReturn:
    """Run the console script.

    It leaves at once: libraries' threads would keep some commands, and Python takes seconds to
    take PyTorch apart.
    """
    try:
        code = main()
    except KeyboardInterrupt:  # while a command is loaded
        code = Exit.INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough, as head has
        code = Exit.FAILED
    process.leave(code)


def parser(*, whole: bool = False) -> argparse.ArgumentParser:
    """Return the parser of all commands; ``whole`` with their flags, which takes a second."""
    root = argparse.ArgumentParser(
        PROG,
        description="Streaming probabilistic forecasts of market prices.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    version = f"{PROG} {installed_version()}"
    root.add_argument("--version", action="version", version=version, help="show the version")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        of_command = commands.add_parser(name, help=command.about, formatter_class=HelpFormatter)
        if whole:
            _add_flags(name, command, of_command)
    about = "print the completion script of a shell"
    shells = commands.add_parser(
        "completion",
        help=about,
        description=f"{about.capitalize()}.",
        epilog=COMPLETION_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    shells.add_argument("shell", choices=SHELLS, help="shell that completes")
    return root


def _add_flags(name: str, command: Command, of_command: argparse.ArgumentParser) -> None:
    if name == "trainer":
        kinds = import_module(command.module).COMMANDS
        steps = of_command.add_subparsers(metavar="COMMAND")
        for step, (settings_cls, _) in kinds.items():
            command_line(settings_cls, f"{PROG} {name} {step}", steps.add_parser(step, help=step))
        return
    module, _, cls = command.settings.partition(":")
    command_line(getattr(import_module(module), cls), f"{PROG} {name}", of_command)


def _complete(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & {*arguments}:
        parser().parse_args(["completion", "--help"])  # prints it and ends
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        got = " ".join(arguments) or "none"
        print(f"{PROG} completion: expected {' or '.join(SHELLS)}, got {got}", file=sys.stderr)
        return Exit.USAGE
    print(shtab.complete(parser(whole=True), arguments[0]))
    return Exit.DONE


if __name__ == "__main__":
    script()
