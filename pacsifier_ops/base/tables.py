"""Tables that users get: each as a CSV file, and beside it the same table as a Parquet file with types.

CSV is for spreadsheets, and a text that looks like a formula is guarded there (see `cells`). Parquet is for programs,
and has the values themselves. A cell without a value is null there. The type of a column never depends on the rows, so
the tables of several runs can be read as one, also where a column is empty. Text is UTF-8; what cannot be encoded
becomes a question mark in both files.

A column is INTEGER, NUMBER or BOOLEAN only if this package makes its values. What an archive or a user has written is
TEXT: PatientIDs keep their zeros, and a date, a range of dates or a number that is not valid stays as it was.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pacsifier_ops.base import cells
from pacsifier_ops.base.files import atomic_stream

if TYPE_CHECKING:
    import pyarrow

#: Types of columns, by pandas' names for those that can be null.
TEXT, INTEGER, NUMBER, BOOLEAN = "string", "Int64", "Float64", "boolean"

#: Type by name of the column, in the order of the columns.
Columns = Mapping[str, str]

#: Rows that are in memory at once.
BATCH = 50_000


def parquet_of(path: Path) -> Path:
    """Return the path of the Parquet file that belongs to a CSV file."""
    return path.with_suffix(".parquet")


def write_table(
    path: Path,
    columns: Columns,
    rows: Iterable[Sequence[object]],
    mode: int | None = None,
    scratch: Path | None = None,
) -> None:
    """Write a table as a CSV file and as a Parquet file beside it, each as `atomic_stream` does.

    Equal rows give equal bytes with the same version of pyarrow, which Parquet files name.

    Args:
        path: the CSV file.
        columns: names and types of the columns.
        rows: a value for each column; None and an empty text are no value. BATCH of them are in memory at once.
        mode, scratch: see `atomic_stream`.

    Raises:
        OSError: a file cannot be written; it is as it was before.
    """
    with open_table(path, columns, mode, scratch) as add:
        for row in rows:
            add(row)


@contextmanager
def open_table(
    path: Path, columns: Columns, mode: int | None = None, scratch: Path | None = None, batch: int = 0
) -> Iterator[Callable[[Sequence[object]], None]]:
    """Yield a function that adds a row to a table, which is written as `write_table` does.

    Args:
        path: the CSV file; or a Parquet file, which then is the only one.
        columns, mode, scratch: see `write_table`.
        batch: number of rows that are in memory at once; 0: BATCH.
    """
    from pyarrow.parquet import ParquetWriter

    rows: list[Sequence[object]] = []

    with ExitStack() as stack:
        typed = stack.enter_context(atomic_stream(parquet_of(path), mode, scratch))
        both = path != parquet_of(path)
        text = stack.enter_context(atomic_stream(path, mode, scratch)) if both else None
        schema = _schema(columns)
        writer = stack.enter_context(ParquetWriter(typed, schema))
        if text:
            text.write(_lines([tuple(columns)]))

        def write() -> None:
            if text:
                text.write(_lines(rows))
            writer.write_table(_typed(schema, rows))
            rows.clear()

        def add(row: Sequence[object]) -> None:
            rows.append(row)
            if len(rows) == (batch or BATCH):
                write()

        yield add
        if rows:
            write()


def holds_the_same(path: Path) -> bool:
    """Return whether a CSV file holds what the Parquet file beside it does, and nothing else.

    Raises:
        OSError: one of them cannot be read.
    """
    from pyarrow.parquet import ParquetFile

    def same(stream: BinaryIO, lines: bytes) -> bool:
        return stream.read(len(lines)) == lines

    try:
        with path.open("rb") as text, ParquetFile(parquet_of(path)) as typed:
            batches = (batch.to_pydict().values() for batch in typed.iter_batches(BATCH))
            rows = (list(zip(*columns, strict=True)) for columns in batches)
            return (
                same(text, _lines([tuple(typed.schema_arrow.names)]))
                and all(same(text, _lines(batch)) for batch in rows)
                and not text.read(1)
            )
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno:
            raise
        return False  # damaged
    except Exception:  # reading foreign files raises many types of exception
        return False


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    return "".join(map(cells.line, rows)).encode(errors="replace")


def _schema(columns: Columns) -> pyarrow.Schema:
    """Return the schema of Arrow, with the note from which pandas restores the same types.

    pandas itself takes three times as long to import as all that writes a short table. The format of the note is
    public: https://pandas.pydata.org/docs/development/developer.html
    """
    import pyarrow

    arrow = {
        TEXT: pyarrow.string(),
        INTEGER: pyarrow.int64(),
        NUMBER: pyarrow.float64(),
        BOOLEAN: pyarrow.bool_(),
    }
    called = {TEXT: "unicode", INTEGER: "int64", NUMBER: "float64", BOOLEAN: "bool"}
    noted = [
        {"name": name, "field_name": name, "pandas_type": called[kind], "numpy_type": kind, "metadata": None}
        for name, kind in columns.items()
    ]
    note = json.dumps({"index_columns": [], "column_indexes": [], "columns": noted})
    return pyarrow.schema([(name, arrow[kind]) for name, kind in columns.items()], metadata={"pandas": note})


def _typed(schema: pyarrow.Schema, rows: Sequence[Sequence[object]]) -> pyarrow.Table:
    """Return rows as a table of Arrow."""
    import pyarrow

    arrays = [_array(field.type, column) for field, column in zip(schema, zip(*rows, strict=True), strict=True)]
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _array(kind: pyarrow.DataType, column: Sequence[Any]) -> pyarrow.Array:
    """Return a column as an array of Arrow, made of its buffers: `pyarrow.array` imports pandas."""
    import pyarrow
    from pyarrow.lib import StringBuilder

    if kind == pyarrow.string():
        builder = StringBuilder()
        builder.append_values([None if value is None else _encodable(str(value)) or None for value in column])
        return builder.finish()
    given = [value is not None and value != "" for value in column]
    if kind == pyarrow.bool_():
        values = _bits([there and _flag(value) for there, value in zip(given, column, strict=True)])
    elif kind == pyarrow.float64():
        numbers = (float(value) if there else 0.0 for there, value in zip(given, column, strict=True))
        values = array("d", numbers).tobytes()
    else:
        values = array("q", [int(value) if there else 0 for there, value in zip(given, column, strict=True)]).tobytes()
    buffers = [pyarrow.py_buffer(_bits(given)), pyarrow.py_buffer(values)]
    return pyarrow.Array.from_buffers(kind, len(column), buffers)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):  # the text "False" would be true
        raise ValueError("a value of a column of booleans is none")
    return value


def _bits(flags: Sequence[bool]) -> bytes:
    """Return flags as a bitmap of Arrow, the first one in the lowest bit."""
    return int("0" + "".join("01"[flag] for flag in reversed(flags)), 2).to_bytes(-(-len(flags) // 8), "little")


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()
