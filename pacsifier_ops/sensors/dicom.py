"""The sensor for the arrival of studies and series in an archive."""

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

#: Airflow ends the task this long after `timeout`. By then the trigger has sent its event, unless no triggerer runs.
_GRACE = timedelta(minutes=10)


class DicomArrivalSensor(BaseSensorOperator):
    """Wait until the studies or series of a request have arrived in an archive.

    The sensor checks its parameters and then waits in the triggerer, without worker and pool slot. Request and row say
    what to wait for. Keys and UIDs are no parameters, so that Airflow gets no identifiers.

    Args:
        request: id of a request that was taken in, for example by the intake page; anything else is refused.
        row: line of the request's table, as in reports: the header is line 1. None: all rows of the table.
        pacs: id of the connection of the archive.
        minimum: number of series that a row must find.
        settle: seconds for which the numbers of series and instances must stay the same, because the archive may still
            be receiving a study; 0: the first look counts.
        poke_interval: seconds between two looks.
        timeout: seconds after which the sensor fails.

    Raises:
        ConfigError: a parameter is invalid.
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
            raise ConfigError("minimum is below 1; give the number of series that a row must find")
        if settle < 0:
            raise ConfigError("settle is below 0; give seconds, or 0 to accept the first look")
        self.request = request
        self.row = row
        self.pacs = pacs
        self.minimum = minimum
        self.settle = settle

    def execute(self, context: Any) -> None:
        """Check the request and the row, and defer."""
        run = run_of(context)
        with boundary(run):
            row = _line(self.row)
            arrival.rows_of(self.request, row)
            write_json(run.folder / "awaited.json", {"request": self.request})  # the clean-up keeps it
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
        """Return the numbers of rows, series and instances that have arrived.

        Raises:
            AirflowSensorTimeout: not all has arrived in time.
            AirflowFailException: a final error, such as an archive that cannot be queried.
            AirflowSkipException: any of these, if the sensor is soft.
            AirflowException: an unexpected error; Airflow may try again.
        """
        state = event["state"]
        if state == ARRIVED:
            counts = {name: event[name] for name in ("rows", "series", "instances")}
            self.log.info("arrived: %s", counts)
            return counts
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(event["message"])  # Airflow would skip it without the reason
        kinds = {LATE: AirflowSensorTimeout, FAILED: AirflowFailException}
        raise kinds.get(state, AirflowException)(event["message"])


def _line(row: int | str | None) -> int | None:
    """Return the line number of a row, which a template may have made text; None: all rows.

    Raises:
        ConfigError: it is not a line number.
    """
    text = "" if row is None else str(row).strip()
    if text in ("", "None"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError("row is not the number of a line; the header of the request's table is line 1")
    return int(text)
