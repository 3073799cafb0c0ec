"""Settings as flags and environment variables; every process reads its own once, in ``__main__``.

The flag wins. A setting that processes share is ``CANDLECAST_X``; one that belongs to a process, or
to a command of a process, has their names too: ``--max-batch`` of the worker is
``CANDLECAST_WORKER_MAX_BATCH``. So a variable means one thing, whichever process reads it.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    get_subcommand,
)

from shared import settings_file
from shared.extras import PROJECT, how_to_install
from shared.messages import describe
from shared.process import Exit
from shared.setting_words import default_in_words, placeholder

ENV_PREFIX: Final = "CANDLECAST_"


WIDEST_HELP: Final = 100
"""Most columns of ``--help``."""

LONGEST_DEFAULT: Final = 120
"""Most characters of a default in ``--help``."""

SCRIPT_COMMANDS: Final[Mapping[str, str]] = {
    "stream_app dlq": "dlq",
    "stream_app": "worker",
    "shared.topics": "topics",
    "local kafka": "kafka",
    "local acls": "acls",
    "local": "demo",
    "producer": "producer",
    "api": "api",
    "trainer": "trainer",
}
"""What ``python -m`` runs, and its command of the console script ``candlecast``."""


SCRIPT_SHORTCUTS: Final[Mapping[str, str]] = {
    "demo kafka": "kafka",
    "demo acls": "acls",
    "worker dlq": "dlq",
    "trainer inspect": "inspect",
}
"""Commands of a command that the console script has as its own."""


def own(*names: str) -> SettingsConfigDict:
    """Return the ``model_config`` of settings that belong to a process, or to its command."""
    return SettingsConfigDict(env_prefix=ENV_PREFIX + "".join(f"{name.upper()}_" for name in names))


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list):  # a flag given several times
        return tuple(part for item in value for part in _split(item))  # type: ignore[attr-defined]
    return value


SplitByComma: Final = BeforeValidator(_split)
"""Makes several values of one text; a flag may also be given several times."""

POSITIONAL: Final = get_args(CliPositionalArg[str])[1]
"""The mark of a field that is a positional argument."""

NO_COMMAND: Final = "no_command"
"""The rule that a group of commands breaks of which none is given."""


class Unflagged:
    """The mark of a field that no flag sets: what stands on a command line, others can read."""


Secret = Annotated[SecretStr | None, Unflagged()]
"""A secret: read from its variable alone, and never shown."""

CommaSeparated = Annotated[tuple[str, ...], NoDecode, SplitByComma]


def _known_level(value: str) -> str:
    name = value.upper()
    if name not in logging.getLevelNamesMapping():
        raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
    return name


class Environment(PydanticBaseSettingsSource):
    """Reads each field from the variable of the class that declares it, else from the file."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return os.environ.get(variable(self.settings_cls, field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return what environment and file have, by field; a sub-command reads its own."""
        fields = flags(self.settings_cls)
        read = {name: self.get_field_value(field, name)[0] for name, field in fields}
        given = {name: value for name, value in read.items() if value is not None}
        return settings_file.values(self.settings_cls) | given


class ServiceSettings(BaseSettings):
    """What every process has; ``read`` is the only way in."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags="toggle",  # --x where it is off, --no-x where it is on
        cli_hide_none_type=True,
        cli_enforce_required=False,
        extra="ignore",
        frozen=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.__doc__ = inspect.getdoc(cls)  # --help shows it; Python before 3.13 indents it

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment by the rule above; nothing else is read."""
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, Environment(settings_cls)

    help_title: ClassVar[str] = "logs and settings"
    """The title in ``--help`` of the flags that a class declares."""

    help_topics: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Fields of a class that stand in ``--help`` under a title of their own."""

    settings_file: Path | None = Field(
        None,
        description="TOML file of settings: those that processes share at its top, the others in "
        "the table of their process, as [api] or [trainer.fit]; flags and variables win",
    )
    log_level: Annotated[str, AfterValidator(_known_level)] = Field(
        "INFO", description="least severe log level shown: DEBUG, INFO, WARNING or ERROR"
    )

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Return the settings from flags and environment; exit with 2 and a clear line if bad."""
        try:
            _refuse_secrets(cls, argv)
            with settings_file.opened(settings_file.of(argv, FILE_FLAG, FILE_VARIABLE)):
                arguments = command_line(cls, prog)
                read = cls(_cli_settings_source=arguments(args=list(argv)))  # type: ignore[call-arg]
            lines = [f"{prog}: {line}" for line in _misplaced(argv, read)]
        except ValidationError as error:
            lines = [_in_words(cls, prog, detail) for detail in error.errors(include_url=False)]
        except (SettingsError, settings_file.FileError) as error:
            lines = [f"{prog}: {error}"]
        except ModuleNotFoundError as error:  # a setting may name what an extra brings
            told = how_to_install(error.name)
            if told is None:
                raise
            print(f"{prog} {told}", file=sys.stderr)
            raise SystemExit(Exit.FAILED) from error
        except KeyboardInterrupt:  # a setting may load a library of seconds
            raise SystemExit(Exit.INTERRUPTED) from None
        if not lines:
            return read
        for line in lines:
            print(line, file=sys.stderr)
        raise SystemExit(Exit.USAGE)


FILE_FLAG: Final = "--settings-file"
FILE_VARIABLE: Final = f"{ENV_PREFIX}SETTINGS_FILE"


def command_line(
    settings_cls: type[BaseSettings], prog: str, parser: argparse.ArgumentParser | None = None
) -> CliSettingsSource[Any]:
    """Return the flags of a command, which are added to a parser if one is given."""
    source: CliSettingsSource[Any] = CliSettingsSource(
        settings_cls,
        cli_prog_name=prog,
        root_parser=parser,
        add_argument_method=_Arguments(settings_cls).add,
        add_parser_method=_add_command,
        formatter_class=HelpFormatter,
    )
    _add_version(source.root_parser)
    return source


def _add_command(commands: Any, *names: str, **options: Any) -> argparse.ArgumentParser:
    parser = cast("argparse.ArgumentParser", commands.add_parser(*names, **options))
    _add_version(parser)
    return parser


def _add_version(parser: argparse.ArgumentParser) -> None:
    version = f"candlecast {installed_version()}"
    parser.add_argument(
        "--version", action="version", version=version, help="show the version and exit"
    )


def installed_version() -> str:
    """Return the version of Candlecast; that of a bare checkout is unknown."""
    try:
        return metadata.version(PROJECT)
    except metadata.PackageNotFoundError:
        return "(not installed)"


class CommandGroup(BaseModel):
    """Commands of which one must be given."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.__doc__ = inspect.getdoc(cls)

    @model_validator(mode="after")
    def _is_given(self) -> Self:
        if get_subcommand(self, is_required=False) is None:
            names = ", ".join(name for name, _ in sub_commands(type(self)))
            raise PydanticCustomError(NO_COMMAND, "expected one of {names}", {"names": names})
        return self


def variable(settings_cls: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a field: the prefix is that of the declaring class."""
    return f"{owner(settings_cls, name).model_config.get('env_prefix', '')}{name.upper()}"


def owner(settings_cls: type[BaseSettings], name: str) -> type[BaseSettings]:
    """Return the class that declares a field."""
    return next(
        base
        for base in reversed(settings_cls.__mro__)
        if issubclass(base, BaseSettings) and name in base.model_fields
    )


def flags(settings_cls: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the fields that are flags and variables; not sub-commands and positional arguments."""
    commands = dict(sub_commands(settings_cls))
    for name, field in settings_cls.model_fields.items():
        if name not in commands and POSITIONAL not in field.metadata:
            yield name, field


def sub_commands(settings_cls: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the names and settings of a command's sub-commands."""
    for name, field in settings_cls.model_fields.items():
        for part in getattr(field.annotation, "__args__", ()):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield name, part


def _misplaced(argv: Sequence[str], settings: BaseModel) -> list[str]:
    """Return what is wrong with flags before a sub-command, which would have no effect."""
    names = [name for name, _ in sub_commands(type(settings)) if getattr(settings, name)]
    return [f"flags of {name} go behind it, got {argv[0]}" for name in names if argv[0] != name]


def _in_words(settings_cls: type[BaseModel], prog: str, error: ErrorDetails) -> str:
    """Return what is wrong with a setting, behind the command that it is given to."""
    called, place = prog, error["loc"]
    while place and (part := dict(sub_commands(settings_cls)).get(str(place[0]))):
        called, settings_cls, place = f"{called} {place[0]}", part, place[1:]
    said = error["msg"] if error["type"] == NO_COMMAND else describe({**error, "loc": place})
    return f"{called if 'python -m' in prog else commands_of_script(called)}: {said}"


def is_flag(field: FieldInfo) -> bool:
    """Tell whether a flag sets a field; a secret has its variable alone."""
    return not any(isinstance(mark, Unflagged) for mark in field.metadata)


def flag_of(name: str, field: FieldInfo) -> str:
    """Return the flag of a field; of a switch that is on, the one that turns it off."""
    return f"--{'no-' if field.default is True else ''}{name.replace('_', '-')}"


def _refuse_secrets(settings_cls: type[BaseModel], argv: Sequence[str]) -> None:
    """Raise ``SettingsError`` for a secret on the command line, without repeating it."""
    for name, field in flags(settings_cls):
        flag = f"--{name.replace('_', '-')}"
        if not is_flag(field) and any(part.partition("=")[0] == flag for part in argv):
            raise SettingsError(
                f"{name}: a secret is never given on a command line, where others can read it: "
                f"set {variable(cast('type[BaseSettings]', settings_cls), name)} or {flag}-file"
            )
    for _, command in sub_commands(settings_cls):
        _refuse_secrets(command, argv)


def _help(field: FieldInfo, variable_name: str) -> str:
    description = field.description or ""
    if POSITIONAL in field.metadata:
        return description
    if field.default is False:
        return f"{description} [{variable_name}]"
    if field.default is True:  # its flag is --no-x
        return f"turn off: {description} [{variable_name}=false]"
    default = default_in_words(field)
    if len(default) > LONGEST_DEFAULT:
        default = f"the {len(field.default)} that docs/settings.md lists"
    note = " (required)" if field.is_required() else f" (default: {default})" if default else ""
    return f"{description}{note} [{variable_name}]"


class _Arguments:
    """Adds flags to parsers, in groups by topic, described for people and not by Python's types."""

    def __init__(self, settings_cls: type[BaseModel]) -> None:
        self._settings_cls = settings_cls
        self._groups: dict[tuple[int, str], Any] = {}

    def add(self, parser: Any, *names: str, **options: Any) -> argparse.Action:
        """Add a flag to its group in a parser."""
        if options.get("action") == "help":
            return cast("argparse.Action", parser.add_argument(*names, **options))
        *commands, name = options.get("dest", names[0]).split(".")  # a positional has none
        settings_cls = self._settings_cls
        for command in commands:
            settings_cls = dict(sub_commands(settings_cls))[command]
        of_class = cast("type[BaseSettings]", settings_cls)
        field = settings_cls.model_fields[name]
        if not is_flag(field):
            return argparse.Action([], name)  # none is added: argparse then refuses the flag
        options["help"] = _help(field, variable(of_class, name)).replace("%", "%%")
        shown = placeholder(field.annotation)
        is_positional = not names[0].startswith("-")
        if not is_positional and "metavar" in options and shown is not None:
            options["metavar"] = shown
        target = (
            parser if is_positional else self._group(parser, of_class, title_of(of_class, name))
        )
        return cast("argparse.Action", target.add_argument(*names, **options))

    def _group(self, parser: Any, settings_cls: type[BaseSettings], title: str) -> Any:
        """Return the group of a title; a parser's are made at once, those of its own first."""
        if (id(parser), title) not in self._groups:
            for known in titles(settings_cls):
                self._groups[id(parser), known] = parser.add_argument_group(known)
        return self._groups[id(parser), title]


def title_of(settings_cls: type[BaseSettings], name: str) -> str:
    """Return the title that a flag stands under in ``--help``."""
    declarer = cast("type[ServiceSettings]", owner(settings_cls, name))
    for title, names in declarer.help_topics.items():
        if name in names:
            return title
    return declarer.help_title


def titles(settings_cls: type[BaseSettings]) -> list[str]:
    """Return the titles of a command's flags: its own first, those that all share last."""
    known: dict[str, None] = {}
    for base in settings_cls.__mro__:
        if issubclass(base, ServiceSettings):
            known |= dict.fromkeys([base.help_title, *base.help_topics])
    last = ServiceSettings.help_title
    return [title for title in known if title != last] + [last]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help of at most 100 columns, with a usage that names what must be given."""

    def __init__(self, prog: str, **_: Any) -> None:
        width = min(shutil.get_terminal_size().columns, WIDEST_HELP)
        super().__init__(prog, max_help_position=28, width=width)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Any,
        prefix: str | None = None,
    ) -> None:
        """Write the usage: as many flags as there are would hide what must be given."""
        del usage
        given = [*actions]
        parts = ["%(prog)s"]
        parts += ["[options]"] if any(action.option_strings for action in given) else []
        for action in given:
            if not action.option_strings:
                name = self._format_args(action, str(action.metavar or action.dest))
                is_open = not action.required and not name.startswith("[")
                parts.append(f"[{name}]" if is_open else name)
        super().add_usage(" ".join(parts).replace("...]", "...]"), [], groups, prefix)

    def format_help(self) -> str:
        """Return the help, with commands as they were called."""
        text = super().format_help()
        return text if "python -m" in self._prog else commands_of_script(text)


def commands_of_script(text: str) -> str:
    """Return a text with the commands of the console script in place of ``python -m``."""
    for module, command in SCRIPT_COMMANDS.items():
        text = re.sub(rf"python -m {module}\b", f"candlecast {command}", text)
    for whole, short in SCRIPT_SHORTCUTS.items():
        text = re.sub(rf"candlecast {whole}\b", f"candlecast {short}", text)
    return text
