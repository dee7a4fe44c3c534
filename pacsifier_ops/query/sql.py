"""A query table as the result of an SQL query: over a file, by DuckDB, or over a connection of Airflow.

DuckDB sees the file of the table and nothing else. It opens a database read-only; of a csv or Parquet file it makes
the table `source`. Other files, the network, extensions and settings are locked before the query is read. It works in a
process apart, because its own limit of memory leaves long texts and lists out.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.apart import Apart, serve
from pacsifier_ops.base.given import Unusable, read_given, text_of
from pacsifier_ops.query.problems import Problem, TableRefused
from pacsifier_ops.query.typed import BATCH, MOST_ROWS, TypedRecords, records_of_batches, too_large

if TYPE_CHECKING:
    import duckdb

#: The table that a csv or Parquet file is in a query.
SOURCE = "source"
#: Bytes of a query, memory of DuckDB, and seconds that a query may take, at most.
_LONGEST, _MEMORY, _SECONDS = 256 * 2**10, "1GB", 600.0
#: Bytes of the process that DuckDB works in, at most: DuckDB, the libraries, and rows that are handed over.
_PROCESS = 4 * 2**30

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # a query could name variables of this program
    "memory_limit": _MEMORY,
    "temp_directory": "",  # values would lie in files
    "threads": "1",  # rows come in the same order every time
}

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


def read_sql(path: Path) -> str:
    """Return the text of a .sql file.

    Raises:
        TableRefused: it cannot be read, is too long, or is no such file.
    """
    if path.suffix.lower() != ".sql":
        raise _refused("its name does not end in .sql")
    try:
        return text_of(read_given(path, _LONGEST))
    except Unusable as error:
        raise _refused(str(error)) from None


def refuse_other_than_select(text: str) -> None:
    """Refuse a text that is not one query, as far as can be told without the database that it is for.

    Raises:
        TableRefused: it is empty, holds several statements, or begins with something else than SELECT or WITH.
    """
    plain = _QUOTED.sub("''", _COMMENT.sub(" ", text)).strip().removesuffix(";").strip()
    if ";" in plain or not re.match(r"(?:select|with)\b", plain, re.IGNORECASE):
        raise _refused("holds something else than one SELECT; write a single query")
    if re.search(
        r"\b(?:insert|update|delete|merge|drop|alter|create|truncate|grant|into|exec|execute|call)\b", plain, re.I
    ):
        raise _refused("has a word of SQL that changes data; write a single SELECT, and put such names in quotes")


def records_of_query(path: Path, sql: Path) -> TypedRecords:
    """Return the result of a query over a DuckDB database, a csv or a Parquet file.

    Args:
        path: the file.
        sql: the file with the query, one SELECT.

    Raises:
        TableRefused: the query or the file cannot be used, or the result is too large; tells nothing that either holds.
    """
    import pyarrow

    request = {"path": str(path), "text": read_sql(sql), "seconds": _SECONDS}
    with Apart(__name__, _SECONDS + 60) as database:
        answer = database.ask(request)
    if answer is None:
        raise _refused(f"needs more than {_MEMORY} of memory, or ended the database; have it select less")
    if answer[:1] == b"{":
        raise TableRefused([Problem(0, *json.loads(answer)["problem"])])
    with pyarrow.ipc.open_stream(answer) as reader:
        return records_of_batches(reader.schema, reader)


# In the process apart


def _answer(request: dict[str, Any]) -> bytes:
    """Return the result of a query as a stream of Arrow; or why it has none, as JSON."""
    try:
        return _result(Path(request["path"]), request["text"], request["seconds"])
    except TableRefused as error:
        (problem,) = error.problems
        return json.dumps({"problem": [problem.column, problem.message, problem.value]}).encode()


def _result(path: Path, text: str, seconds: float) -> bytes:
    import duckdb
    import pyarrow

    stream, rows = io.BytesIO(), 0
    try:
        with _without_wildcards(path) as plain, duckdb.connect(":memory:", config=_SETTINGS) as database:
            _attach(database, plain)
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            statements = database.extract_statements(text)
            if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
                raise _refused("holds something else than one SELECT; write a single query")
            with _interrupted_after(database, seconds):
                reader = database.sql(statements[0].query).to_arrow_reader(BATCH)
                with pyarrow.ipc.new_stream(stream, reader.schema) as writer:
                    for batch in reader:
                        writer.write_batch(batch)
                        rows += batch.num_rows
                        if rows > MOST_ROWS or stream.tell() > _PROCESS // 8:
                            raise too_large()
        return stream.getvalue()
    except TableRefused:
        raise
    except MemoryError:
        raise _refused(f"needs more than {_MEMORY} of memory; have it select less") from None
    except duckdb.Error as error:
        raise _refused(_told(error), _said(error)) from None
    except Exception:  # Arrow raises what DuckDB does while rows are read, as exceptions of its own
        why = "failed while its rows were read, which may need too much memory; try it in DuckDB itself"
        raise _refused(why) from None


def is_database(head: bytes) -> bool:
    """Return whether a file is a DuckDB database, by its first bytes."""
    return head[8:12] == b"DUCK"


def is_parquet(head: bytes) -> bool:
    """Return whether a file is a Parquet file, by its first bytes."""
    return head[:4] == b"PAR1"


@contextmanager
def _without_wildcards(path: Path) -> Iterator[Path]:
    """Yield a path of the file that DuckDB takes for no pattern: `cases[1].csv` is one file."""
    path = path.resolve()
    if not set("*?[") & set(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder).resolve() / "table"
        link.symlink_to(path)
        yield link


def _attach(database: duckdb.DuckDBPyConnection, path: Path) -> None:
    name = "'{}'".format(str(path).replace("'", "''"))
    with path.open("rb") as stream:
        head = stream.read(16)
    if is_database(head):
        database.execute(f"ATTACH {name} AS {SOURCE} (READ_ONLY)")
        database.execute(f"USE {SOURCE}")
        return
    # Of a csv file, every value is text: DuckDB would take leading zeros away.
    reader = f"read_parquet({name})" if is_parquet(head) else f"read_csv({name}, header = true, all_varchar = true)"
    database.execute(f"SET allowed_paths = [{name}]")
    database.execute(f"CREATE VIEW {SOURCE} AS SELECT * FROM {reader}")


@contextmanager
def _interrupted_after(database: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, database.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _told(error: Any) -> str:
    """Return what may be told of an error of DuckDB: its kind. Its text quotes the query, and values."""
    import duckdb

    kinds = (
        (duckdb.ParserException, "is no SQL that DuckDB understands"),
        (duckdb.PermissionException, "reads another file than the table, or the network, which it may not"),
        (duckdb.CatalogException, "names a table or a function that is not there"),
        (duckdb.BinderException, "names a column that is not there, or mixes types"),
        (duckdb.OutOfMemoryException, f"needs more than {_MEMORY} of memory; have it select less"),
        (duckdb.InterruptException, f"takes longer than {_SECONDS / 60:g} minutes"),
        (duckdb.ConversionException, "converts a value that does not fit its type"),
        (duckdb.InvalidInputException, "does something else than to select, or the file is damaged"),
    )
    why = next((told for kind, told in kinds if isinstance(error, kind)), "failed")
    line = re.search(r"^LINE ([0-9]+):", str(error), re.MULTILINE)
    return f"{why}{f', line {line[1]}' if line else ''}; try it in DuckDB itself"


def _said(error: Any) -> str:
    """Return what DuckDB says, for the author of the query: a sentence, without the kind of error before it."""
    return str(error).partition("Error: ")[2].partition("\n")[0]


def _refused(why: str, said: str = "") -> TableRefused:
    return TableRefused([Problem(0, "sql", why, said)])


if __name__ == "__main__":
    serve(_answer, _PROCESS)
