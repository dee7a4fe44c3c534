"""Waits that can be cancelled, and how long they are before what may yet succeed is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable

from pacsifier_ops.base.errors import Cancelled

#: Waits between the attempts after an error that may pass by itself, in multiples of a configured `retry_wait`.
BACK_OFF = (1, 2, 4, 8, 16)


def pause(seconds: float, cancelled: Callable[[], bool]) -> None:
    """Wait, unless cancelled.

    Raises:
        Cancelled: somebody wants us to stop.
    """
    until = time.monotonic() + seconds
    while not cancelled():
        if (left := until - time.monotonic()) <= 0:
            return
        time.sleep(min(left, 0.05))
    raise Cancelled("stopped on request")
