"""The trigger of `DicomArrivalSensor`. Many triggers share one process, so blocking calls run in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.extract import arrival
from pacsifier_ops.extract.arrival import Arrived
from pacsifier_ops.hooks.archives import archive
from pacsifier_ops.operators.base import adopt_settings
from pacsifier_ops.runs.folder import Run

#: States of an event.
ARRIVED, LATE, FAILED, UNEXPECTED = "arrived", "late", "failed", "unforeseen"


class DicomArrivalTrigger(BaseTrigger):
    """Queries an archive until the series of a request's rows have arrived.

    It sends one event with its `state`, and with counts if all has arrived, else with a `message`. After a restart of
    the triggerer, it queries again, and the time of `settle` begins again.

    Args:
        request, row, pacs, minimum, settle, poke_interval, timeout: see `DicomArrivalSensor`.
        run: name of the run folder, for details of unexpected errors.
        since: time at which the waiting began, in seconds since the epoch; default: now.
    """

    def __init__(
        self,
        *,
        request: str,
        row: int | None,
        pacs: str,
        minimum: int,
        settle: float,
        poke_interval: float,
        timeout: float,
        run: str,
        since: float | None = None,
    ) -> None:
        super().__init__()
        self.request = request
        self.row = row
        self.pacs = pacs
        self.minimum = minimum
        self.settle = settle
        self.poke_interval = poke_interval
        self.timeout = timeout
        self.run_name = run
        self.since = time.time() if since is None else since
        self._stopped = threading.Event()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments: ids, numbers and times."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "request": self.request,
            "row": self.row,
            "pacs": self.pacs,
            "minimum": self.minimum,
            "settle": self.settle,
            "poke_interval": self.poke_interval,
            "timeout": self.timeout,
            "run": self.run_name,
            "since": self.since,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the event. No exception leaves: the triggerer would log its values."""
        try:
            yield TriggerEvent(await self._outcome())
        finally:
            self._stopped.set()

    async def _outcome(self) -> dict[str, Any]:
        try:
            return await self._wait()
        except PacsifierError as error:
            return {"state": FAILED, "message": str(error)}
        except Exception as error:
            run = Run.named(self.run_name)
            run.note("".join(traceback.format_exception(error)))
            message = f"unexpected {type(error).__name__}; the details are in {run.folder}/problems.txt"
            return {"state": UNEXPECTED, "message": message}

    async def _wait(self) -> dict[str, Any]:
        rows, look = await asyncio.to_thread(self._prepare)
        last, unchanged_since, problem = Arrived(0, 0, 0), time.monotonic(), ""
        while True:
            pause = self.poke_interval
            try:
                arrived = await asyncio.to_thread(look)
            except PacsifierError as error:
                if not error.retryable:
                    raise
                problem = str(error)
                self.log.info("looking again later: %s", problem)
            else:
                now = time.monotonic()
                if arrived != last:
                    last, unchanged_since = arrived, now
                    self.log.info("%s", _words(arrived, rows))
                if arrived.rows == rows:
                    unsettled = unchanged_since + self.settle - now
                    if unsettled <= 0:
                        return {"state": ARRIVED, **vars(arrived)}
                    pause = min(pause, unsettled)
            left = self.since + self.timeout - time.time()
            if left <= 0:
                message = f"not all there after {self.timeout:g} s: {_words(last, rows)}"
                return {"state": LATE, "message": "; the last problem was: ".join(filter(None, (message, problem)))}
            await asyncio.sleep(min(pause, left))

    def _prepare(self) -> tuple[int, Callable[[], Arrived]]:
        """Return the number of rows, and a function that queries the archive for them."""
        adopt_settings()
        rows = arrival.rows_of(self.request, self.row)
        node = archive(self.pacs)
        return len(rows), partial(arrival.count_arrived, node, rows, self.minimum, self._stopped.is_set)


def _words(arrived: Arrived, rows: int) -> str:
    return f"{arrived.rows} of {rows} row(s) with enough series; {arrived.series} series, {arrived.instances} instances"
