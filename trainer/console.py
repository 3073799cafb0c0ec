"""What the trainer shows: progress bars on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from trainer.evaluation import Comparison, Evaluation
    from trainer.fit import Epoch
    from trainer.training import Test


@contextmanager
def progress(*, shown: bool) -> Iterator[Progress]:
    """Yield a display of progress bars; it is silent unless ``shown``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as display:
        yield display


def epochs(display: Progress, nets: int, max_epochs: int, title: str) -> Callable[[Epoch], None]:
    """Return what to call with each epoch; a net that stops early fills its part of the bar."""
    task = display.add_task(title, total=nets * max_epochs, note="")

    def show(epoch: Epoch) -> None:
        done = (epoch.net * max_epochs + epoch.epoch + 1) % (nets * max_epochs + 1)
        note = f"net {epoch.net + 1} of {nets}, {epoch.scaling}: validation {epoch.pinball:.4f}"
        display.update(task, completed=done, note=note)

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


def print_errors(found: Test) -> None:
    """Print the errors of the predicted close by horizon and method."""
    table = Table(title="Error of the predicted close on the test candles", title_justify="left")
    table.add_column("ahead", justify="right")
    table.add_column("method")
    for name in ("MSE", "RMSE", "MAE", "RMSE of log return, %", "MAE, %"):
        table.add_column(name, justify="right")
    before = None
    for one in found.errors:
        step = "" if one.step == before else str(one.step)
        prices = [f"{value:.4f}" for value in (one.mse, one.rmse, one.mae)]
        returns = [f"{100 * value:.4f}" for value in (one.return_rmse, one.return_mae)]
        table.add_row(step, one.method, *prices, *returns)
        before = one.step
    Console().print(table)


def print_evaluation(found: Evaluation) -> None:
    """Print the network's skills against each baseline."""
    table = Table(
        title="By how many % the loss is lower than the baseline's, with 95 % interval",
        title_justify="left",
    )
    for name in ("loss", "against"):
        table.add_column(name)
    for step in found.horizons:
        table.add_column(f"{step} ahead", justify="right")
    rows: dict[tuple[str, str], dict[int, Comparison]] = {}
    for one in found.comparisons:
        rows.setdefault((one.loss, one.baseline), {})[one.step] = one
    for (loss, baseline), by_step in rows.items():
        cells = [_skill(by_step[step]) if step in by_step else "" for step in found.horizons]
        table.add_row(loss, baseline, *cells)
    Console().print(table)


def _skill(one: Comparison) -> str:
    colour = "green" if one.low > 0 else "red" if one.high < 0 else "default"
    skill, low, high = (100 * value for value in (one.skill, one.low, one.high))
    return f"[{colour}]{skill:+.2f}[/] ({low:+.2f} to {high:+.2f})"


def print_trials(trials: Sequence[FrozenTrial]) -> None:
    """Print the best trials."""
    table = Table(title="Best trials", title_justify="left")
    names = sorted({name for one in trials for name in one.params})
    for name in ("trial", "relative pinball", *names):
        table.add_column(name)
    for one in trials:
        given = [str(one.params.get(name, "")) for name in names]
        table.add_row(str(one.number), f"{one.value:.5f}", *given)
    Console().print(table)
