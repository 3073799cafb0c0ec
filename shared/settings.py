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
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Final, Self, cast, get_args

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
from pydantic_core import PydanticCustomError
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

from shared.messages import describe
from shared.process import Exit
from shared.setting_words import default_in_words, placeholder

ENV_PREFIX: Final = "CANDLECAST_"


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
    """Reads each field from the variable of the class that declares it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return os.environ.get(variable(self.settings_cls, field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return what the environment has, by field; a sub-command reads its own."""
        fields = flags(self.settings_cls)
        read = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: value for name, value in read.items() if value is not None}


class ServiceSettings(BaseSettings):
    """What every process has; ``read`` is the only way in."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
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

    log_level: Annotated[str, AfterValidator(_known_level)] = Field(
        "INFO", description="least severe log level shown: DEBUG, INFO, WARNING or ERROR"
    )

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Return the settings from flags and environment; exit with 2 and a clear line if bad."""
        try:
            _refuse_secrets(cls, argv)
            arguments: CliSettingsSource[Any] = CliSettingsSource(
                cls,
                cli_prog_name=prog,
                cli_parse_args=list(argv),
                add_argument_method=partial(_add_argument, settings_cls=cls),
            )
            read = cls(_cli_settings_source=arguments)  # type: ignore[call-arg]
            lines = _misplaced(argv, read)
        except ValidationError as error:
            lines = [describe(detail) for detail in error.errors(include_url=False)]
        except SettingsError as error:
            lines = [str(error)]
        if not lines:
            return read
        for line in lines:
            print(f"{prog}: {line}", file=sys.stderr)
        raise SystemExit(Exit.USAGE)


class CommandGroup(BaseModel):
    """Commands of which one must be given."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.__doc__ = inspect.getdoc(cls)

    @model_validator(mode="after")
    def _is_given(self) -> Self:
        if get_subcommand(self, is_required=False) is None:
            names = ", ".join(name for name, _ in sub_commands(type(self)))
            raise PydanticCustomError("inconsistent", "expected one of {names}", {"names": names})
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


def is_flag(field: FieldInfo) -> bool:
    """Tell whether a flag sets a field; a secret has its variable alone."""
    return not any(isinstance(mark, Unflagged) for mark in field.metadata)


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
    default = default_in_words(field)
    note = " (required)" if field.is_required() else f" (default: {default})" if default else ""
    return f"{description}{note} [{variable_name}]"


def _add_argument(
    parser: Any, *names: str, settings_cls: type[BaseSettings], **options: Any
) -> argparse.Action:
    """Add a flag to the parser, described for people and not by Python's types."""
    if options.get("action") != "help":
        *commands, name = options.get("dest", names[0]).split(".")  # a positional has none
        for command in commands:
            settings_cls = cast("type[BaseSettings]", dict(sub_commands(settings_cls))[command])
        field = settings_cls.model_fields[name]
        if not is_flag(field):
            return argparse.Action([], name)  # none is added: argparse then refuses the flag
        options["help"] = _help(field, variable(settings_cls, name)).replace("%", "%%")
        shown = placeholder(field.annotation)
        if names[0].startswith("-") and "metavar" in options and shown is not None:
            options["metavar"] = shown
    added: argparse.Action = parser.add_argument(*names, **options)
    return added
