"""Reads records of sources with types: Parquet files, and the results of SQL queries.

A value becomes the text that a person would have written into the cell. What might not be what was meant is refused
in its row: digits that a floating-point number has lost, a time of day in a column of dates, lists and bytes.
"""

from __future__ import annotations

import datetime as dt
import io
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from pacsifier_ops.base.files import atomic_stream
from pacsifier_ops.query.problems import Problem, TableRefused
from pacsifier_ops.query.records import Record

if TYPE_CHECKING:
    import pyarrow

#: Rows of such a source, its columns, its cells, and the characters of all of them, at most.
MOST_ROWS, MOST_COLUMNS, MOST_CELLS, MOST_CHARACTERS = 500_000, 1000, 20_000_000, 256 * 2**20
#: Rows that are read at once.
BATCH = 10_000
#: First whole number that a floating-point number of so many bits may have rounded.
_ROUNDED = {16: 2**11, 32: 2**24, 64: 2**53}

_FLOATS = "holds floating-point numbers; whole ones were read without decimals, 45322.0 as 45322"
_LOST = "a floating-point number so large that its last digits may be lost; have the column as text, or as integers"
_MOMENT = "a date with a time of day{zone}; have the column as dates, in the time zone of the hospital"
_NO_NUMBER = "no number (NaN or infinity); have a missing value as null"
_NO_VALUE = "of a type that is no value of a query; have the column as text"


#: What most records have, once for all of them: nobody adds to it.
_NO_TEXTS: dict[int, str] = {}
_NO_PLACES: set[int] = set()


@dataclass
class TypedRecords:
    """Records with their header, whose line is 0: the rows count from 1.

    Attributes:
        notes: how a column was read, by index.
    """

    records: list[Record]
    notes: dict[int, str] = field(default_factory=dict)


class Cell(NamedTuple):
    """A value as text.

    Attributes:
        fault: why it cannot be used; empty if it can.
        odd: what it is, if it is no text; some columns allow it.
        number: it was a number.
    """

    text: str = ""
    fault: str = ""
    odd: str = ""
    number: bool = False


def cell_of(value: Any, rounded: int = _ROUNDED[64]) -> Cell:
    """Return a value of Python as a cell.

    Args:
        value: None, text, or a value of another type.
        rounded: see _ROUNDED.
    """
    if value is None:
        return Cell()
    if isinstance(value, str):
        return Cell(value)
    if isinstance(value, bool):
        return Cell(str(value), "true or false; have the column as text")
    if isinstance(value, int):
        return Cell(str(value), odd="a negative number" if value < 0 else "", number=True)
    if isinstance(value, float | Decimal):
        return _number(value, rounded)
    if isinstance(value, dt.datetime):
        return _moment(value)
    if isinstance(value, dt.date):
        return Cell(f"{value.year:04}{value.month:02}{value.day:02}", odd="a date")
    if isinstance(value, dt.time):
        zoned = value.tzinfo is not None
        text = value.strftime("%H%M%S.%f").removesuffix(".000000")
        return Cell(text, "a time with a time zone; have the column without" if zoned else "", "a time")
    if isinstance(value, uuid.UUID):
        return Cell(str(value))
    return Cell("", _NO_VALUE)


def _number(value: float | Decimal, rounded: int) -> Cell:
    if not math.isfinite(value):
        return Cell("", _NO_NUMBER)
    if value != int(value):
        text = f"{value:f}".rstrip("0") if isinstance(value, Decimal) else repr(value)
        return Cell(text, odd="a number with a fraction")
    whole = int(value)
    if isinstance(value, float) and abs(whole) >= rounded:
        return Cell(str(whole), _LOST)
    return Cell(str(whole), odd="a negative number" if whole < 0 else "", number=True)


def _moment(value: dt.datetime) -> Cell:
    day = f"{value.year:04}{value.month:02}{value.day:02}"
    if value.time() == dt.time.min:
        return Cell(day, odd="a date")
    zone = f" of the time zone {value.tzinfo}" if value.tzinfo else ""
    return Cell(f"{day}{value:%H%M%S}", _MOMENT.format(zone=zone), "a date")


def records_of_parquet(source: Path | BinaryIO) -> TypedRecords:
    """Return the records of a Parquet file.

    Raises:
        TableRefused: it is damaged, or too large.
    """
    from pyarrow.parquet import ParquetFile, read_metadata

    try:
        metadata = read_metadata(source)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        if metadata.num_rows > MOST_ROWS or metadata.num_columns > MOST_COLUMNS or size > 4 * MOST_CHARACTERS:
            raise too_large()
        # A small file may hold endless lists, and nulls.
        chunks = (group.column(place) for group in groups for place in range(metadata.num_columns))
        if sum(chunk.num_values for chunk in chunks) > MOST_CELLS:
            raise too_large()
        with ParquetFile(source, read_dictionary=_texts(metadata)) as table:
            return records_of_batches(table.schema_arrow, table.iter_batches(BATCH))
    except TableRefused:
        raise
    except Exception:  # reading foreign files raises many types of exception, whose texts quote them
        message = "cannot be read as a Parquet file, which is damaged or encrypted; export it anew"
        raise TableRefused([Problem(0, "", message)]) from None


def rows_of_parquet(data: bytes) -> int:
    """Return the number of rows of a Parquet file; 0 where it is damaged, which `records_of_parquet` says."""
    from pyarrow.parquet import read_metadata

    try:
        return int(read_metadata(io.BytesIO(data)).num_rows)
    except Exception:  # see `records_of_parquet`
        return 0


def _texts(metadata: Any) -> list[str]:
    """Return the columns of texts and bytes. Each of their values is read once: a small file may repeat a long one."""
    columns = map(metadata.schema.column, range(metadata.num_columns))
    return [one.path for one in columns if one.physical_type == "BYTE_ARRAY" and not one.max_repetition_level]


def records_of_batches(schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> TypedRecords:
    """Return the records of a table of Arrow.

    Raises:
        TableRefused: it is too large, or a column cannot be read.
    """
    if len(schema) > MOST_COLUMNS:
        raise too_large()
    found = TypedRecords([Record(0, [one.name for one in schema])])
    characters = 0
    for batch in batches:
        rows = len(found.records) - 1 + batch.num_rows
        if rows > MOST_ROWS or rows * len(schema) > MOST_CELLS:
            raise too_large()
        columns = [_cells(place, column, found.notes) for place, column in enumerate(batch.columns)]
        for cells in zip(*columns, strict=True):
            record = Record(
                len(found.records),
                [cell.text for cell in cells],
                {place: cell.fault for place, cell in enumerate(cells) if cell.fault} or _NO_TEXTS,
                {place: cell.odd for place, cell in enumerate(cells) if cell.odd} or _NO_TEXTS,
                {place for place, cell in enumerate(cells) if cell.number} or _NO_PLACES,
            )
            characters += sum(map(len, record.cells))
            if characters > MOST_CHARACTERS:
                raise too_large()
            found.records.append(record)
    return found


def _cells(place: int, column: pyarrow.Array, notes: dict[int, str]) -> Iterable[Cell]:
    """Return the cells of a column of a batch; says in `notes` what is to be known of it.

    Raises:
        TableRefused: it cannot be read.
    """
    import pyarrow
    import pyarrow.compute as pc

    kind = column.type
    rounded = _ROUNDED[64]
    if pyarrow.types.is_dictionary(kind):
        values = list(_cells(place, column.dictionary, notes))
        return [Cell() if which is None else values[which] for which in column.indices.to_pylist()]
    if pyarrow.types.is_floating(kind):
        rounded = _ROUNDED[kind.bit_width]
        notes[place] = _FLOATS
    elif pyarrow.types.is_timestamp(kind):
        if kind.tz:
            notes[place] = f"holds moments of the time zone {kind.tz}; its days are those of this zone"
        column = pc.cast(column, pyarrow.timestamp("us", kind.tz), safe=False)
    elif pyarrow.types.is_time(kind):
        column = pc.cast(column, pyarrow.time64("us"), safe=False)
    try:
        return (cell_of(value, rounded) for value in column.to_pylist())
    except Exception:  # dates beyond the year 9999, unknown time zones, bytes that are no UTF-8
        message = "cannot be read: its dates, its time zone or its letters are none; have the column as text"
        raise TableRefused([Problem(0, f"column {place + 1}", message)]) from None


def write_rows(path: Path, names: Sequence[str], batches: Iterable[Sequence[Sequence[Any]]]) -> int:
    """Write rows as a Parquet file, for `records_of_parquet`. Return their number.

    A column keeps its type where all its values have one; else its values are texts, as Python writes them: a number
    among texts is what it seems to be.

    Args:
        names: of the columns.
        batches: some rows each.

    Raises:
        TableRefused: there are too many rows or columns, or two columns of a name.
        OSError: the file cannot be written.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    if not names or len(names) > MOST_COLUMNS:
        raise too_large()
    columns: list[list[Any]] = [[] for _ in names]
    for batch in batches:
        for column, values in zip(columns, zip(*batch, strict=True), strict=True):
            column.extend(values)
        if len(columns[0]) > MOST_ROWS or len(columns[0]) * len(names) > MOST_CELLS:
            raise too_large()
    table = pyarrow.Table.from_arrays([_typed(column) for column in columns], [*names])
    with atomic_stream(path) as stream:
        write_table(table, stream)
    return len(columns[0])


def _typed(values: list[Any]) -> pyarrow.Array:
    import pyarrow

    if len({type(value) for value in values if value is not None}) < 2:
        try:
            return pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, ValueError):
            pass  # a type that Arrow does not know, or a number that it cannot hold
    return pyarrow.array([None if value is None else str(value) for value in values], pyarrow.string())


def too_large() -> TableRefused:
    message = f"is too large; there may be {MOST_ROWS:,} rows, {MOST_COLUMNS:,} columns, and {MOST_CELLS:,} cells"
    return TableRefused([Problem(0, "", message)])
