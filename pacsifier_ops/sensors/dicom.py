"""Sensors of an archive."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import write_json
from pacsifier_ops.extract import arrival
from pacsifier_ops.operators.base import boundary, run_of
from pacsifier_ops.triggers.dicom import ARRIVED, FAILED, LATE, DicomArrivalTrigger

#: What Airflow grants beyond `timeout`: by then the trigger has ended by itself, with words, unless none runs.
_GRACE = timedelta(minutes=10)


class DicomArrivalSensor(BaseSensorOperator):
    """Wait until the studies or series that a request asks for have arrived in an archive.

    Always deferred: it checks its parameters and then waits in the triggerer, without worker or pool slot. It is told
    what to wait for by request and row, never by a key or a UID, so that nothing identifying lands in Airflow.

    Args:
        request: id of a request that was taken in; anything else is refused.
        row: line of the request's table, as reports name it: the header is line 1. None: every row of the table.
        pacs: id of the connection of the archive.
        minimum: series that a row must find.
        settle: seconds for which the number of series and instances of the rows must not have changed, because an
            archive that is still receiving a study is not done; 0 takes the first sight.
        poke_interval: seconds between two looks.
        timeout: seconds after which the sensor fails.
    """

    template_fields = ("request", "row")
    ui_color = "#f4ecd7"

    def __init__(
        self,
        *,
        request: str,
        row: int | str | None = None,
        pacs: str = "pacs_default",
        minimum: int = 1,
        settle: float = 120.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(request, str) and "{" not in request:
            arrival.check_request(request)
        if minimum < 1:
            raise ConfigError("minimum is below 1; a row that need not find anything is not worth waiting for")
        if settle < 0:
            raise ConfigError("settle is below 0; give seconds, or 0 to take the first sight")
        self.request = request
        self.row = row
        self.pacs = pacs
        self.minimum = minimum
        self.settle = settle

    def execute(self, context: Any) -> None:
        """Check what is waited for, and defer."""
        run = run_of(context)
        with boundary(run):
            row = _line(self.row)
            arrival.rows_of(self.request, row)
            write_json(run.folder / "awaited.json", {"request": self.request})  # not to be cleaned up meanwhile
        self.defer(
            trigger=DicomArrivalTrigger(
                request=self.request,
                row=row,
                pacs=self.pacs,
                minimum=self.minimum,
                settle=self.settle,
                poke_interval=self.poke_interval,
                timeout=self.timeout,
                run=run.name,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout) + _GRACE,
        )

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, int]:
        """Returns how many rows, series and instances have arrived.

        Raises:
            AirflowSensorTimeout: not all has arrived in time.
            AirflowFailException: it cannot be waited for; says why.
            AirflowSkipException: any of these, where the sensor is soft.
            AirflowException: something unforeseen happened; it may go well when tried again.
        """
        state = event["state"]
        if state == ARRIVED:
            counts = {name: event[name] for name in ("rows", "series", "instances")}
            self.log.info("arrived: %s", counts)
            return counts
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(event["message"])  # Airflow would skip it without saying why
        kinds = {LATE: AirflowSensorTimeout, FAILED: AirflowFailException}
        raise kinds.get(state, AirflowException)(event["message"])


def _line(row: int | str | None) -> int | None:
    """A row as given, or as a template makes text of it.

    Raises:
        ConfigError: it is no line number.
    """
    text = "" if row is None else str(row).strip()
    if text in ("", "None"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError("row is not the number of a line; the header of the request's table is line 1")
    return int(text)
