"""Candles of a topic as Parquet files on this machine, brought up to date by reading what is new.

A folder for each topic holds parts in order of reading and ``_state.json``, which says how far they
reach; a part without its place in the state does not count, so a run that is killed leaves what
the one before wrote. Values are read as columns by pyarrow, a block of messages at once; what
does not fit is judged by ``decode_candle``, message by message, as the worker does.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from shared import kafka
from shared.candles import (
    FUTURE_TOLERANCE_MS,
    INTERVALS_MS,
    MAX_MESSAGE_BYTES,
    MAX_NUMBER,
    MIN_PRICE,
    InvalidCandle,
    decode_candle,
)
from shared.files.arrow import pa, pc
from shared.files.series import History, HistoryError, SymbolRows
from shared.kafka import KafkaSettings, Partition
from shared.messages import END_MS, FIRST_MS, SYMBOL_PATTERN
from shared.topic_ids import topic_ids
from shared.topics import partitions_of

log = logging.getLogger("trainer")

pj: Final[Any] = import_module("pyarrow.json")  # has no types, like shared.files.arrow
pq: Final[Any] = import_module("pyarrow.parquet")

Table = Any
"""A table of Arrow."""

STATE: Final = "_state.json"
"""Begins with an underscore, so that ``shared.files`` does not read it as data."""

BLOCK: Final = 50_000
"""Messages that are parsed at once: some 10 MB."""

PART_ROWS: Final = 1_000_000
"""Candles of a part: some 80 MB in memory, 30 MB on disk."""

MOST_PARTS: Final = 32
"""Parts beyond which they are written together."""

PIECE: Final = 256
"""Messages of a block that does not parse, below which each is judged by itself."""

RESCALED: Final = ("ce_kind", b"rescaled")
"""Header of a candle that is published again on the scale after a split."""

SOURCE_LENGTH: Final = 64
"""Longest source of a candle, as its rules have it."""

NUMBERS: Final = ("open", "high", "low", "close", "volume")

MESSAGE: Final = pa.schema(
    [
        ("symbol", pa.string()),
        ("interval", pa.string()),
        ("open_ms", pa.int64()),
        ("close_ms", pa.int64()),
        *((name, pa.float64()) for name in NUMBERS),
        ("source", pa.string()),
    ]
)
"""Fields of a candle's message."""

PART: Final = pa.schema(
    [
        ("symbol", pa.dictionary(pa.int32(), pa.string())),
        ("interval", pa.dictionary(pa.int32(), pa.string())),
        ("open_ms", pa.int64()),
        *((name, pa.float64()) for name in NUMBERS),
        ("rescaled", pa.bool_()),
    ]
)
"""Columns of a part, its rows in order of arrival."""

_SYMBOL: Final = re.compile(SYMBOL_PATTERN)

Progress = Callable[[int, int], object]
"""Takes the messages read and all that there are."""


@dataclass
class State:
    """How far a snapshot reaches."""

    topic_id: str = ""
    offsets: dict[int, int] = field(default_factory=dict)  # partition -> next offset to read
    parts: list[str] = field(default_factory=list)  # names of files, in order
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> messages

    @classmethod
    def read(cls, folder: Path) -> State:
        """Return the state in a folder; an empty one where there is none.

        Raises:
            HistoryError: when it is damaged.
        """
        path = folder / STATE
        try:
            found = json.loads(path.read_text("utf-8"))
            return cls(
                found["topic_id"],
                {int(part): offset for part, offset in found["offsets"].items()},
                found["parts"],
                found["rejected"],
            )
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HistoryError(
                f"{path}: not the state of a snapshot ({error!r}); remove the folder to read the "
                "topic again"
            ) from error

    def write(self, folder: Path) -> None:
        """Replace the state in a folder; whole or not at all."""
        temporary = folder / f".{STATE}.tmp"
        temporary.write_text(json.dumps(vars(self), indent=2) + "\n", "utf-8")
        temporary.replace(folder / STATE)


def update(settings: KafkaSettings, root: Path, progress: Progress | None = None) -> Path:
    """Read what is new in the candles topic into its snapshot; return the snapshot's folder.

    Args:
        settings: where Kafka is, and the candles topic.
        root: folder of snapshots.
        progress: called with the messages read so far, and all.

    Raises:
        KafkaError: when the topic cannot be read.
        HistoryError: when there is no such topic, or the snapshot is damaged.
    """
    folder = root / settings.candles_topic
    folder.mkdir(parents=True, exist_ok=True)
    uvloop.run(_Update(settings, folder, progress or (lambda _, __: None)).run())
    return folder


class _Update:
    """One reading of what is new."""

    def __init__(self, settings: KafkaSettings, folder: Path, progress: Progress) -> None:
        self._settings = settings
        self._folder = folder
        self._progress = progress
        self._state = State.read(folder)
        self._pool = ThreadPoolExecutor(1, "parse")  # beside the reading, which is Python
        self._parsing: list[Future[Table]] = []
        self._rows = 0

    async def run(self) -> None:
        numbers = await partitions_of(self._settings, self._settings.candles_topic)
        if not numbers:
            raise HistoryError(
                f"{self._settings.candles_topic}: expected a topic at {self._settings.bootstrap}, "
                "got none; python -m producer makes and fills it"
            )
        await self._begin_again_if_recreated()
        parts = [Partition(self._settings.candles_topic, number) for number in numbers]
        reader = kafka.consumer(
            self._settings,
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 << 20,
            fetch_max_bytes=32 << 20,
        )
        with self._pool:
            async with kafka.connected(reader):
                begins = await reader.beginning_offsets(parts)
                ends = await reader.end_offsets(parts)
                starts = {
                    part: min(
                        max(self._state.offsets.get(part.partition, 0), begins[part]), ends[part]
                    )
                    for part in parts
                }
                await self._read(reader, starts, ends)
            self._write_part({part.partition: end for part, end in ends.items()})
        self._join_parts()

    async def _begin_again_if_recreated(self) -> None:
        name = self._settings.candles_topic
        topic_id = (await topic_ids(self._settings, [name])).get(name, "")
        if self._state.topic_id not in {"", topic_id} and topic_id:
            log.warning("%s was created again; its snapshot begins again too", name)
            self._forget()
        self._state.topic_id = topic_id

    def _forget(self) -> None:
        old = self._state.parts
        self._state = State()
        self._state.write(self._folder)
        for part in old:
            (self._folder / part).unlink(missing_ok=True)

    async def _read(
        self,
        reader: kafka.Consumer,
        starts: Mapping[Partition, int],
        ends: Mapping[Partition, int],
    ) -> None:
        total = sum(ends[part] - starts[part] for part in ends)
        done = 0
        block: list[kafka.Record] = []
        reached = {part.partition: start for part, start in starts.items()}
        async for records in kafka.read_to_end(reader, starts, ends):
            block += records
            done += len(records)
            self._progress(done, total)
            if len(block) >= BLOCK:
                for record in block:
                    reached[record.partition] = record.offset + 1
                self._parsing.append(self._pool.submit(_parse, block))
                self._rows += len(block)
                block = []
            if self._rows >= PART_ROWS:
                self._write_part(reached)
        if block:
            self._parsing.append(self._pool.submit(_parse, block))
            self._rows += len(block)

    def _write_part(self, reached: Mapping[int, int]) -> None:
        """Write what is parsed as a part, and then that the snapshot reaches so far."""
        parsed = [future.result() for future in self._parsing]
        self._parsing, self._rows = [], 0
        rejected = Counter(self._state.rejected)
        for _, counts in parsed:
            rejected.update(counts)
        table = pa.concat_tables([PART.empty_table(), *(rows for rows, _ in parsed)])
        parts = list(self._state.parts)
        if table.num_rows:
            number = int(parts[-1].partition(".")[0]) + 1 if parts else 0
            name = f"{number:06d}.parquet"
            pq.write_table(table.unify_dictionaries(), self._folder / name, compression="zstd")
            parts.append(name)
        offsets = {**self._state.offsets, **reached}
        self._state = State(self._state.topic_id, offsets, parts, dict(rejected))
        self._state.write(self._folder)

    def _join_parts(self) -> None:
        """Write many parts as one; the order of arrival stays."""
        old = self._state.parts
        if len(old) <= MOST_PARTS:
            return
        name = f"{int(old[-1].partition('.')[0]) + 1:06d}.parquet"
        with pq.ParquetWriter(self._folder / name, PART, compression="zstd") as writer:
            for part in old:
                writer.write_table(pq.read_table(self._folder / part).cast(PART))
        self._state.parts = [name]
        self._state.write(self._folder)
        for part in old:
            (self._folder / part).unlink(missing_ok=True)


def _parse(records: list[kafka.Record]) -> tuple[Table, Counter[str]]:
    """Return the candles among some messages, in order, and how many are none, by reason."""
    table = _columns(records)
    if table is None:
        if len(records) <= PIECE:
            return _one_by_one(records)
        middle = len(records) // 2
        halves = [_parse(records[:middle]), _parse(records[middle:])]
        return pa.concat_tables([rows for rows, _ in halves]), halves[0][1] + halves[1][1]
    odd = ~_are_candles(table, records)
    if not odd.any():
        return _part(table, records), Counter()
    at = np.flatnonzero(odd)
    judged, rejected = _one_by_one([records[number] for number in at])
    good = [record for record, bad in zip(records, odd, strict=True) if not bad]
    sound = _part(table.filter(pa.array(~odd)), good)
    return _in_order(sound, np.flatnonzero(~odd), judged, at, records), rejected


def _in_order(
    sound: Table,
    sound_at: Any,
    judged: Table,
    at: Any,
    records: list[kafka.Record],
) -> Table:
    """Put the candles that were judged one by one back into their places."""
    if not judged.num_rows:
        return sound
    accepted = [number for number in at.tolist() if _candle_of(records[number]) is not None]
    both = pa.concat_tables([sound, judged]).unify_dictionaries()
    return both.take(pa.array(np.argsort(np.concatenate([sound_at, accepted]), kind="stable")))


def _columns(records: list[kafka.Record]) -> Table | None:
    """Return the values as columns; None when one of them is not a JSON object of these fields."""
    values: list[Any] = [record.value for record in records]
    if not all(_may_be_object(value) for value in values):
        return None
    joined = b"\n".join(values)
    if joined.count(b"\n") != len(values) - 1:
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(joined),
            read_options=pj.ReadOptions(block_size=max(len(joined), 1)),
            parse_options=pj.ParseOptions(
                explicit_schema=MESSAGE, unexpected_field_behavior="ignore"
            ),
        )
        table.validate(full=True)  # strings are not checked to be UTF-8 as they are read
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return table if table.num_rows == len(values) else None


def _may_be_object(value: Any) -> bool:
    # pyarrow crashes the process on a null that is not a field (apache/arrow#47409)
    return type(value) is bytes and value[:1] == b"{" and len(value) <= MAX_MESSAGE_BYTES


def _are_candles(table: Table, records: list[kafka.Record]) -> Any:
    """Return which rows (n,) surely are candles; the others are judged by ``decode_candle``."""
    count = table.num_rows
    nulls = sum(column.null_count for column in table.columns)
    known = np.ones(count, np.bool_)
    if nulls:
        for column in table.columns:
            known &= column.is_valid().to_numpy()
    numbers = {
        name: table[name].to_numpy(zero_copy_only=False)
        for name in (*NUMBERS, "open_ms", "close_ms")
    }
    opened, high, low, close, volume = (numbers[name] for name in NUMBERS)
    open_ms, close_ms = (np.nan_to_num(numbers[name]) for name in ("open_ms", "close_ms"))
    known &= (low >= MIN_PRICE) & (high <= MAX_NUMBER) & (volume >= 0) & (volume <= MAX_NUMBER)
    known &= (low <= np.minimum(opened, close)) & (high >= np.maximum(opened, close))
    lengths = np.zeros(count, np.int64)
    intervals = table["interval"].combine_chunks().dictionary_encode()
    names = [INTERVALS_MS.get(name, 0) for name in intervals.dictionary.to_pylist()]
    codes = intervals.indices.fill_null(0).to_numpy(zero_copy_only=False)
    if names:
        lengths = np.array(names, np.int64)[codes]
    known &= (open_ms >= FIRST_MS) & (close_ms < END_MS) & (open_ms < close_ms)
    known &= close_ms <= open_ms + lengths
    stamped = np.fromiter((record.timestamp for record in records), np.int64, count)
    known &= close_ms <= stamped + FUTURE_TOLERANCE_MS
    keys = pa.array([record.key for record in records], pa.binary())
    same = pc.equal(keys, table["symbol"].combine_chunks().cast(pa.binary()))
    known &= same.fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003 - pyarrow's own
    short = pc.less_equal(pc.utf8_length(table["source"]), SOURCE_LENGTH)
    known &= short.fill_null(False).to_numpy()  # noqa: FBT003 - pyarrow's own
    return known & _have_known_symbols(table["symbol"])


def _have_known_symbols(symbols: Any) -> Any:
    """Return which rows (n,) have a name that a symbol may have."""
    encoded = symbols.combine_chunks().dictionary_encode()
    good = [name is not None and _is_symbol(name) for name in encoded.dictionary.to_pylist()]
    return np.array(good or [False], np.bool_)[encoded.indices.fill_null(0).to_numpy()]


def _is_symbol(name: str) -> bool:
    return _SYMBOL.fullmatch(name) is not None


def _part(table: Table, records: list[kafka.Record]) -> Table:
    """Return rows as those of a part."""
    rescaled = pa.array([_is_rescaled(record) for record in records], pa.bool_())
    columns = [
        table["symbol"].dictionary_encode(),
        table["interval"].dictionary_encode(),
        table["open_ms"],
        *(table[name] for name in NUMBERS),
        rescaled,
    ]
    return pa.Table.from_arrays(columns, schema=PART)


def _is_rescaled(record: kafka.Record) -> bool:
    return RESCALED in record.headers


def _one_by_one(records: list[kafka.Record]) -> tuple[Table, Counter[str]]:
    """Return the candles among messages that are judged each by itself."""
    rejected: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for record in records:
        try:
            candle = decode_candle(record.key, record.value, record.timestamp)
        except InvalidCandle as error:
            rejected[error.reason.value] += 1
        else:
            fields = candle.model_dump(include={"symbol", "interval", "open_ms", *NUMBERS})
            rows.append({**fields, "rescaled": _is_rescaled(record)})
    return pa.Table.from_pylist(rows, schema=PART), rejected


def _candle_of(record: kafka.Record) -> object | None:
    try:
        return decode_candle(record.key, record.value, record.timestamp)
    except InvalidCandle:
        return None


def intervals(folder: Path) -> tuple[str, ...]:
    """Return the intervals that a snapshot has candles of, shortest first."""
    found: set[str] = set()
    for part in State.read(folder).parts:
        column = pq.read_table(folder / part, columns=["interval"])["interval"]
        found.update(column.unique().to_pylist())
    return tuple(name for name in INTERVALS_MS if name in found)


def history(folder: Path, interval: str, symbols: tuple[str, ...] = ()) -> History:
    """Return a snapshot's candles of an interval: the newest value of each, on one scale.

    Args:
        folder: as ``update`` returns it.
        interval: of the candles.
        symbols: those to read; all if empty.

    Raises:
        HistoryError: when it holds none of them.
    """
    state = State.read(folder)
    filters = [("interval", "=", interval)]
    tables = [
        pq.read_table(folder / part, filters=filters).drop_columns("interval").unify_dictionaries()
        for part in state.parts
    ]
    if not tables or not (table := pa.concat_tables(tables).unify_dictionaries()).num_rows:
        raise HistoryError(f"{folder.name}: expected candles of {interval}, got none")
    series = tuple(_series(table, frozenset(symbols)))
    absent = sorted(set(symbols) - {rows.symbol for rows in series})
    if absent:
        raise HistoryError(
            f"{folder.name}: expected {interval} candles of {', '.join(absent)}, got none"
        )
    notes = tuple(
        f"{count:,} messages are not candles: {reason}"
        for reason, count in sorted(state.rejected.items())
    )
    return History(folder.name, interval, series, notes=notes)


def _series(table: Table, wanted: frozenset[str]) -> Iterator[SymbolRows]:
    """Yield each symbol's candles; rows come in order of arrival."""
    encoded = table["symbol"].combine_chunks()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy()
    open_ms = table["open_ms"].to_numpy()
    rescaled = table["rescaled"].to_numpy()
    candles = np.column_stack([table[name].to_numpy() for name in NUMBERS])
    order = np.lexsort((open_ms, codes))  # stable: the newest of one time is the last
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for code, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        rows = order[bounds[code] : bounds[code + 1]]
        if not len(rows) or (wanted and name not in wanted):
            continue
        if rescaled[rows].any():
            arrival = np.sort(rows)
            times, values = _on_one_scale(open_ms[arrival], candles[arrival], rescaled[arrival])
        else:
            times = open_ms[rows]
            newest = np.append(times[1:] != times[:-1], True)
            times, values = times[newest], candles[rows[newest]]
        yield SymbolRows(name, np.zeros(len(times), np.int64), times, None, values)


def _on_one_scale(open_ms: Any, candles: Any, rescaled: Any) -> tuple[Any, Any]:
    """Return the times (m,) and candles (m, 5) of one symbol on the scale of the newest.

    A run of rescaled candles replaces the newest ones; those before it were traded on the scale
    before the split, and their factor is how the replaced ones change.

    Args:
        open_ms: (n,), in order of arrival.
        candles: (n, 5).
        rescaled: (n,), those published again after a split.
    """
    held: dict[int, Any] = {}
    bounds = np.flatnonzero(np.diff(rescaled.astype(np.int8))) + 1
    for rows in np.split(np.arange(len(open_ms)), bounds):
        if rescaled[rows[0]]:
            replaced = [row for row in rows.tolist() if int(open_ms[row]) in held]
            ratios = [candles[row, 3] / held[int(open_ms[row])][3] for row in replaced]
            factor = float(np.median(ratios)) if ratios else 1.0
            scale = np.array([factor] * 4 + [1 / factor])
            first_ms = int(open_ms[rows].min())
            held = {at: row * scale if at < first_ms else row for at, row in held.items()}
        held.update((int(open_ms[row]), candles[row]) for row in rows.tolist())
    times = np.array(sorted(held), np.int64)
    return times, np.array([held[at] for at in times.tolist()])
