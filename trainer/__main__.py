"""``python -m trainer``: the commands train, fit, backtest, evaluate, search and inspect.

Each command has settings of its own: flags and environment variables, as those of the services. A
command imports its libraries itself, since they take seconds.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop
from rich.progress import Progress

from shared import context_topic, process
from shared.bundle import CONFIG_NAME, BundleConfig, BundleError, default_path, load
from shared.candles import DAY_MS, midnight_ms
from shared.context import Contexts, ContextSpec
from shared.files import findings
from shared.files.series import HistoryError
from shared.forecaster import OnnxForecaster
from shared.history import from_file, interval_of
from shared.kafka import KafkaError
from shared.objects import StoreError
from shared.process import Exit
from shared.settings import ServiceSettings, commands_of_script
from trainer import console, model_commands, tracking
from trainer.evaluate import forecast_table
from trainer.settings import (
    PROCESS,
    TOPIC,
    BacktestSettings,
    CollectSettings,
    CompareSettings,
    DataSettings,
    EvaluateSettings,
    FitSettings,
    InspectSettings,
    ModelSettings,
    ModelsSettings,
    PromoteSettings,
    ReferenceSettings,
    RollbackSettings,
    ScoresSettings,
    SearchSettings,
    TopicDataSettings,
    TrainSettings,
)
from trainer.tracking import Run, TrackingError
from trainer.watch_settings import WatchSettings

if TYPE_CHECKING:
    from trainer.dataset import Dataset, Source
    from trainer.fit import Epoch
    from trainer.protocol import Forecasts
    from trainer.training import Test

log = logging.getLogger("trainer")

PROG: Final = "python -m trainer"

HELP: Final = f"""usage: {PROG} [COMMAND] [OPTIONS]

Trains, tests and searches for models; without a command it trains on the bundled candles.

  train      train a bundle on the bundled candles, and show how good it is
  fit        train a bundle on any candles, or on a folder of them: --data PATH --out BUNDLE
  backtest   forecast after every candle of a data set: --model BUNDLE --data PATH --out FILE
  evaluate   measure forecasts against every baseline and write an HTML and a JSON report
  search     look for better settings: --trials N
  scores     report how good the stream's forecasts were: --out scores.html
  reference  add the features of its training to a bundle: reference BUNDLE --all FOLDER
  inspect    show what is in a bundle, or what would be read of a file: inspect PATH

  models     list the champions and versions of the model store
  promote    make a model the champion: promote VERSION --interval 5m
  rollback   let the model before the champion serve again: rollback --interval 5m
  compare    show what differs between two models: compare A B
  watch      train on the stream for as long as it runs, and promote what proves better
  gc         remove the models that no champion needs

{PROG} COMMAND --help shows a command's options and examples."""

BUNDLED_START: Final = date(2006, 1, 1)
"""First date of the rolling origins over the bundled candles; validation lies before it."""

BUNDLED_END: Final = date(2013, 1, 1)
"""Date before which the rolling origins over the bundled candles end."""

YEAR_MS: Final = 365 * DAY_MS

BEST: Final = 10
"""Most trials that a search shows."""

LOADING: Final = frozenset({"train", "fit", "backtest", "evaluate", "search", "reference", "watch"})
"""Commands that load PyTorch, and are silent until then."""

EXPECTED: Final = (
    BundleError,
    StoreError,
    HistoryError,
    KafkaError,
    TrackingError,
    forecast_table.TableError,
    ValueError,  # what the candles or the settings cannot give
    OSError,
)
"""Errors of the input, logged as one line without a traceback."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run one command and return the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in {"-h", "--help"}:
        print(HELP if prog == PROG else commands_of_script(HELP))
        return Exit.DONE
    name = given.pop(0) if given and not given[0].startswith("-") else "train"
    if name not in COMMANDS:
        print(f"{prog}: expected {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr)
        return Exit.USAGE
    kind, run = COMMANDS[name]
    if name in LOADING and not {"-h", "--help", "--version"} & {*given}:
        console.say_loading()
    settings = kind.read(given, f"{prog} {name}")

    def body() -> int:
        run(settings)
        return Exit.DONE

    # a signal is how a watch ends; of the others it breaks off the work
    stopped = Exit.DONE if name == "watch" else Exit.INTERRUPTED
    return process.live(PROCESS, settings.log_level, body, expected=EXPECTED, stopped=stopped)


def _train(settings: TrainSettings) -> None:
    from trainer import dataset  # noqa: PLC0415

    source = _source(settings)
    cut_ms = dataset.cut_at(source.samples(settings.config()), 1 - settings.test_share)
    _fit_until(settings, source, cut_ms, settings.out, alone=True)


def _fit(settings: FitSettings) -> None:
    if settings.all_data:
        _fit_folder(settings, settings.all_data)
        return
    source = _source(settings)
    _, newest = source.span_ms()
    stop_ms = midnight_ms(settings.until) if settings.until else newest + 1
    _fit_until(
        settings, source, stop_ms, settings.folder,
        alone=settings.alone, compare=settings.compare,
    )  # fmt: skip


def _fit_folder(settings: FitSettings, folder: Path) -> None:
    """Train a bundle on a folder of candles of many symbols and intervals."""
    from trainer import training  # noqa: PLC0415

    config = settings.config()
    with tracking.run(settings.tracking_uri, settings.experiment, f"train {folder.name}") as run:
        run.params({**asdict(config), "seed": settings.seed, "data": str(folder)})
        with console.progress(shown=settings.progress) as display:
            show = console.epochs(display, config.max_epochs, "Training")

            def epochs(epoch: Epoch) -> None:
                show(epoch)
                log.info(
                    "epoch %d: pinball %.5f, log volatility %.5f",
                    epoch.epoch,
                    epoch.pinball,
                    epoch.volatility,
                )

            files = console.steps(display, "Windows", 3 * len(list(folder.glob("*.parquet"))))
            fitted, data = training.fit_folder(folder, config, settings.seed, epochs, files)
            console.finish(display)
        run.curves(training.curves(fitted))
        for worth in fitted.worth:
            log.info("context, on validation: %s", worth)
        with console.working("Exporting the graph and checking it", shown=settings.progress):
            exported = training.export_folder(fitted, data)
        best = fitted.history[fitted.epochs - 1]
        metrics = {"validation_pinball": best.pinball, "validation_volatility": best.volatility}
        saved = exported.write(settings.folder, metrics)
        _record(run, settings.folder, metrics, None)
        run.tags({"model_version": saved.model_version, "data": str(folder)})
        run.register(settings.experiment, "bundle")
    log.info("wrote %s to %s", saved.model_version, settings.folder)


def _fit_until(
    settings: TrainSettings | FitSettings, source: Source, stop_ms: int, out: Path,
    *, alone: bool, compare: bool = True,
) -> None:  # fmt: skip
    """Train on the outcomes before a time, test on the candles from then on, write the bundle."""
    from trainer import blend, training  # noqa: PLC0415
    from trainer.fit import fit  # noqa: PLC0415

    config = settings.config()
    past, later = training.split_at(source, source.samples(config), stop_ms)
    test_ms = stop_ms if len(later) else None
    built_in = None if alone else training.built_in_for(config)
    if built_in and len(past) < blend.LEAST_WINDOWS:
        why = f"{len(past):,} windows, and with under {blend.LEAST_WINDOWS:,} it is better"
        _keep_built_in(settings, source, test_ms, out, why, compare=compare)
        return
    until = _date(stop_ms)
    name = f"train {Path(source.name).name} until {until}"
    with tracking.run(settings.tracking_uri, settings.experiment, name) as run:
        run.params({**asdict(config), "seed": settings.seed, "data": source.name})
        with console.progress(shown=settings.progress) as display:
            show = console.epochs(display, config.max_epochs, "Training")
            fitted = fit(past, config, settings.seed, show, built_in)
            console.finish(display)
        run.curves(training.curves(fitted))
        if fitted.choice:
            for mix, loss in zip(blend.MIXES, fitted.choice.losses, strict=True):
                log.info("validation loss %.5f: %s", loss, blend.in_words(mix))
            if fitted.choice.keeps_built_in:
                why = "nothing was better on validation"
                run.tags({"kept": "the built-in model", "data": source.name})
                _keep_built_in(settings, source, test_ms, out, why, compare=compare)
                return
        for worth in fitted.worth:
            log.info("context, on validation: %s", worth)
        with console.working("Exporting the graph and checking it", shown=settings.progress):
            exported = training.export(fitted, source, stop_ms)
        test = None
        if len(later):
            test = training.test(exported.forecaster, source, stop_ms)
            console.print_errors(test)
        metrics = training.metrics_of(test) if test else {}
        saved = exported.write(out, metrics)
        if test and compare:
            metrics = metrics | _compare(test, exported.forecaster, source, stop_ms, settings)
        _record(run, out, metrics, test)
        run.tags({"model_version": saved.model_version, "data": source.name})
        run.register(settings.experiment, "bundle")
    log.info("wrote %s to %s", saved.model_version, out)
    uri = settings.tracking_uri
    console.print_next_steps(out, settings.data, uri, has_test=test is not None)


def _compare(
    test: Test,
    forecaster: OnnxForecaster,
    source: Source,
    stop_ms: int,
    settings: TrainSettings | FitSettings,
) -> dict[str, float]:
    """Say in words what the forecasts are worth beside GARCH and HAR; return the skills."""
    from trainer import protocol, training  # noqa: PLC0415
    from trainer.evaluate import report  # noqa: PLC0415

    with console.progress(shown=settings.progress) as display:
        total = len(training.COMPARED) * len(source.symbols)
        done = console.steps(display, "Baselines", total)
        compared = training.compare(test, forecaster, source, stop_ms, done)
    if compared is None:
        log.warning("the test is too short to compare with GARCH and HAR")
        return {}
    console.print_sentences(report.sentences(compared))
    return protocol.metrics_of(compared)


def _keep_built_in(
    settings: TrainSettings | FitSettings, source: Source, test_ms: int | None, out: Path, why: str,
    *, compare: bool,
) -> None:  # fmt: skip
    """Write a copy of the built-in bundle, and show how it does on the test if there is one."""
    from trainer import training  # noqa: PLC0415

    kept = training.keep_built_in(out)
    log.warning(
        "%s is a copy of the built-in model %s: %s (--alone trains on these candles alone)", out,
        kept.model_version, why,
    )  # fmt: skip
    if test_ms is not None:
        forecaster = OnnxForecaster(load(out))
        test = training.test(forecaster, source, test_ms)
        console.print_errors(test)
        if compare:
            _compare(test, forecaster, source, test_ms, settings)
    console.print_next_steps(out, settings.data, "", has_test=test_ms is not None)


def _record(run: Run, out: Path, metrics: Mapping[str, float], test: Test | None) -> None:
    from trainer.evaluate import figures  # noqa: PLC0415

    run.metrics(metrics)
    for name in (*load(out).config.file_names, CONFIG_NAME):
        run.artifact(out / name, "bundle")
    if test:
        run.figure(figures.against_outcomes(test.joined, 1), "forecasts.png")


def _backtest(settings: BacktestSettings) -> None:
    from trainer.evaluate import backtest  # noqa: PLC0415

    forecast_table.prepare(settings.out)
    bundle = load(settings.model)
    source = _source(settings, bundle.config)
    started = time.perf_counter()
    with console.progress(shown=settings.progress) as display:
        done = console.steps(display, "Back-test", len(source.symbols))
        forecaster = OnnxForecaster(bundle)
        total = backtest.rounds(forecaster, source.symbols)
        settled = console.steps(display, "Calibration", total)
        table = backtest.run_calibrated(
            forecaster, source.symbols, done, settled, settings.interval
        )
    forecasts = len(table) // len(bundle.config.horizons)
    if not forecasts:
        longest = max(len(symbol.open_ms) for symbol in source.symbols.values())
        raise ValueError(
            f"{source.name}: no forecast: expected a symbol with at least "
            f"{bundle.config.window_length} candles, got at most {longest}"
        )
    forecast_table.write(table, settings.out)
    candles = sum(len(symbol.open_ms) for symbol in source.symbols.values())
    log.info(
        "%s: %d rows of %d symbols in %.1f s, to %s: after %d of %d candles, the others have less "
        "than %d to look back on", bundle.config.model_version, len(table),
        table["symbol"].nunique(), time.perf_counter() - started, settings.out, forecasts, candles,
        bundle.config.window_length,
    )  # fmt: skip


def _evaluate(settings: EvaluateSettings) -> None:
    from trainer import protocol  # noqa: PLC0415
    from trainer.evaluate import report  # noqa: PLC0415

    if settings.all_data:
        _evaluate_all(settings, settings.all_data)
        return
    bundle = load(settings.model) if settings.model else None
    if bundle and settings.unused_with_model:
        log.warning(
            "%s is frozen; these settings have no effect: %s", bundle.config.model_version,
            ", ".join(settings.unused_with_model),
        )  # fmt: skip
    source = _source(settings, bundle.config if bundle else None)
    what = bundle.config.model_version if bundle else "rolling origins"
    name = f"evaluate {what} on {Path(source.name).name}"
    with tracking.run(settings.tracking_uri, settings.experiment, name) as run:
        with console.progress(shown=settings.progress) as display:
            forecasts = (
                protocol.of_bundle(source, bundle, *_span(settings))
                if bundle
                else _rolling(settings, source, display)
            )
            total = len(settings.baselines) * len(source.symbols)
            done = console.steps(display, "Baselines", total)
            result = protocol.assess(
                source, forecasts, settings.baselines, settings.configurations_tried, done
            )
        page, numbers = report.write(result, forecasts.table, source.symbols, settings.out)
        run.params({"data": source.name, "kind": forecasts.kind})
        run.metrics(protocol.metrics_of(result.evaluation))
        run.artifact(page)
        run.artifact(numbers)
    console.print_evaluation(result.evaluation)
    log.info("wrote %s and %s", page, numbers)


def _evaluate_all(settings: EvaluateSettings, folder: Path) -> None:
    """Measure a bundle on every class of candles in a folder."""
    from trainer import panels  # noqa: PLC0415
    from trainer.evaluate import matrix, matrix_report  # noqa: PLC0415
    from trainer.training import KEPT_OUT  # noqa: PLC0415

    forecaster = OnnxForecaster(load(settings.model or default_path()))
    with console.working(f"Reading {folder}", shown=settings.progress):
        data = panels.read(folder)
        if forecaster.context:
            data = panels.joined(data, panels.contexts_of(folder, forecaster.context))
    with console.progress(shown=settings.progress) as display:
        done = console.steps(display, "Classes", len(data))
        found = matrix.evaluate(
            forecaster, data, settings.part, settings.baselines_of_classes, KEPT_OUT,
            int(time.time() * 1000), done,
        )  # fmt: skip
    for path in matrix_report.write(found, settings.out):
        log.info("wrote %s", path)


def _span(settings: EvaluateSettings) -> tuple[int | None, int | None]:
    return (
        midnight_ms(settings.start) if settings.start else None,
        midnight_ms(settings.end) if settings.end else None,
    )


def _date(millis: int) -> str:
    return f"{datetime.fromtimestamp(millis / 1000, UTC):%Y-%m-%d}"


def _rolling(settings: EvaluateSettings, source: Source, display: Progress) -> Forecasts:
    from trainer import protocol  # noqa: PLC0415

    config = settings.config()
    start_ms, stop_ms = _span(settings)
    if settings.data is None:
        start_ms = midnight_ms(BUNDLED_START) if start_ms is None else start_ms
        stop_ms = midnight_ms(BUNDLED_END) if stop_ms is None else stop_ms
    first, last = source.span_ms()
    start_ms = first + (last - first) // 2 if start_ms is None else start_ms
    stop_ms = last + 1 if stop_ms is None else stop_ms
    if not first < start_ms < min(stop_ms, last + 1):
        raise ValueError(
            f"{source.name}: expected a --start after {_date(first)}, its first candle, and up to "
            f"{_date(min(stop_ms - 1, last))}, the end of the forecasts, got {_date(start_ms)}"
        )
    origins = protocol.origins(start_ms, stop_ms, settings.folds)
    epochs = console.epochs(display, config.max_epochs, "Training")
    folds = console.steps(display, "Folds", settings.folds)
    return protocol.of_rolling_origins(source, config, origins, settings.seed, epochs, folds)


def _watch(settings: WatchSettings) -> None:
    from trainer import watch  # noqa: PLC0415

    watch.watch(settings)


def _search(settings: SearchSettings) -> None:
    from trainer import search  # noqa: PLC0415

    stop_ms = midnight_ms(settings.until)
    source = _source(settings)
    first, _ = source.span_ms()
    origins = [stop_ms - years * YEAR_MS for years in range(settings.folds, -1, -1)]
    if origins[0] <= first:
        raise ValueError(
            f"{source.name}: expected an --until more than {settings.folds} years (--folds) after "
            f"{_date(first)}, its first candle, got {settings.until}"
        )
    source = source.until(stop_ms)
    study = search.open_study(settings.storage, settings.name, settings.seed)
    log.info("%s: %d trials so far", settings.name, len(study.trials))
    run_name = f"search {settings.name} on {Path(source.name).name}"
    with tracking.run(settings.tracking_uri, settings.experiment, run_name) as run:
        run.params({"folds": settings.folds, "until": settings.until, "data": source.name})
        try:
            with console.progress(shown=settings.progress) as display:
                done = console.steps(display, "Trials", settings.trials)
                within = console.within_trial(display)
                task = search.Task(source, settings.config(), origins, settings.seed, within)
                search.run(study, task, settings.trials, run, done)
        finally:  # a search that is stopped shows its best trials too
            for path in search.write(study, settings.out):
                run.artifact(path)
            best = search.completed(study)[:BEST]
            if best:
                run.metrics({"best": best[0].value or 0.0})
            console.print_trials(best)


def _scores(settings: ScoresSettings) -> None:
    from trainer.evaluate import scores_report  # noqa: PLC0415

    if settings.data is not None:
        source, collected = str(settings.data), scores_report.of_file(settings.data)
    else:
        source = settings.scores_topic
        with console.progress(shown=settings.progress) as display:
            done = console.messages(display, f"Reading {source}")
            collected = scores_report.of_topic(settings, done)
    period_ms = max(round(settings.days * DAY_MS), 1) if settings.days else None
    made = scores_report.report(collected, source, period_ms)
    if made.rejected:
        log.warning("%s: left out %d messages, which are not scores", source, made.rejected)
    if settings.out is not None:
        scores_report.write(made, settings.out)
        log.info("wrote %s", settings.out)
    if settings.as_json:
        print(scores_report.as_json(made))
    else:
        console.print_scores(made)


def _reference(settings: ReferenceSettings) -> None:
    from trainer import panels, reference  # noqa: PLC0415
    from trainer.dataset import data_span  # noqa: PLC0415
    from trainer.training import KEPT_OUT  # noqa: PLC0415

    loaded = load(settings.path)
    config = loaded.config
    if settings.all_data:
        with console.working(f"Reading {settings.all_data}", shown=settings.progress):
            data = panels.read(settings.all_data)
            if config.context:
                contexts = panels.contexts_of(settings.all_data, config.context)
                data = panels.joined(data, contexts)
        least, longest = config.window_length, max(config.horizons)
        parts = reference.of_panels(data, least, longest, KEPT_OUT)
        span = panels.span(data, KEPT_OUT)
    else:
        stop_ms = config.data.last_ms + 1
        source = _source(settings, config)
        parts = reference.of_source(source.until(stop_ms), config.window_length)
        span = data_span(source, stop_ms)
    if span.sha256 != config.data.sha256:
        log.warning(
            "%s was trained on other candles (SHA-256 %s of %s) than these (%s of %s)",
            config.model_version, config.data.sha256[:12], config.data.source, span.sha256[:12],
            span.source,
        )  # fmt: skip
    with console.progress(shown=settings.progress) as display:
        done = console.steps(display, "Intervals", len({part.interval for part in parts}))
        origin = span.source, span.sha256
        measured = reference.measure(config, loaded.onnx, parts, origin, done)
    out = settings.out or settings.path
    reference.write(loaded, measured, out)
    log.info("wrote %s with the features of its training to %s", config.model_version, out)


def _inspect(settings: InspectSettings) -> None:
    if not (settings.path / CONFIG_NAME).exists():
        _inspect_file(settings)
        return
    loaded = load(settings.path)
    OnnxForecaster(loaded)  # repeats the golden forecasts
    if settings.as_json:
        print(json.dumps(loaded.config.model_dump(mode="json"), indent=2))
    else:
        console.print_bundle(loaded.config)


def _inspect_file(settings: InspectSettings) -> None:
    from trainer import inspection  # noqa: PLC0415

    options = settings.read_options()
    interval = settings.interval or interval_of(settings.path, options)
    with console.bytes_read(f"Reading {settings.path}", shown=settings.progress) as advance:
        history = from_file(settings.path, interval, options, advance)
    odd = findings.of_history(history)
    if settings.to:
        inspection.write(history, settings.to)
        log.info("wrote %s candles to %s", f"{history.count:,}", settings.to)
    if settings.bad_rows:
        findings.write(settings.bad_rows, history, odd)
    if settings.as_json:
        print(inspection.as_json(history, odd))
    else:
        inspection.print_history(history, odd)


def _source(settings: DataSettings, model: BundleConfig | None = None) -> Source:
    """Return the candles of a data set, after logging which rows are invalid or odd.

    Those of a model that reads a context, or of one to train, have it around them.
    """
    from trainer import dataset  # noqa: PLC0415
    from trainer.dataset import Source  # noqa: PLC0415

    if isinstance(settings, TopicDataSettings) and settings.is_of_topic:
        data = _of_topic(settings)
    else:
        with console.bytes_read(
            f"Reading {settings.data or 'the bundled candles'}", shown=settings.progress
        ) as advance:
            data = dataset.load(settings.data, settings.interval, settings.read_options(), advance)
    odd = data.findings + (dataset.too_short(data, model.window_length) if model else ())
    for note in data.history.notes:
        log.info("%s: %s", data.name, note)
    if settings.data is not None:  # what is odd about the bundled candles is known
        for line in findings.lines(data.history, odd):
            log.warning("%s: %s", data.name, line)
    if settings.bad_rows:
        findings.write(settings.bad_rows, data.history, odd)
        log.info("wrote every invalid or odd row to %s", settings.bad_rows)
    if model and settings.interval not in model.intervals:
        log.warning(
            "%s was trained on candles of %s, not %s", model.model_version,
            ", ".join(model.intervals), settings.interval,
        )  # fmt: skip
    spec = model.context if model else None
    if model is None and isinstance(settings, ModelSettings):
        spec = settings.context_spec
    source = Source(data.name, settings.interval, data.symbols)
    return _with_context(settings, source, spec, is_needed=model is None) if spec else source


def _with_context(
    settings: DataSettings, source: Source, spec: ContextSpec, *, is_needed: bool
) -> Source:
    """Return candles with a context around them; a finished model can do without (not needed)."""
    from trainer import context  # noqa: PLC0415

    contexts = _contexts(settings, spec, is_needed=is_needed)
    symbols = {
        name: context.join(candles, settings.interval, contexts)
        for name, candles in source.symbols.items()
        if name not in spec.symbols
    }
    if not symbols:
        raise ValueError(f"{source.name}: expected candles of other symbols than the context's")
    for name, share in context.coverage(symbols, spec).items():
        log.info("context %s: known as of %.1f %% of the candles", name, 100 * share)
    return replace(source, symbols=symbols)


def _contexts(settings: DataSettings, spec: ContextSpec, *, is_needed: bool) -> Contexts:
    """Return the candles of a context; raises ``HistoryError`` for none where they are needed."""
    from trainer import context, dataset  # noqa: PLC0415

    path = settings.context_data or settings.data
    if path == TOPIC and isinstance(settings, TopicDataSettings):
        contexts = uvloop.run(context_topic.read(settings)).contexts(spec)
        if is_needed:
            context.require(spec, contexts.series, settings.context_topic)
        return contexts
    try:
        data = dataset.load(path, spec.interval, settings.read_options(spec.symbols))
        series = {
            name: context.series_of(candles, spec.interval)
            for name, candles in data.symbols.items()
        }
    except HistoryError as error:
        if is_needed:
            raise HistoryError(f"context: {error}; --context-data names another file") from error
        log.warning("forecasts are without the context of the model: %s", error)
        series = {}
    return Contexts(spec, series)


def _of_topic(settings: TopicDataSettings) -> Dataset:
    """Return the candles of the topic, after reading what is new of it."""
    from trainer import dataset, snapshot  # noqa: PLC0415

    with console.progress(shown=settings.progress) as display:
        done = console.messages(display, f"Reading {settings.candles_topic}")
        folder = snapshot.update(settings, settings.snapshots, done)
    return dataset.of_history(snapshot.history(folder, settings.interval, settings.symbols))


COMMANDS: Final[Mapping[str, tuple[type[ServiceSettings], Callable[[Any], None]]]] = {
    "train": (TrainSettings, _train),
    "fit": (FitSettings, _fit),
    "backtest": (BacktestSettings, _backtest),
    "evaluate": (EvaluateSettings, _evaluate),
    "search": (SearchSettings, _search),
    "inspect": (InspectSettings, _inspect),
    "reference": (ReferenceSettings, _reference),
    "scores": (ScoresSettings, _scores),
    "watch": (WatchSettings, _watch),
    "models": (ModelsSettings, model_commands.models),
    "promote": (PromoteSettings, model_commands.promote),
    "rollback": (RollbackSettings, model_commands.rollback),
    "compare": (CompareSettings, model_commands.compare),
    "gc": (CollectSettings, model_commands.collect),
}


if __name__ == "__main__":
    process.leave(main())  # Python takes seconds to take PyTorch apart
