"""What the trigger forms of several DAGs ask for. Made anew for each DAG: a run may write into its params."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param

from pacsifier_ops.errors import InputError, not_known

#: How tasks are tried again by Airflow, where the error is one that may pass.
RETRIES: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True}


#: `map_index_template` of mapped tasks: rendered when a task begins, and again when it has ended.
LABEL = "{{ task.map_label(dag_run) }}"

#: Connection of a run that names none.
DEFAULT_NODE = "pacs_default"

#: Sections of the forms.
WHAT, WHERE_FROM, WHERE_TO, HOW = "What", "From which PACS", "Where to", "How strict"


def node_params(
    title: str = "PACS", description: str = "Id of a connection of type dicom.", section: str = WHERE_FROM
) -> dict[str, Param]:
    """The node of a run: see `base.node_of`."""
    return {
        "pacs": Param(DEFAULT_NODE, type="string", minLength=1, title=title, description=description, section=section),
        "config": Param(
            None,
            type=["null", "string"],
            title="PACSIFIER configuration",
            description="Instead of the connection: path of a PACSIFIER config.json below the data root.",
            section=section,
        ),
    }


def accept_incomplete() -> Param:
    """Whether a run that is not complete is a success."""
    return Param(
        False,
        type="boolean",
        title="Accept incomplete",
        description="The run counts as a success even if something is missing; the report tells what.",
        section=HOW,
    )


def check_conf(context: Any) -> None:
    """Refuse what a run was triggered with and its DAG does not know; Airflow itself lets it pass.

    Raises:
        InputError: names the keys, with the one that was probably meant.
    """
    known = set(context["dag"].params)
    unknown = [key for key in context["dag_run"].conf or {} if key not in known]
    if unknown:
        raise InputError(f"conf: {'; '.join(not_known(key, known) for key in unknown)}; nothing was done")
