"""The Test button of a connection."""

from __future__ import annotations

from collections.abc import Callable

from pacsifier_ops.base.errors import PacsifierError


def tested(conn_id: str, tell: Callable[[str], object], try_it: Callable[[], str]) -> tuple[bool, str]:
    """Return whether a run could use a connection, and a sentence with the result.

    Args:
        conn_id: id of the connection. Airflow makes one up for the test, so it is not shown.
        tell: logs an unexpected error in full.
        try_it: uses the connection and returns the sentence.
    """
    try:
        return True, try_it()
    except PacsifierError as error:
        return False, str(error).removeprefix("connection ").removeprefix(f"{conn_id}: ")
    except Exception as error:
        tell("The test of a connection failed")
        return False, f"unexpected {type(error).__name__}; the log of the API server tells more"
