"""Pages in Airflow's user interface, and the API under them: taking requests in, and the results of runs.

Mounted in Airflow's API server below `/pacsifier` (see `plugins.plugin`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

#: Where the pages are, below Airflow's own address.
PREFIX = "pacsifier"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application; what it is made of is imported when it is first called."""
    from pacsifier_ops.web.app import guarded

    await guarded(scope, receive, send)
