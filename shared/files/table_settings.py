"""Settings of every command that reads a file of candles: what the file does not say itself."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from shared.files.columns import ROLES
from shared.history import ReadOptions
from shared.settings import CommaSeparated, ServiceSettings

PATH: Final = (
    "a file of candles, a folder or a glob: CSV, JSON, Parquet or Feather, packed or not, of any "
    "vendor (docs/data.md)"
)
"""What a data file may be, for --help."""

_ALIASES: Final = {"date": "time", "datetime": "time", "timestamp": "time", "ticker": "symbol"}


def _wrong(rule: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _pairs(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        left, mark, right = value.partition("=")
        if not (left.strip() and mark and right.strip()):
            raise _wrong("expected NAME=NAME, several by comma")
    return values


def _roles(values: tuple[str, ...]) -> tuple[str, ...]:
    for left in _as_dict(_pairs(values)):
        if _ALIASES.get(left, left) not in ROLES:
            raise _wrong(f"expected PART=COLUMN with a part of {', '.join(ROLES)}")
    return values


def _date_format(value: str | None) -> str | None:
    if value is not None and "%" not in value:
        raise _wrong("expected a format such as %d/%m/%Y or %m/%d/%Y %H:%M")
    return value


def _timezone(value: str | None) -> str | None:
    if value is not None:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, LookupError):
            raise _wrong("expected a time zone such as America/New_York or UTC") from None
    return value


def _as_dict(values: tuple[str, ...]) -> dict[str, str]:
    pairs = (value.partition("=") for value in values)
    return {left.strip(): right.strip() for left, _, right in pairs}


class TableSettings(ServiceSettings):
    """How to read a file of candles."""

    help_title: ClassVar[str] = "how a file is read"

    symbols: CommaSeparated = Field(
        (), description="symbols to read, by comma; by default every symbol of the file"
    )
    symbol: str | None = Field(
        None,
        description="for a file without a column of symbols: its symbol; by default the one of "
        "--symbols, or the file's name",
    )
    columns: Annotated[CommaSeparated, AfterValidator(_roles)] = Field(
        (),
        description="for a file with other names: part=column, by comma, as in "
        "time=Data,open=Otwarcie; without a header by position, as in time=1; volume=0 for none",
    )
    rename: Annotated[CommaSeparated, AfterValidator(_pairs)] = Field(
        (), description="symbols of the file to call otherwise, by comma, as in $SPX=^GSPC"
    )
    date_format: Annotated[str | None, AfterValidator(_date_format)] = Field(
        None, description="for dates that may mean two days: their format, as in %d/%m/%Y"
    )
    timezone: Annotated[str | None, AfterValidator(_timezone)] = Field(
        None,
        description="of times without a zone (by default UTC), and of a market's midnights, as in "
        "America/New_York",
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="decimal mark of numbers, where 1,234 may mean two; by default found out"
    )
    allow_bad_rows: bool = Field(
        default=False, description="read a file also when one rule rejects more than 5 % of it"
    )

    def reading_flags(self) -> list[str]:
        """Return the flags, but for the symbols, by which another command reads the file too."""
        given: list[str] = []
        for name in sorted(TableSettings.model_fields.keys() - ServiceSettings.model_fields.keys()):
            value = getattr(self, name)
            if name == "symbols" or not value:
                continue
            given.append(f"--{name.replace('_', '-')}")
            if value is not True:
                given.append(",".join(value) if isinstance(value, tuple) else value)
        return given

    def read_options(self, symbols: tuple[str, ...] | None = None) -> ReadOptions:
        """Return what the user says about the file, with other symbols if given."""
        columns = _as_dict(self.columns)
        return ReadOptions(
            symbols=self.symbols if symbols is None else symbols,
            symbol=self.symbol,
            columns={_ALIASES.get(role, role): name for role, name in columns.items()},
            rename=_as_dict(self.rename),
            date_format=self.date_format,
            timezone=self.timezone,
            decimal=self.decimal,
            allow_bad_rows=self.allow_bad_rows,
        )
