"""Settings of the trainer's commands, and their help."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import CliPositionalArg, NoDecode, SettingsConfigDict

from shared.bundle import default_path
from shared.candles import INTERVALS_MS, MAX_CANDLES, Interval, known_interval
from shared.champions import ANY
from shared.context import MAX_SYMBOLS, ContextSpec
from shared.files.table_settings import PATH, TableSettings
from shared.kafka import KafkaSettings
from shared.messages import SYMBOL_PATTERN
from shared.model_store import KEEP
from shared.model_store import ModelSettings as StoreModelSettings
from shared.settings import CommaSeparated, ServiceSettings, SplitByComma, own
from trainer.evaluate.baselines import NAMES, OF_CLASSES
from trainer.fit_config import DROPOUTS, RATES, FitConfig
from trainer.tracking import DEFAULT_URI

PROCESS: Final = "trainer"
"""The process's name in its variables and log lines."""

MAX_STEPS: Final = 256
"""Most steps of the LSTM."""

CONFIGURATIONS_TRIED: Final = 138
"""Number of configurations tried on validation data before ``FitConfig`` got its defaults."""

TOPIC: Final = Path("kafka")
"""What --data is for the candles topic."""

_DEFAULT: Final = FitConfig()


def _wrong(rule: str) -> PydanticCustomError:
    """Return the error of a rule, which is shown with the field and its value."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _levels(values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 < level < 1 for level in values) or 0.5 not in values:
        raise _wrong("expected levels between 0 and 1, 0.5 among them")
    return tuple(sorted(set(values)))


def _steps(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values or min(values) < 1:
        raise _wrong("expected whole numbers of candles from 1")
    return tuple(sorted(set(values)))


def _some_of(known: Iterable[str]) -> AfterValidator:
    names = tuple(known)

    def check(values: tuple[str, ...]) -> tuple[str, ...]:
        if not values or not set(values) <= set(names):
            raise _wrong(f"expected some of {', '.join(names)}")
        return values

    return AfterValidator(check)


def _features(specs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of features after loading the files that define them."""
    from trainer.features import resolve  # noqa: PLC0415 - torch takes seconds

    return resolve(specs, _DEFAULT.features)


def _context(symbols: tuple[str, ...]) -> tuple[str, ...]:
    known = all(re.fullmatch(SYMBOL_PATTERN, symbol) for symbol in symbols)
    if not known or len(symbols) > MAX_SYMBOLS or len(set(symbols)) < len(symbols):
        raise _wrong(f"expected up to {MAX_SYMBOLS} symbols by comma, each once")
    return symbols


Levels = Annotated[tuple[float, ...], NoDecode, SplitByComma, AfterValidator(_levels)]
Steps = Annotated[tuple[int, ...], NoDecode, SplitByComma, AfterValidator(_steps)]
Features = Annotated[CommaSeparated, AfterValidator(_features)]
Baselines = Annotated[CommaSeparated, _some_of(NAMES)]


class DataSettings(TableSettings):
    """Which candles."""

    help_title: ClassVar[str] = "candles"

    model_config = own(PROCESS)

    data: Path | None = Field(
        None,
        description=f"{PATH}; for fit, evaluate and backtest kafka is the candles topic; by "
        "default the bundled candles",
    )
    interval: Interval = Field(
        "1d", description=f"length of the candles: {', '.join(INTERVALS_MS)}"
    )
    context_data: Path | None = Field(
        None,
        description="file of candles of the context's symbols, for a model that reads a context; "
        "by default they are looked for where the candles are",
    )
    bad_rows: Path | None = Field(
        None,
        description="CSV file to write every bad or odd row to, with the rule it breaks; "
        "the log shows the first of each",
    )
    progress: bool = Field(default=True, description="show a progress bar")

    @model_validator(mode="after")
    def _bundled_is_daily(self) -> Self:
        if self.data is None and self.interval != "1d":
            detail = f"interval: the bundled candles are 1d, got {self.interval!r}"
            raise PydanticCustomError("inconsistent", "{detail}", {"detail": detail})
        return self


class TopicDataSettings(DataSettings, KafkaSettings):
    """Which candles, of files or of the candles topic."""

    model_config = own(PROCESS)

    snapshots: Path = Field(
        Path("snapshots"),
        description="for --data kafka: folder that keeps what was read of the topic, as Parquet",
    )

    @property
    def is_of_topic(self) -> bool:
        """True when the candles topic is the data."""
        return self.data == TOPIC


class ModelSettings(DataSettings):
    """How to train."""

    help_title: ClassVar[str] = "network and training"

    model_config = own(PROCESS)

    horizons: Steps = Field(_DEFAULT.horizons, description="candles ahead to forecast, by comma")
    quantiles: Levels = Field(
        _DEFAULT.quantile_levels, description="quantile levels, by comma, 0.5 among them"
    )
    features: Features = Field(
        _DEFAULT.features,
        description="inputs of the network, by comma: names in docs/features.md, FILE.py:NAME for "
        "your own, default for the default ones",
    )
    context: Annotated[CommaSeparated, AfterValidator(_context)] = Field(
        (),
        description="symbols whose newest closes the network reads beside each series's own "
        "candles, by comma, such as ^GSPC,^VIX; not trained on themselves",
    )
    context_interval: Interval | None = Field(
        None, description="length of the context's candles; by default that of the candles"
    )
    sequence_length: int = Field(
        _DEFAULT.sequence_length,
        ge=1,
        le=MAX_STEPS,
        description=f"steps of the LSTM; a window holds {MAX_CANDLES} candles at most",
    )
    hidden: int = Field(_DEFAULT.hidden, ge=1, le=512, description="size of the network's state")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of it dropped in training; by default from "
        f"{DROPOUTS[0]:g} with few windows to {DROPOUTS[1]:g}",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="of AdamW; by default from "
        f"{RATES[0]:g} with few windows to {RATES[1]:g} with many",
    )
    max_epochs: int = Field(
        _DEFAULT.max_epochs,
        ge=1,
        le=10_000,
        description="epochs at most; early stopping ends sooner",
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="of all that is random")

    def config(self) -> FitConfig:
        """Return how to train; raises ``ValueError`` for settings that cannot be together."""
        return FitConfig(
            features=self.features,
            sequence_length=self.sequence_length,
            horizons=self.horizons,
            quantile_levels=self.quantiles,
            hidden=self.hidden,
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            max_epochs=self.max_epochs,
            context=self.context_spec,
        )

    def context_flags(self) -> list[str]:
        """Return the flags by which the demo has the context that the network is to read."""
        given = ["--context", ",".join(self.context)] if self.context else []
        if given and self.context_interval is not None:
            given += ["--context-interval", self.context_interval]
        if given and self.context_data is not None:
            given += ["--context-path", str(self.context_data)]
        return given

    @property
    def context_spec(self) -> ContextSpec | None:
        """The context that the network is to read, if any."""
        interval = self.context_interval or self.interval
        return ContextSpec(symbols=self.context, interval=interval) if self.context else None

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        try:
            _ = self.config().window_length
        except ValueError as error:
            raise PydanticCustomError("inconsistent", "{detail}", {"detail": str(error)}) from error
        return self


class Tracked(ServiceSettings):
    """Where runs are recorded."""

    help_title: ClassVar[str] = "MLflow"

    model_config = own(PROCESS)

    tracking_uri: str = Field(DEFAULT_URI, description="MLflow store of runs; empty for none")
    experiment: str = Field("candlecast", description="MLflow experiment of runs")


class TrainSettings(ModelSettings, Tracked):
    """Trains a bundle on the bundled candles, and shows how good it is.

    The newest candles are kept for the test: training sees no outcome that reaches them. Prints
    the errors of the point forecast against persistence and drift. The run, with its curves and
    files, goes to MLflow: mlflow ui --backend-store-uri sqlite:///mlflow.db

    Examples:
      python -m trainer                               the bundle goes to my-bundle
      python -m trainer train --out other-bundle --seed 7
      python -m trainer train --horizons 1,2,3 --quantiles 0.1,0.5,0.9
    """

    help_title: ClassVar[str] = "bundle and test"

    model_config = own(PROCESS, "train")

    out: Path = Field(Path("my-bundle"), description="folder of the bundle to write")
    test_share: float = Field(
        0.1, gt=0, lt=0.9, description="newest share of the dates, kept for the test"
    )


class FitSettings(ModelSettings, TopicDataSettings, Tracked):
    """Trains a bundle on any candles.

    Training sees the candles before --until alone; those from then on, if there are any, are the
    test. Rows that are not valid candles are reported by row and rule, and left out.

    The network is mixed with the built-in model, and with HAR, in the shares that validation
    chooses; if none is better than the built-in model as it is, and with fewer than 5,000 windows,
    the bundle is a copy of that. Where features, horizons, levels or steps are other than its own,
    and with --alone, the network is of these candles alone.

    With --all: of a folder of Parquet files, one an interval and market, one model of all intervals
    is trained, as the built-in one was. A third of the symbols, by a hash of their names, and the
    newest fifth of each file's candles are left for "evaluate --all". Files named validation-*
    never train; files named context-* hold the candles of --context.

    With --context: a quarter of the windows is shown without, so that the model works without. What
    the context was worth, on the same windows with and without, is in the log and the bundle.

    Examples:
      python -m trainer fit --data candles.parquet --out my-bundle
      python -m trainer fit --all candles/ --out my-bundle
      python -m trainer fit --data candles.csv --until 2020-01-01 --out my-bundle --seed 7
      python -m trainer fit --data kafka --interval 5m --out my-bundle
      python -m trainer fit --data stocks.csv --context ^GSPC,^VIX --context-data indices.csv
    """

    help_title: ClassVar[str] = "bundle and test"

    model_config = own(PROCESS, "fit") | SettingsConfigDict(cli_shortcuts={"all-data": "all"})

    all_data: Path | None = Field(
        None, description="folder of Parquet files of candles, one an interval and market"
    )
    alone: bool = Field(
        default=False,
        description="train on these candles alone, where the built-in model would be mixed in or, "
        "if it serves better, kept",
    )
    until: date | None = Field(
        None, description="train on the candles that open before this date (UTC); by default all"
    )
    out: Path = Field(Path("my-bundle"), description="folder of the bundle to write")
    replace_default: bool = Field(
        default=False, description="write the built-in bundle, which all services serve by default"
    )
    compare: bool = Field(
        default=True, description="compare the test with GARCH and HAR, some seconds a symbol"
    )

    @property
    def folder(self) -> Path:
        """Folder that the bundle goes to."""
        return default_path() if self.replace_default else self.out

    @model_validator(mode="after")
    def _has_one_folder(self) -> Self:
        if self.replace_default and "out" in self.model_fields_set:
            detail = f"replace_default: expected no --out beside it, got {str(self.out)!r}"
            raise PydanticCustomError("inconsistent", "{detail}", {"detail": detail})
        return self


class BacktestSettings(TopicDataSettings):
    """Forecasts after every candle of a data set, through the code that serves the stream.

    Columns written: symbol, open_ms (of the last candle used; a date is its midnight UTC), step,
    last_close, predicted_close, q0.01 … q0.99 (prices, calibrated as the stream does),
    raw_q0.01 … raw_q0.99 (the model's own), volatility (per candle). Rows that are not valid
    candles are reported by row and rule, and left out.

    Examples:
      python -m trainer backtest --out forecasts.csv
      python -m trainer backtest --model my-bundle --data candles.parquet --out forecasts.parquet
    """

    help_title: ClassVar[str] = "back-test"

    model_config = own(PROCESS, "backtest")

    model: Path = Field(
        default_factory=default_path, description="folder of the model bundle (default: built in)"
    )
    out: Path = Field(description="file to write, .parquet or .csv")


class EvaluateSettings(ModelSettings, TopicDataSettings, Tracked):
    """Measures forecasts against every baseline, and writes report.html and report.json.

    Without --model: rolling origins. The span from --start to --end is cut into --folds parts;
    for each a network is trained on the candles before it and forecasts it. With --model: that
    bundle, as it is, forecasts the whole data set; what it was trained on is left out.

    Examples:
      python -m trainer evaluate                                  bundled candles, 2006 to 2012
      python -m trainer evaluate --model shared/models/default --data candles.parquet
      python -m trainer evaluate --data candles.csv --start 2018-01-01 --end 2024-01-01 --folds 6

    With --all: a bundle, by default the built-in one, against the baselines on every class of
    candles in a folder, at times and on symbols that "fit --all FOLDER" has not seen; writes
    matrix.html and matrix.json. By default against HAR, HAR with time of day, EWMA and both GARCH.
      python -m trainer evaluate --all candles/
      python -m trainer evaluate --all candles/ --part validation --baselines har,har-time
    """

    help_title: ClassVar[str] = "evaluation"

    all_data: Path | None = Field(
        None, description="folder of Parquet files of candles, one an interval and market"
    )
    part: Literal["validation", "test"] = Field(
        "test", description="which symbols and times of the folder, with --all"
    )

    model_config = own(PROCESS, "evaluate") | SettingsConfigDict(cli_shortcuts={"all-data": "all"})

    model: Path | None = Field(
        None, description="folder of a frozen bundle; by default networks are trained"
    )
    out: Path = Field(Path("report"), description="folder to write report.html and report.json to")
    start: date | None = Field(
        None,
        description="first date to forecast from; by default 2006-01-01 for the bundled candles, "
        "half-way through others, and all with --model",
    )
    end: date | None = Field(
        None, description="date before which to forecast; by default 2013-01-01, or all"
    )
    folds: int = Field(7, ge=1, le=100, description="rolling origins, without --model")
    baselines: Baselines = Field(
        NAMES, description=f"methods to compare with, by comma: {', '.join(NAMES)}"
    )
    configurations_tried: int = Field(
        CONFIGURATIONS_TRIED, ge=1, description="configurations tried on validation, for the report"
    )

    @property
    def baselines_of_classes(self) -> tuple[str, ...]:
        """Methods to compare with by class: those given, else the strong ones."""
        return self.baselines if "baselines" in self.model_fields_set else OF_CLASSES

    @property
    def unused_with_model(self) -> tuple[str, ...]:
        """Settings given of networks to train, which a frozen bundle has no use for."""
        training = {*ModelSettings.model_fields, "folds"} - set(TopicDataSettings.model_fields)
        return tuple(sorted(training & self.model_fields_set))


class SearchSettings(ModelSettings, Tracked):
    """Looks for better settings by Optuna (TPE, hopeless trials pruned), on rolling windows.

    Each trial trains before each of --folds validation years that end at --until, and is scored
    by the pinball loss in them; no candle from --until on is seen. A search that was stopped goes
    on where it was. Each trial is a run in MLflow, nested in the search's.

    Examples:
      python -m trainer search --trials 50
      python -m trainer search --trials 50 --storage sqlite:///search.db --name wide
      python -m trainer search --data candles.csv --until 2020-01-01 --trials 20
    """

    help_title: ClassVar[str] = "search"

    model_config = own(PROCESS, "search")

    trials: int = Field(20, ge=1, description="trials to add")
    folds: int = Field(3, ge=1, le=50, description="validation years before --until")
    until: date = Field(
        date(2006, 1, 1), description="search on the candles that open before this date (UTC)"
    )
    storage: str = Field(
        "sqlite:///search.db", description="Optuna storage; the same one resumes a search"
    )
    name: str = Field("candlecast", description="the search's name in the storage")
    out: Path = Field(Path("search"), description="folder to write best.json and the plots to")


class ScoresSettings(KafkaSettings, ServiceSettings):
    """Reports how good the stream's forecasts were, over time: of the scores topic, or of a file.

    By interval and candles ahead: skill of the quantiles against a baseline without a model and of
    the median against no change, coverage and PIT histogram of the published and of the model's own
    intervals, and the series that are worse than no model.

    Examples:
      python -m trainer scores
      python -m trainer scores --bootstrap kafka:9092 --out scores.html
      python -m trainer scores --data scores.jsonl --json       values of messages, one a line
    """

    help_title: ClassVar[str] = "report"

    model_config = own(PROCESS, "scores") | SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    data: Path | None = Field(
        None, description="file of messages of the topic, one a line; by default the topic"
    )
    days: float | None = Field(
        None, gt=0, description="length of a period; by default so that there are up to 24"
    )
    out: Path | None = Field(None, description="HTML file to write, with plots")
    as_json: bool = Field(default=False, description="print it as JSON")
    progress: bool = Field(default=True, description="show progress bars")


class InspectSettings(TableSettings):
    """Shows what is in a bundle, or what would be read of a file of candles.

    Of a bundle: its inputs and outputs, features, training data and figures; it is verified first,
    as a service does when it loads it. Of a file: its form, columns, symbols, spans, interval,
    zone, and all that is odd about it; --to writes it tidy.

    Examples:
      python -m trainer inspect shared/models/default
      python -m trainer inspect my-bundle --json
      python -m trainer inspect prices.csv.gz
      python -m trainer inspect notowania.csv --columns time=Data,open=Otwarcie,high=Najwyzszy
      python -m trainer inspect 'minutes/*.zip' --timezone Europe/Warsaw --to candles.parquet
    """

    help_title: ClassVar[str] = "inspection"

    model_config = own(PROCESS, "inspect") | SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    path: CliPositionalArg[Path] = Field(
        description=f"folder of a bundle, which has a config.json; or {PATH}"
    )
    as_json: bool = Field(default=False, description="print it as JSON")
    interval: Interval | None = Field(
        None, description="length of the candles of a file; by default found out"
    )
    to: Path | None = Field(
        None, description="for a file: .parquet or .csv file to write its candles to"
    )
    bad_rows: Path | None = Field(
        None, description="for a file: CSV file to write every bad or odd row to"
    )
    progress: bool = Field(default=True, description="show a progress bar")


class ReferenceSettings(DataSettings):
    """Adds to a bundle the features of the windows that it was trained on, without a training.

    By them the worker measures how far the features of its candles have drifted (PSI). A training
    adds them by itself; this is for bundles that were made before. The model stays what it is, and
    so does its version. Give the candles of the training: what their hash is, the bundle knows.

    Examples:
      python -m trainer reference my-bundle --data candles.parquet
      python -m trainer reference my-bundle --all candles/ --out my-bundle-with-reference
    """

    help_title: ClassVar[str] = "reference of features"

    model_config = own(PROCESS, "reference") | SettingsConfigDict(cli_shortcuts={"all-data": "all"})

    path: CliPositionalArg[Path] = Field(description="folder of a bundle")
    all_data: Path | None = Field(
        None, description="folder of Parquet files of candles, as of fit --all"
    )
    out: Path | None = Field(None, description="folder to write to; by default the bundle's own")


def _interval_or_any(value: str) -> str:
    return value if value == ANY else known_interval(value)


IntervalOrAny = Annotated[str, AfterValidator(_interval_or_any)]


class AnswerSettings(StoreModelSettings):
    """What commands on the model store have in common."""

    model_config = own(PROCESS) | SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    as_json: bool = Field(default=False, description="print the answer as JSON")


class ChangeSettings(AnswerSettings):
    """A change of the champions."""

    model_config = own(PROCESS, "champion")

    interval: IntervalOrAny = Field(ANY, description="of the candles, such as 5m; * is all")
    pattern: str = Field(
        ANY,
        min_length=1,
        max_length=200,
        description="symbols that it is for, as a pattern: BTC*; * is all",
    )
    dry_run: bool = Field(default=False, description="only say what would be changed")


class ModelsSettings(AnswerSettings):
    """Lists the champions, and every version with what made it and its figures.

    A forecast's model_version leads to its bundle, data, code and MLflow run: models VERSION.

    Examples:
      python -m trainer models
      python -m trainer models lstm-5ebcc3ad62ff --json
      python -m trainer models --models s3://bucket/models
    """

    model_config = own(PROCESS, "models")

    version: CliPositionalArg[str] = Field(
        "", description="only this one, whole; a beginning will do"
    )


class PromoteSettings(ChangeSettings):
    """Makes a model the champion: services load it beside the old one, verify it and swap.

    A bundle's folder is put into the store first; default is the built-in bundle. A model of other
    horizons than the champion's is refused unless --any-horizons is given.

    Examples:
      python -m trainer promote lstm-5ebcc3ad62ff --interval 5m --why 'better since March'
      python -m trainer promote my-bundle --interval 1d --pattern 'BTC*' --dry-run
    """

    model_config = own(PROCESS, "promote")

    version: CliPositionalArg[str] = Field(description="version, digest, or folder of a bundle")
    why: str = Field("promoted by hand", max_length=2000, description="reason, kept with it")
    any_horizons: bool = Field(
        default=False, description="accept other horizons than the champion has"
    )


class RollbackSettings(ChangeSettings):
    """Lets the model before the champion serve again; once more goes further back.

    Examples:
      python -m trainer rollback --interval 5m
      python -m trainer rollback --interval 5m --dry-run --json
    """

    model_config = own(PROCESS, "rollback")


class CompareSettings(AnswerSettings):
    """Shows what differs between two models: data, training, figures.

    Each is a version, a digest, a bundle's folder, default, or champion:INTERVAL.

    Examples:
      python -m trainer compare champion:5m lstm-5ebcc3ad62ff
      python -m trainer compare default my-bundle --json
    """

    model_config = own(PROCESS, "compare")

    first: CliPositionalArg[str] = Field(description="a model")
    second: CliPositionalArg[str] = Field(description="another one")


class CollectSettings(AnswerSettings):
    """Removes the bundles that no champion needs, none of the last and none of the last day.

    Examples:
      python -m trainer gc --dry-run
      python -m trainer gc --keep 10
    """

    model_config = own(PROCESS, "gc")

    keep: int = Field(
        KEEP, ge=0, description="former champions of each series, and newest bundles, to leave"
    )
    dry_run: bool = Field(default=False, description="only say what would be removed")
