"""The package's Airflow plugin: listeners, and pages in the user interface.

Every component of Airflow imports this module when it starts, also commands and tasks. So the pages are not imported
here; the API server imports them at the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from pacsifier_ops.hooks.constants import PREFIX
from pacsifier_ops.hooks.endings import OnEnd
from pacsifier_ops.hooks.members import OnRun
from pacsifier_ops.hooks.pools import OnStart

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

# Airflow replaces {DAG_ID} and {RUN_ID}. Addresses are relative to that of Airflow, which may have a path. All DAGs
# have the tab; the page says if a run has no job of ours.
_INTAKE = {
    "name": "Extract",
    "href": f"{PREFIX}/",
    "destination": "nav",
    "nav_top_level": True,
    "url_route": "pacsifier-intake",
}
_RESULTS = {
    "name": "Results",
    "href": f"{PREFIX}/runs/{{DAG_ID}}/{{RUN_ID}}",
    "destination": "dag_run",
    "url_route": "pacsifier-results",
}


async def _pages(scope: Scope, receive: Receive, send: Send) -> None:
    from pacsifier_ops.web.app import guarded

    await guarded(scope, receive, send)


class PacsifierPlugin(AirflowPlugin):
    """The package's Airflow plugin."""

    name = "pacsifier"
    listeners = [OnStart(), OnRun(), OnEnd()]  # noqa: RUF012 (Airflow declares these so)
    fastapi_apps: list[dict[str, Any]] = [{"app": _pages, "url_prefix": f"/{PREFIX}", "name": "pacsifier"}]  # noqa: RUF012
    external_views: list[dict[str, Any]] = [_INTAKE, _RESULTS]  # noqa: RUF012
