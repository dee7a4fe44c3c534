"""Fetches a query table from a database, over a connection of Airflow whose hook is one of `common.sql`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError, DatabaseFailed, PacsifierError
from pacsifier_ops.base.files import storage_errors
from pacsifier_ops.query.sql import read_sql, refuse_other_than_select
from pacsifier_ops.query.typed import BATCH, write_rows
from pacsifier_ops.runs.folder import Run


def fetch_table(run: Run, conn_id: str, sql: str) -> Path:
    """Ask a database for a query table, and keep it in the run's folder.

    The query is sent as it is, in a transaction that is rolled back. Nothing of it, and nothing of its result, is
    logged: the method `run` of the hooks would.

    Args:
        conn_id: id of the connection.
        sql: path of the file with the query.

    Returns:
        Path of the table, a Parquet file.

    Raises:
        ConfigError: there is no such connection, tables may not come from it, or it is of no database.
        TableRefused: the query is no single SELECT, or its result is too large.
        DatabaseFailed: the database refuses the connection or the query; tells the kind of the error alone.
        StorageError: the run's folder cannot be written.
    """
    if conn_id not in settings.databases():
        raise ConfigError(
            "sql_conn is none of the connections that query tables may come from; an administrator names those in the "
            "setting databases (PACSIFIER_DATABASES)"
        )
    text = read_sql(Path(sql))
    refuse_other_than_select(text)
    path = run.folder / "source.parquet"
    try:
        with closing(_hook(conn_id).get_conn()) as connection:
            try:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(text)
                    names = [str(column[0]) for column in cursor.description or ()]
                    with storage_errors("the run's folder"):
                        write_rows(path, names, _batches(cursor))
            finally:
                connection.rollback()
    except PacsifierError:
        raise
    except Exception as error:  # drivers have types of their own, whose texts quote the query and its values
        raise DatabaseFailed(f"the database of sql_conn refused it ({type(error).__name__})") from error
    return path


def _hook(conn_id: str) -> Any:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    try:
        hook = BaseHook.get_connection(conn_id).get_hook()
    except AirflowNotFoundException:
        raise ConfigError(f"there is no connection {conn_id}; make one, of the type of the database") from None
    except (AirflowException, ImportError):
        raise ConfigError(
            f"Airflow knows no hook for the type of the connection {conn_id}; install its provider, such as "
            "apache-airflow-providers-microsoft-mssql"
        ) from None
    if not isinstance(hook, DbApiHook):
        raise ConfigError(f"the connection {conn_id} is of no database that Airflow can ask by SQL")
    return hook


def _batches(cursor: Any) -> Iterator[Sequence[Sequence[Any]]]:
    while batch := cursor.fetchmany(BATCH):
        # A connection may ask for cursors whose rows are dictionaries.
        yield [tuple(row.values()) if isinstance(row, Mapping) else row for row in batch]
