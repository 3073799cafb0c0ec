"""Settings, flags, folders, ports, jars: what goes before the first process."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local import jars
from local.__main__ import exit_code, main
from local.accounting import Coverage, Latency, Summary
from local.demo import End, run_folder
from local.ports import free_ports
from local.process import tail
from local.settings import LocalSettings
from local.system import PartFailed, source_flags
from shared.leash import Leash
from shared.process import Exit


def read(*argv: str) -> LocalSettings:
    return LocalSettings.read(argv, "python -m local")


def summary(missing: int, scores: int = 0) -> Summary:
    return Summary(1, 1, 0, missing, Latency(None, None, None), 0, scores, Coverage({}, {}))


def test_a_person_watches_a_stream_and_a_script_wants_it_done() -> None:
    assert source_flags(read()) == ["--source", "replay", "--interval", "1d", "--speed", "100"]
    assert source_flags(read("--exit-when-done")) == ["--source", "replay", "--interval", "1d"]
    assert source_flags(read("--exit-when-done", "--speed", "2.5"))[-2:] == ["--speed", "2.5"]


def test_the_source_s_flags_are_handed_on() -> None:
    flags = source_flags(read("--symbols", "AAPL,IBM", "--path", "a.csv", "--interval", "1m"))
    assert flags[2:8] == ["--interval", "1m", "--symbols", "AAPL,IBM", "--path", "a.csv"]
    polled = ["--source", "yfinance", "--interval", "1d", "--history", "500"]
    assert source_flags(read("--source", "yfinance")) == polled
    assert source_flags(read("--source", "yfinance", "--exit-when-done")) == [*polled, "--once"]
    falls_back = source_flags(read("--source", "yfinance", "--fallback", "replay"))
    assert falls_back == [*polled, "--fallback", "replay", "--speed", "100"]


def test_json_is_a_flag() -> None:
    assert read("--json").json_summary
    assert not read().json_summary


@pytest.mark.parametrize(
    ("end", "missing", "until_done", "code"),
    [
        (End.DONE, 0, True, 0),
        (End.DONE, 1, True, 1),
        (End.STALLED, 0, True, 1),
        (End.STOPPED, 3, False, 0),
        (End.STOPPED, 0, True, Exit.INTERRUPTED),
        (End.STOPPED_EARLY, 0, False, 0),
        (End.STOPPED_EARLY, 0, True, Exit.INTERRUPTED),
        (End.FAILED, 0, False, 1),
    ],
)
def test_exit_codes(end: End, missing: int, until_done: bool, code: int) -> None:
    assert exit_code(end, summary(missing), until_done=until_done) == code


def test_how_a_file_is_read_is_handed_on() -> None:
    flags = source_flags(
        read("--path", "a.csv", "--timezone", "Europe/Warsaw", "--allow-bad-rows", "--columns",
             "time=Data,open=Otwarcie")
    )  # fmt: skip
    begin = flags.index("--path")
    assert flags[begin : begin + 7] == [
        "--path", "a.csv", "--allow-bad-rows", "--columns", "time=Data,open=Otwarcie",
        "--timezone", "Europe/Warsaw",
    ]  # fmt: skip


def test_the_context_is_handed_on_to_the_producer() -> None:
    context = ["--context", "^GSPC,^VIX", "--context-interval", "1d", "--context-path", "i.csv"]
    flags = source_flags(read("--path", "a.csv", "--interval", "5m", *context))
    begin = flags.index("--context")
    assert flags[begin : begin + 6] == context


@pytest.mark.usefixtures("kept_signals")
@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--path", "/nope.csv"], "/nope.csv: cannot be read: No such file or directory"),
        (["--path", "/etc/passwd"], "/etc/passwd: expected columns for time, open, high"),
        (["--path", __file__], f"{__file__}: expected "),
        (["--symbols", "NOPE"], "bokeh_sampledata/_data/stocks.csv.gz: "),
    ],
)
def test_candles_that_cannot_be_replayed_stop_before_kafka_starts(
    flags: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--json"]) == 1
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert not said["ok"]
    assert said["error"].startswith(error)
    assert captured.err.splitlines()[-1] == said["error"]
    assert "Kafka" not in captured.err


@pytest.fixture
def kept_signals() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("kept_signals")
def test_a_missing_model_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{tmp_path / 'config.json'}: cannot be read")


def test_a_temporary_folder_goes_unless_a_part_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[Path] = []
    with run_folder(None) as folder:
        (folder / "worker.log").write_text("fine")
    assert not folder.exists()
    with pytest.raises(PartFailed):
        run_with(PartFailed("worker ended"), seen)
    folder = seen.pop()
    assert (folder / "worker.log").read_text() == "why"
    assert str(folder) in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        run_with(KeyboardInterrupt(), seen)
    assert not seen.pop().exists()


def run_with(error: BaseException, seen: list[Path]) -> None:
    with run_folder(None) as folder:
        seen.append(folder)
        (folder / "worker.log").write_text("why")
        raise error


def test_a_given_folder_stays(tmp_path: Path) -> None:
    with run_folder(tmp_path / "new") as folder:
        pass
    assert folder.is_dir()


def test_free_ports_differ_and_lie_below_those_of_outgoing_connections() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_tail_shows_the_last_lines_of_any_file(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert "No such file" in tail(log)
    log.touch()
    assert tail(log).endswith("is empty)")
    log.write_bytes(b"\xff" * 50_000 + b"\n" + b"\n".join(b"line %d" % i for i in range(30)))
    assert tail(log, lines=2) == "line 28\nline 29"


def test_a_leash_that_is_not_held_says_so() -> None:
    with pytest.raises(RuntimeError, match="not held"):
        Leash().hold(1)


class TestJars:
    def test_the_variable_names_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(jars.CACHE_VARIABLE, str(tmp_path))
        assert jars.cache_dir() == tmp_path
        monkeypatch.delenv(jars.CACHE_VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert jars.cache_dir() == tmp_path / "candlecast"

    def test_filled_once_and_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Threads stand in for processes: all download, one folder is kept, none sees a part."""
        together = threading.Barrier(4, timeout=30)

        def download(scratch: Path) -> Path:
            whole = scratch / "jars"
            whole.mkdir()
            together.wait()
            (whole / "kafka.jar").write_text("all of it")
            return whole

        monkeypatch.setattr(jars, "_download", download)
        seen: list[str] = []

        def fill() -> None:
            seen.append((jars.kafka_jars(tmp_path) / "kafka.jar").read_text())

        threads = [threading.Thread(target=fill) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert seen == ["all of it"] * 4
        assert [path.name for path in tmp_path.iterdir()] == [f"kafka-{jars.KAFKA_VERSION}"]

    def test_a_failed_download_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def download(scratch: Path) -> Path:
            (scratch / "half.jar").touch()
            raise OSError("network is unreachable")

        monkeypatch.setattr(jars, "_download", download)
        with pytest.raises(jars.JarsError, match=r"Maven Central.*network is unreachable"):
            jars.kafka_jars(tmp_path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda folder: (folder / "a.jar").write_bytes(b"other"), "a.jar: expected SHA-512"),
            (lambda folder: (folder / "a.jar").unlink(), "on one side only: a.jar"),
            (lambda folder: (folder / "c.jar").touch(), "on one side only: c.jar"),
        ],
    )
    def test_other_jars_are_not_run(
        self,
        spoil: Callable[[Path], object],
        words: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        listed = tmp_path / "list"
        folder = tmp_path / "jars"
        folder.mkdir()
        for name in ("a.jar", "b.jar"):
            (folder / name).write_bytes(name.encode())
        digests = {name: hashlib.sha512(name.encode()).hexdigest() for name in ("a.jar", "b.jar")}
        listed.write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
        monkeypatch.setattr(jars, "HASHES", listed)
        jars.check(folder)
        spoil(folder)
        with pytest.raises(jars.JarsError, match=words):
            jars.check(folder)

    def test_a_missing_extra_names_what_to_install(self) -> None:
        assert "pip install 'candlecast[local]'" in jars.missing_extra("jgo")


def test_a_missing_score_fails_the_run() -> None:
    assert exit_code(End.DONE, summary(0, scores=1), until_done=True) == Exit.FAILED
