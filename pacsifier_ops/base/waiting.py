"""Waits that can be cancelled, and the waits between retries."""

from __future__ import annotations

import time
from collections.abc import Callable

from pacsifier_ops.base.errors import Cancelled

#: Waits between attempts after an error that may be temporary, in multiples of a configured `retry_wait`.
BACK_OFF = (1, 2, 4, 8, 16)


def pause(seconds: float, cancelled: Callable[[], bool]) -> None:
    """Wait for a number of seconds, unless cancelled.

    Raises:
        Cancelled: a stop was requested.
    """
    until = time.monotonic() + seconds
    while not cancelled():
        if (left := until - time.monotonic()) <= 0:
            return
        time.sleep(min(left, 0.05))
    raise Cancelled("stopped on request")
