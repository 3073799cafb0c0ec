"""Console output of the trainer: progress bars on standard error, tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from shared.bundle import BundleConfig, Setting, TensorSpec
from shared.context import ContextSpec
from shared.terminal import Console, plain

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from trainer.evaluate.evaluation import Comparison, Evaluation
    from trainer.evaluate.scores_report import Report
    from trainer.fit import Epoch
    from trainer.training import Test


@contextmanager
def progress(*, shown: bool) -> Iterator[Progress]:
    """Yield a display of progress bars; it is silent unless ``shown``."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as display:
        yield display


def say_loading() -> None:
    """Say on a terminal why nothing is seen yet."""
    if sys.stderr.isatty():
        print("loading PyTorch, which takes some seconds", file=sys.stderr, flush=True)


@contextmanager
def working(what: str, *, shown: bool) -> Iterator[None]:
    """Show that something of unknown length goes on; silent unless ``shown``."""
    console = Console(stderr=True, quiet=not shown)
    with console.status(Text(plain(what))):
        yield


@contextmanager
def bytes_read(what: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield what to call with the bytes read and all; silent unless ``shown``."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as display:
        task = display.add_task(plain(what), total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


def epochs(display: Progress, max_epochs: int, title: str) -> Callable[[Epoch], None]:
    """Return what to call with each epoch."""
    task = display.add_task(title, total=max_epochs, note="")

    def show(epoch: Epoch) -> None:
        display.update(task, completed=epoch.epoch + 1, note=f"validation {epoch.pinball:.4f}")

    return show


def within_trial(display: Progress) -> Callable[[str], None]:
    """Return what to call with what a trial is doing: its fold and epoch."""
    task = display.add_task("This trial", total=None, note="")

    def show(note: str) -> None:
        display.update(task, advance=1, note=note)

    return show


def finish(display: Progress) -> None:
    """Fill the bars of what ended early."""
    for task in display.tasks:
        display.update(task.id, completed=task.total)


def steps(display: Progress, title: str, total: int) -> Callable[[str], None]:
    """Return what to call with the name of each step that is done."""
    task = display.add_task(title, total=total, note="")

    def show(name: str) -> None:
        display.update(task, advance=1, note=name)

    return show


def messages(display: Progress, title: str) -> Callable[[int, int], None]:
    """Return what to call with the messages read and all."""
    task = display.add_task(title, total=None, note="")
    return lambda done, total: display.update(task, completed=done, total=total)


def print_scores(made: Report) -> None:
    """Print how good the stream's forecasts were, a table an interval and step."""
    from trainer.evaluate.scores_report import percent  # noqa: PLC0415

    console = _out()
    for step in made.steps:
        names = [name for name in ("80", "90") if name in step.summary.coverage]
        table = _table(f"{step.interval} candles, {step.summary.step} ahead, {step.series} series")
        for title in ("from", "scores", "skill, %", "", "median's, %"):
            left = title in {"from", ""}
            table.add_column(title, justify="left" if left else "right", no_wrap=True)
        for name in names:
            table.add_column(f"in {name} % (raw)", justify="right")
        for label, summary in step.rows(made.period_ms):
            covered = [
                f"{percent(summary.coverage.get(name))} ({percent(summary.raw_coverage.get(name))})"
                for name in names
            ]
            table.add_row(
                label, f"{summary.count:,}", percent(summary.baseline_skill),
                summary.against_baseline, percent(summary.persistence_skill), *covered,
            )  # fmt: skip
        console.print(table)
        if step.worse:
            console.print(Text(f"worse than no model: {plain(', '.join(step.worse))}"))


def print_errors(test: Test) -> None:
    """Print the errors of the predicted close by horizon and method."""
    table = _table("Error of the predicted close, in the quote currency and of the log return in %")
    table.add_column("ahead", justify="right")
    table.add_column("method")
    for name in ("MSE", "RMSE", "MAE", "RMSE, %", "MAE, %"):
        table.add_column(name, justify="right")
    before = None
    for row in test.errors:
        step = "" if row.step == before else str(row.step)
        prices = [f"{value:.4f}" for value in (row.mse, row.rmse, row.mae)]
        returns = [f"{100 * value:.4f}" for value in (row.return_rmse, row.return_mae)]
        table.add_row(step, row.method, *prices, *returns)
        before = row.step
    _out().print(table)


def print_sentences(sentences: Sequence[str]) -> None:
    """Print what the figures say, in words."""
    out = _out()
    out.print("What the forecasts are worth on the test, which training did not see:", style="bold")
    for sentence in sentences:
        out.print(f"- {sentence}")


def print_next_steps(out: Path, data: Path | None, tracking_uri: str, *, has_test: bool) -> None:
    """Print what to do with a new bundle; without a test nothing is left to measure it on."""
    of_data = "" if data is None else f" --path {data}"
    evaluated = "" if data is None else f" --data {data}"
    console = _out()
    console.print("\nNext:", style="bold")
    for what, command in (
        ("see it forecast", f"candlecast demo --model {out}{of_data}"),
        ("serve it", f"candlecast worker --model {out}"),
        (
            "measure it whole",
            f"candlecast trainer evaluate --model {out}{evaluated}" if has_test else "",
        ),
        (
            "look at its run",
            f"mlflow ui --backend-store-uri {tracking_uri}" if tracking_uri else "",
        ),
    ):
        if command:
            console.print(f"  {what:<18}{command}", soft_wrap=True, highlight=False)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the network's skills against each baseline, a table a loss."""
    rows: dict[str, dict[str, dict[int, Comparison]]] = {}
    for comparison in evaluation.comparisons:
        rows.setdefault(comparison.loss, {}).setdefault(comparison.baseline, {})[
            comparison.step
        ] = comparison
    for loss, by_baseline in rows.items():
        table = _table(f"{loss}: % lower than the baseline's, with 95 % interval")
        table.add_column("against")
        for step in evaluation.horizons:
            table.add_column(f"{step} ahead", justify="right")
        for baseline, by_step in by_baseline.items():
            cells = [
                _skill(by_step[step]) if step in by_step else "" for step in evaluation.horizons
            ]
            table.add_row(baseline, *cells)
        _out().print(table)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)


def _out() -> Console:
    """Return the standard output; a file or a pipe takes lines of 110 characters."""
    return Console() if sys.stdout.isatty() else Console(width=110)


def _skill(comparison: Comparison) -> Text:
    colour = "green" if comparison.low > 0 else "red" if comparison.high < 0 else "default"
    skill, low, high = (
        100 * value for value in (comparison.skill, comparison.low, comparison.high)
    )
    return Text.assemble((f"{skill:+.2f}", colour), f" ({low:+.2f}, {high:+.2f})")


def print_trials(trials: Sequence[FrozenTrial]) -> None:
    """Print the best trials."""
    table = _table("Best trials")
    for name in ("trial", "relative pinball", "settings"):
        table.add_column(name)
    for trial in trials:
        settings = ", ".join(f"{name} {_plain(value)}" for name, value in trial.params.items())
        table.add_row(str(trial.number), f"{trial.value:.5f}", settings)
    _out().print(table)


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _context(spec: ContextSpec) -> str:
    return f"{spec.length} closes of {spec.interval} of {', '.join(spec.symbols)}"


def print_bundle(config: BundleConfig) -> None:
    """Print what a bundle holds, as tables."""
    console = Console()
    data = config.data
    first, last = (
        f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d}" for at in (data.first_ms, data.last_ms)
    )
    about = {
        "version": config.model_version,
        "for candles of": ", ".join(config.intervals),
        **{f"window, {name}": _lengths(of) for name, of in config.window_lengths.items()},
        "horizons": ", ".join(map(str, config.horizons)),
        "quantile levels": ", ".join(f"{level:g}" for level in config.quantile_levels),
        **({"context": _context(config.context)} if config.context else {}),
        **{f"input {name}": _tensor(spec) for name, spec in config.inputs.items()},
        **{f"output {name}": _tensor(spec) for name, spec in config.outputs.items()},
        "trained on": f"{data.candles:,} candles of {len(data.symbols)} symbols, {first} to {last}",
        "data": data.source,
        "SHA-256 of the data": data.sha256,
        **{f"SHA-256 of {name}": digest for name, digest in config.files.items()},
    }
    for title, rows in (
        (config.name, about),
        ("features", config.features),
        ("training", {name: _shown(value) for name, value in config.training.items()}),
        ("figures", {name: f"{value:.6g}" for name, value in config.metrics.items()}),
    ):
        table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)


def _lengths(lengths: Sequence[int]) -> str:
    return f"{' or '.join(map(str, lengths))} candles"


def _tensor(spec: TensorSpec) -> str:
    sizes = ", ".join("B" if size < 0 else str(size) for size in spec.shape)
    return f"{spec.datatype} ({sizes})"


def _shown(value: Setting) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
