"""What the trigger forms of several DAGs ask for. Made anew for each DAG: a run may write into its params."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param

#: How tasks are tried again by Airflow, where the error is one that may pass.
RETRIES: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True}


def node_params(title: str = "PACS", description: str = "Id of a connection of type dicom.") -> dict[str, Param]:
    """The node of a run: see `base.node_of`."""
    return {
        "pacs": Param("pacs_default", type="string", minLength=1, title=title, description=description),
        "config": Param(
            None,
            type=["null", "string"],
            title="PACSIFIER configuration",
            description="Instead of the connection: path of a PACSIFIER config.json below the data root.",
        ),
    }


def accept_incomplete() -> Param:
    """Whether a run that is not complete is a success."""
    return Param(
        False,
        type="boolean",
        title="Accept incomplete",
        description="The run counts as a success even if something is missing; the report tells what.",
    )
