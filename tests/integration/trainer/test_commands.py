"""Real trainings on real candles, from the command line to MLflow, the bundle and the report."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from local import command
from local.live_training import FEATURES
from local.settings import LocalCommand
from shared import bundle
from shared.context import ContextSpec
from shared.files.series import History
from shared.forecaster import TOLERANCE, Due, ModelSet, OnnxForecaster, forecast
from shared.forecasts import Horizon
from shared.history import bundled
from shared.window import Window
from tests.unit.api.client import application, call
from tests.unit.trainer.test_panels import table as panel
from trainer import dataset, export
from trainer.__main__ import main
from trainer.dataset import Source
from trainer.evaluate import backtest, report
from trainer.evaluate.evaluation import WITHOUT_CONTEXT
from trainer.features import Candles, extract
from trainer.network import Model
from trainer.scaling import relative
from trainer.settings import TrainSettings

pytestmark = pytest.mark.integration

SMALL = (
    "--max-epochs", "3", "--hidden", "6", "--sequence-length", "8", "--no-progress",
    "--features", FEATURES,
)  # fmt: skip


@pytest.fixture(scope="module")
def candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV of 1,000 real candles of two symbols, with three bad rows."""
    rows = [
        {
            "symbol": one.symbol, "open_ms": one.open_ms, "open": one.open, "high": one.high,
            "low": one.low, "close": one.close, "volume": one.volume,
        }
        for one in bundled(("IBM", "MSFT")).candles[:2000]
    ]  # fmt: skip
    rows += [rows[-1], {**rows[-1], "open_ms": 1, "close": -1}, {**rows[-1], "symbol": "a b"}]
    path = tmp_path_factory.mktemp("data") / "candles.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "runs" / "mlflow.db"


@pytest.fixture(scope="module")
def said(candles: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A trained bundle, and what the training printed."""
    out = tmp_path_factory.mktemp("model") / "bundle"
    argv = ["train", "--data", str(candles), "--out", str(out), *SMALL]
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main([*argv, "--tracking-uri", f"sqlite:///{store}", "--experiment", "test"]) == 0
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def trained(said: tuple[Path, str]) -> Path:
    return said[0]


def test_a_training_says_what_it_is_worth_and_what_comes_next(
    said: tuple[Path, str], candles: Path
) -> None:
    out, printed = said
    text = " ".join(printed.split())
    for words in (
        "Its distribution forecast, against GARCH-t: 1 candle ahead",
        "Its volatility forecast, against HAR: 1 candle ahead",
        "Its 98 % interval held the outcome: 1 candle ahead",
        f"candlecast demo --model {out} --path {candles}",
        f"candlecast trainer evaluate --model {out} --data {candles}",
        "mlflow ui --backend-store-uri sqlite:///",
        "then on its page: Model training, Experiments, test",
    ):
        assert words in text


def test_the_next_command_runs_as_it_is_printed(
    candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file that is read by flags, too few candles for a network of its own."""
    path = tmp_path / "my prices.csv"
    table = pd.read_csv(candles).query("symbol == 'IBM'").drop(columns="symbol")
    table.rename(columns={"close": "Zamkniecie"}).to_csv(path, index=False)
    reading = ["--columns", "close=Zamkniecie", "--symbol", "IBM"]
    argv = ["fit", "--data", str(path), *reading, "--until", "2003-06-01", "--no-compare"]
    out = tmp_path / "bundle"
    assert main([*argv, "--out", str(out), "--tracking-uri", "", "--no-progress"]) == 0
    printed = capsys.readouterr().out
    steps = dict(re.findall(r"^  (\w[\w ]+?)  +(candlecast .*)$", printed, re.MULTILINE))
    assert bundle.load(out).config == bundle.load(bundle.default_path()).config, "a copy of it"
    demo = shlex.split(steps["see it forecast"])
    assert LocalCommand.read(demo[2:], "candlecast demo").columns == ("close=Zamkniecie",)
    measure = shlex.split(steps["measure it whole"])
    quick = ["--baselines", "persistence", "--out", str(tmp_path / "report"), "--no-progress"]
    assert command.main([*measure[1:], *quick, "--tracking-uri", ""]) == 0
    assert (tmp_path / "report" / "report.html").exists()


def test_one_model_of_a_folder_of_candles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, uri = tmp_path / "candles", tmp_path / "bundle", f"sqlite:///{tmp_path}/m.db"
    folder.mkdir()
    names = [f"S{number}" for number in range(12)]
    panel("daily stock", 500, names).to_parquet(folder / "daily.parquet")
    panel("5m stock", 500, names[:4]).to_parquet(folder / "minutes.parquet")
    panel("daily stock", 300, ["V1", "V2"]).to_parquet(folder / "validation-daily.parquet")
    argv = ["fit", "--all", str(folder), "--out", str(out), "--hidden", "4", "--max-epochs", "1"]
    assert main([*argv, "--no-progress", "--tracking-uri", uri, "--experiment", "test"]) == 0
    intervals = bundle.load(out).config.intervals
    assert (intervals[0], intervals[-1]) == ("5m", "1d"), "and what lies between"
    assert f"trainer evaluate --all {folder} --model {out}" in capsys.readouterr().out
    [run] = runs(tmp_path / "m.db")
    assert run.info.run_name == "train candles"
    [version] = MlflowClient(uri).search_model_versions("name = 'test'")
    assert version.tags["model_version"] == bundle.load(out).config.model_version


def test_too_little_data_is_told_in_candles(
    candles: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = tmp_path / "few.csv"
    pd.read_csv(candles).query("symbol == 'IBM'").head(165).to_csv(few, index=False)
    argv = ["fit", "--data", str(few), "--out", str(tmp_path / "b"), "--tracking-uri", "", *SMALL]
    assert main(argv) == 1
    assert "candles: expected at least" in caplog.text
    assert "got 165: a window has 128, the longest horizon 10" in caplog.text


def test_a_fit_that_keeps_the_built_in_model_says_what_comes_next(
    candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, out = tmp_path / "one.csv", tmp_path / "b"
    pd.read_csv(candles).query("symbol == 'IBM'").to_csv(one, index=False)
    argv = ["fit", "--data", str(one), "--out", str(out), "--tracking-uri", ""]
    assert main([*argv, "--no-progress"]) == 0
    assert bundle.load(out).config == bundle.load(bundle.default_path()).config
    assert f"candlecast demo --model {out} --path {one}" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["evaluate", "--start", "2026-01-01"], "up to {last}, the end of the forecasts, got 2026"),
        (["evaluate", "--start", "1990-01-01"], "expected a --start after {first}, its first"),
        (
            ["evaluate", "--start", "2003-06-01", "--end", "2003-01-01"],
            "up to 2002-12-31, the end of the forecasts, got 2003-06-01",
        ),
        (["evaluate", "--model", "BUILT-IN", "--start", "2026-01-01"], "between --start and --end"),
        (
            ["search", "--until", "1995-01-01", "--trials", "1"],
            "expected an --until more than 3 years (--folds) after {first}, its first candle",
        ),
        (["fit", "--until", "1990-01-01"], "expected windows with outcomes before 1990-01-01"),
    ],
)
def test_dates_outside_the_candles_are_refused_before_any_training(
    argv: list[str], words: str, candles: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """``evaluate --start`` behind the candles trained a network, and then refused."""
    for module in ("protocol", "fit"):  # protocol first: it takes the name as it is imported
        monkeypatch.setattr(f"trainer.{module}.fit", None)  # a training would fail otherwise
    argv = [str(bundle.default_path()) if part == "BUILT-IN" else part for part in argv]
    if argv[0] == "search":
        argv += ["--storage", f"sqlite:///{tmp_path}/search.db"]
    flags = ["--data", str(candles), "--out", str(tmp_path / "out"), "--tracking-uri", ""]
    assert main([*argv, *flags, "--no-progress"]) == 1
    [line] = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert words.format(first="2000-03-01", last="2004-02-24") in line


def runs(store: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_a_training_is_tracked_whole(trained: Path, store: Path) -> None:
    (run,) = [
        one for one in runs(store) if one.info.run_name.startswith("train candles.csv until 2")
    ]
    assert run.info.status == "FINISHED"
    assert run.data.params["sequence_length"] == "8"
    assert run.data.params["seed"] == "0"
    client = MlflowClient(f"sqlite:///{store}")
    curve = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in curve] == list(range(len(curve)))
    assert len(curve) > 1
    for name in ("mse", "rmse", "mae"):
        assert run.data.metrics[f"{name}_1"] > 0
        assert run.data.metrics[f"{name}_1_persistence"] > 0
        assert run.data.metrics[f"{name}_10_drift"] > 0
    saved = bundle.load(trained).config
    assert set(saved.extra_files) == {bundle.REFERENCE_NAME}
    stored = {one.path for one in client.list_artifacts(run.info.run_id, "bundle")}
    assert stored == {f"bundle/{name}" for name in (bundle.CONFIG_NAME, *saved.file_names)}
    local = Path(client.download_artifacts(run.info.run_id, "bundle"))
    assert bundle.load(local).config == bundle.load(trained).config
    assert {"qlike_skill_1_HAR", "pinball_skill_1_GARCH-t"} <= run.data.metrics.keys()
    assert run.data.tags["model_version"] == bundle.load(trained).config.model_version
    [version] = client.search_model_versions("name = 'test'")
    assert version.run_id == run.info.run_id
    assert version.tags["model_version"] == bundle.load(trained).config.model_version
    assert version.source is not None
    assert (Path(version.source.removeprefix("file://")) / bundle.CONFIG_NAME).exists()
    plot = Path(client.download_artifacts(run.info.run_id, "forecasts.png"))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_size > 20_000


def test_a_reference_is_added_without_training(
    trained: Path, candles: Path, tmp_path: Path
) -> None:
    """A bundle without one gets the same file as its training wrote."""
    whole, bare = bundle.load(trained), tmp_path / "bare"
    shutil.copytree(trained, bare)
    (bare / bundle.REFERENCE_NAME).unlink()
    without = whole.config.model_copy(update={"extra_files": {}})
    (bare / bundle.CONFIG_NAME).write_text(without.model_dump_json())
    assert OnnxForecaster(bundle.load(bare)).reference is None
    assert main(["reference", str(bare), "--data", str(candles), "--no-progress"]) == 0
    after = bundle.load(bare)
    assert after.config.model_version == whole.config.model_version
    assert after.reference == whole.reference
    assert after.reference is not None
    assert after.reference.sha256 == whole.config.data.sha256
    assert list(after.reference.intervals["1d"]) == list(whole.config.features)


def test_the_bundle_says_what_it_was_trained_on(trained: Path, candles: Path) -> None:
    config = bundle.load(trained).config
    assert config.training["sequence_length"] == 8
    assert config.window_length == 128
    assert config.data.symbols == ("IBM", "MSFT")
    assert config.data.source == str(candles)
    test_from = dataset.load(candles).symbols["IBM"].open_ms[-1] - config.data.last_ms
    assert test_from > 60 * 86_400_000, "the newest tenth was kept for the test"
    assert config.metrics["rmse_1"] == pytest.approx(math.sqrt(config.metrics["mse_1"]))
    assert (trained / "model.onnx").stat().st_size < 200_000


def test_the_same_seed_gives_the_same_files_in_another_process(
    trained: Path, candles: Path, tmp_path: Path
) -> None:
    for seed, same in (("0", True), ("1", False)):
        folder = tmp_path / seed
        folder.mkdir()
        subprocess.run(
            [
                sys.executable, "-m", "trainer", "--data", str(candles),
                "--tracking-uri", "", "--seed", seed, *SMALL,
            ],
            check=True, capture_output=True, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        out = folder / "my-bundle"  # and not the built-in one
        hashes = bundle.hashes_of({path.name: path.read_bytes() for path in out.iterdir()})
        expected = bundle.hashes_of({path.name: path.read_bytes() for path in trained.iterdir()})
        assert (hashes == expected) is same
        assert (hashes["model.onnx"] == expected["model.onnx"]) is same


def test_the_table_names_the_baselines(
    candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["fit", "--data", str(candles), "--until", "2003-06-01", "--out", str(tmp_path / "b")]
    assert main([*argv, "--tracking-uri", "", *SMALL]) == 0
    shown = capsys.readouterr().out
    for word in ("MSE", "RMSE", "MAE", "persistence", "drift", "Candlecast"):
        assert word in shown


def test_fit_until_the_end_has_no_test(
    candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["fit", "--data", str(candles), "--out", str(tmp_path / "b"), "--tracking-uri", ""]
    assert main([*argv, *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "candlecast demo --model" in printed
    assert "worth" not in printed
    assert "evaluate" not in printed, "nothing is left that training has not seen"
    config = bundle.load(tmp_path / "b").config
    assert config.metrics == {}
    assert config.data.last_ms == dataset.load(candles).symbols["IBM"].open_ms[-1]


def test_what_comes_after_until_changes_nothing(candles: Path, tmp_path: Path) -> None:
    table = pd.read_csv(candles, float_precision="round_trip")
    cut = 1_054_425_600_000  # 2003-06-01
    later = table["open_ms"] >= cut
    table.loc[later, ["open", "high", "low", "close"]] *= 3
    table.to_csv(tmp_path / "other.csv", index=False)
    for name, path in (("a", candles), ("b", tmp_path / "other.csv")):
        argv = ["fit", "--data", str(path), "--until", "2003-06-01", "--out", str(tmp_path / name)]
        assert main([*argv, "--tracking-uri", "", *SMALL]) == 0
    first, second = (bundle.load(tmp_path / name).config for name in ("a", "b"))
    assert first.files == second.files
    assert first.data.sha256 == second.data.sha256


def test_backtest_writes_every_forecast_and_tells_bad_rows(
    trained: Path, candles: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "forecasts.parquet"
    argv = ["backtest", "--model", str(trained), "--data", str(candles), "--out", str(out)]
    assert main([*argv, "--no-progress"]) == 0
    table = pd.read_parquet(out)
    length = bundle.load(trained).config.window_length
    assert len(table) == 2 * (1000 - length + 1) * 3
    assert list(table.columns) == [
        "symbol", "open_ms", "step", "last_close", "predicted_close", "q0.01", "q0.025", "q0.05",
        "q0.1", "q0.25", "q0.5", "q0.75", "q0.9", "q0.95", "q0.975", "q0.99",
        *(f"raw_{name}" for name in table.columns[5:16]), "volatility",
    ]  # fmt: skip
    assert (table["q0.5"] == table["raw_q0.5"]).all()
    assert (table["q0.9"] != table["raw_q0.9"]).mean() > 0.9
    assert np.isfinite(table.drop(columns="symbol").to_numpy(dtype=float)).all()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.partition(": ")[2] for line in told if "left out" in line] == [
        (
            "1 row left out (duplicate), the first row 2002: MSFT: expected each candle once, got "
            "that of row 2001 again"
        ),
        "1 row left out (out_of_range), the first row 2003: close: expected more than 0, got -1",
    ]
    assert any(": history too short: " in line and "a b" in line for line in told)


def test_a_back_test_without_what_writes_parquet_says_so_first(
    candles: Path, tmp_path: Path
) -> None:
    """It ended in pandas' own words, after all of the work."""
    code = "import sys; sys.modules['pyarrow'] = None; from local.command import script; script()"
    argv = ["trainer", "backtest", "--data", str(candles), "--out", str(tmp_path / "f.parquet")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "needs the package pyarrow, which is not installed: pip install 'candlecast[" in line


def test_other_horizons_and_levels_go_all_the_way(candles: Path, tmp_path: Path) -> None:
    other = ["--horizons", "2,7", "--quantiles", "0.2,0.5,0.95", "--until", "2003-06-01"]
    argv = ["fit", "--data", str(candles), "--out", str(tmp_path / "b"), *other, *SMALL]
    assert main([*argv, "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) == 0, "with a figure"
    out = tmp_path / "forecasts.csv"
    argv = ["backtest", "--model", str(tmp_path / "b"), "--data", str(candles), "--out", str(out)]
    assert main([*argv, "--no-progress"]) == 0
    table = pd.read_csv(out, float_precision="round_trip")
    assert [name for name in table.columns if name[0] == "q"] == ["q0.2", "q0.5", "q0.95"]
    assert set(table["step"]) == {2, 7}
    forecaster = OnnxForecaster(bundle.load(tmp_path / "b"))
    used = dataset.load(candles).symbols["IBM"]
    names = ("open_ms", "open", "high", "low", "close", "volume")
    rows_used = zip(used.open_ms.tolist(), *used.candles.T.tolist(), strict=True)
    history = [dict(zip(names, row, strict=True)) for row in rows_used]
    body = {"histories": [{"interval": "1d", "candles": history}]}
    [answer] = call(application(forecaster), "POST", "/v1/forecasts", json=body).json()["forecasts"]
    rows = table[table["symbol"] == "IBM"].tail(2)
    assert [one["step"] for one in answer["horizons"]] == rows["step"].tolist()
    for told, (_, row) in zip(answer["horizons"], rows.iterrows(), strict=True):
        expected = {level: row[f"raw_q{level}"] for level in ("0.2", "0.5", "0.95")}
        assert told["quantiles"] == pytest.approx(expected, rel=1e-6)
        assert told["volatility"] == pytest.approx(row["volatility"], rel=1e-6)


def test_the_back_test_is_what_the_stream_forecasts(trained: Path) -> None:
    forecaster = OnnxForecaster(bundle.load(trained))
    candles = bundled(("AAPL",)).candles[:400]
    source = dataset.of_history(History.of("AAPL", candles))
    table = backtest.run(forecaster, source.symbols)
    window = Window(forecaster.window_length)
    made: list[Horizon] = []
    for one in candles:
        window, _ = window.push(one)
        if window.is_full:
            due = Due(one.symbol, one.interval, one.close_ms, one.close, window)
            made += forecast(ModelSet(forecaster), [due], 0)[0].horizons
    expected = [[one.predicted_close, *one.quantiles.values(), one.volatility] for one in made]
    names = ["predicted_close", *(f"q{level:g}" for level in forecaster.quantile_levels)]
    np.testing.assert_allclose(table[[*names, "volatility"]], expected, rtol=1e-9)


def test_evaluate_reports_rolling_origins(
    candles: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", "--data", str(candles), "--folds", "2", "--out", str(tmp_path), *SMALL]
    some = ["--baselines", "persistence,har,rolling", "--experiment", "test"]
    assert main([*argv, *some, "--tracking-uri", f"sqlite:///{store}"]) == 0
    assert "HAR" in capsys.readouterr().out
    made = report.Report.model_validate_json((tmp_path / "report.json").read_text())
    assert made.protocol.kind == "rolling origins"
    assert len({fold.model_version for fold in made.protocol.folds}) == 2
    for fold in made.protocol.folds:
        assert fold.trained_until_ms < fold.first_ms
    assert {one.method for one in made.evaluation.scores} == {
        "Candlecast", "persistence", "HAR", "rolling quantiles",
    }  # fmt: skip
    (run,) = [one for one in runs(store) if one.info.run_name.startswith("evaluate ")]
    assert math.isfinite(run.data.metrics["pinball_skill_1_HAR"])
    assert (tmp_path / "report.html").stat().st_size > 50_000


def test_evaluate_leaves_out_what_a_frozen_model_was_trained_on(
    trained: Path, candles: Path, tmp_path: Path
) -> None:
    argv = ["evaluate", "--model", str(trained), "--data", str(candles), "--out", str(tmp_path)]
    assert main([*argv, "--baselines", "har", "--tracking-uri", "", "--no-progress"]) == 0
    made = report.Report.model_validate_json((tmp_path / "report.json").read_text())
    assert made.protocol.kind == "frozen model"
    assert made.evaluation.first_ms > bundle.load(trained).config.data.last_ms


def test_a_context_is_read_measured_and_done_without(
    candles: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a file of its own, by fit, evaluate and backtest; a finished model can do without."""
    rows = pd.DataFrame([one.model_dump() for one in bundled(("AAPL",)).candles[:1000]])
    index = tmp_path / "index.csv"
    columns = ["symbol", "open_ms", "open", "high", "low", "close", "volume"]
    rows.assign(symbol="^IXIC")[columns].to_csv(index, index=False)
    where = ["--data", str(candles), "--no-progress"]
    apart = ["--context-data", str(index)]
    argv = ["fit", *where, "--out", str(tmp_path / "b"), *SMALL, "--context", "^IXIC"]
    assert main([*argv, "--tracking-uri", ""]) == 1
    [refusal] = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert "^IXIC" in refusal
    assert "--context-data names another file" in refusal
    until = ["--until", "2003-01-01", "--no-compare", "--tracking-uri", ""]
    assert main([*argv, *apart, *until]) == 0
    config = bundle.load(tmp_path / "b").config
    assert config.context == ContextSpec(symbols=("^IXIC",), interval="1d")
    said = config.training["context"]
    assert isinstance(said, list)
    assert [str(line).partition(": pinball ")[0] for line in said] == [
        "1 ahead", "5 ahead", "10 ahead",
    ]  # fmt: skip
    assert config.metrics["context_saved_1_low"] < config.metrics["context_saved_1_high"]

    report_on = ["evaluate", "--model", str(tmp_path / "b"), *where, "--out", str(tmp_path)]
    assert main([*report_on, *apart, "--baselines", "har", "--tracking-uri", ""]) == 0
    made = report.Report.model_validate_json((tmp_path / "report.json").read_text())
    beside = [one for one in made.evaluation.comparisons if one.baseline == WITHOUT_CONTEXT]
    pinball = {found.step: found for found in beside if found.loss == "pinball"}
    assert pinball.keys() == {1, 5, 10}
    assert all(found.low < found.skill < found.high for found in pinball.values())

    tables = []
    for number, some in enumerate((apart, [])):
        out = tmp_path / f"forecasts-{number}.parquet"
        test = ["backtest", "--model", str(tmp_path / "b"), *where, "--out", str(out)]
        assert main([*test, *some]) == 0
        tables.append(pd.read_parquet(out))
    assert "forecasts are without the context of the model" in caplog.text
    assert (tables[0]["raw_q0.05"] != tables[1]["raw_q0.05"]).mean() > 0.9


def test_a_search_is_tracked_and_resumes(candles: Path, store: Path, tmp_path: Path) -> None:
    argv = [
        "search", "--data", str(candles), "--until", "2003-09-01", "--folds", "1", *SMALL,
        "--storage", f"sqlite:///{tmp_path}/search.db", "--out", str(tmp_path / "out"),
        "--tracking-uri", f"sqlite:///{store}", "--experiment", "test",
    ]  # fmt: skip
    assert main([*argv, "--trials", "1"]) == 0
    assert main([*argv, "--trials", "2"]) == 0
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["trials"] == 3
    assert best["complete"] >= 2
    for name in ("parallel-coordinate.html", "importance.html"):
        assert "plotly" in (tmp_path / "out" / name).read_text(encoding="utf-8")
    parents = [one.info.run_id for one in runs(store) if one.info.run_name.startswith("search ")]
    nested = [one for one in runs(store) if one.info.run_name.startswith("trial ")]
    assert len(parents) == 2
    assert sorted(one.info.run_name for one in nested) == ["trial 0", "trial 1", "trial 2"]
    assert all(one.data.tags["mlflow.parentRunId"] in parents for one in nested)
    assert all("relative_pinball" in one.data.metrics for one in nested)


@pytest.fixture(scope="module")
def default() -> bundle.Bundle:
    return bundle.load(bundle.default_path())


@pytest.fixture(scope="module")
def windows(default: bundle.Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Return 500 real windows of all symbols, candles (B, T, 5) and times (B, T)."""
    source = Source("bundled", "1d", dataset.load(None).symbols)
    parts = list(source.windows((default.config.window_length,), 0, 4096))
    candles, open_ms = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    rows = np.linspace(0, len(candles) - 1, 500).astype(int)
    return candles[rows], open_ms[rows]


def test_the_default_bundle_is_small_and_for_minutes_to_days(default: bundle.Bundle) -> None:
    config = default.config
    assert sum(path.stat().st_size for path in default.path.iterdir()) < 1_000_000
    assert {"1m", "5m", "15m", "1h", "1d"} <= set(config.intervals)
    assert config.quantile_levels[0] == 0.01
    assert config.quantile_levels[-1] == 0.99
    assert len(config.data.parts) >= 7
    assert sum(part.candles for part in config.data.parts) == config.data.candles > 1_000_000


def test_no_symbol_of_the_bundled_candles_trained_the_default(default: bundle.Bundle) -> None:
    assert not set(dataset.load(None).symbols) & set(default.config.data.symbols)


def test_the_default_bundle_is_rebuilt_from_its_weights(
    default: bundle.Bundle, windows: tuple[np.ndarray, np.ndarray]
) -> None:
    model = export.rebuild(default)
    assert export.to_onnx(model) == default.onnx
    apart = export.largest_difference(model, OnnxForecaster(default), [windows])
    assert apart <= TOLERANCE


def test_the_scaling_in_the_graph_is_that_of_the_scalers(
    default: bundle.Bundle, windows: tuple[np.ndarray, np.ndarray]
) -> None:
    model = export.rebuild(default)
    assert isinstance(model, Model)
    scalers = joblib.load(default.path / bundle.SCALERS_NAME)
    series = Candles(torch.from_numpy(windows[0]), torch.from_numpy(windows[1]), model.steps)
    newest = extract(model.features, series)[:, -1].double().numpy()
    expected = scalers.inputs.transform(newest @ relative(TrainSettings.read([], "x").config()))
    got = newest @ model.input_weight.double().numpy() + model.input_bias.numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
