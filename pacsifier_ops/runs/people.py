"""For whom a run acts, and whether that person may do what it is asked for.

A run has the rights of the Airflow user who started it, and a run that nobody started those of the owners of its
project. Its first step asks for them, before anything else is done, and writes the answer into the audit file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import InputError, NotAllowed
from pacsifier_ops.base.files import read_json
from pacsifier_ops.base.given import LARGE, read_given
from pacsifier_ops.base.rights import URGENT, Person, refuse_without
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.options import URGENT as IS_URGENT
from pacsifier_ops.state import audit

#: File in the run's folder with the names of the users of roles, see `hooks.members`.
MEMBERS = "members.json"

#: A right, and the node on which it is needed.
Need = tuple[str, Node]


def person_of(run: Run, user: str, owners: Sequence[str] = ()) -> Person:
    """Return for whom a run acts.

    Args:
        user: name of the Airflow user who started it; empty: nobody did.
        owners: of its project.
    """
    members = {}
    with suppress(FileNotFoundError):
        members = {role: frozenset(names) for role, names in read_json(run.whole.folder / MEMBERS).items()}
    return Person(user, tuple(owners), members)


def urgency_needs(urgency: object, nodes: Iterable[Node]) -> list[Need]:
    """Return the rights that the urgency of a run needs."""
    return [(URGENT, node) for node in nodes] if urgency == IS_URGENT else []


def admit(person: Person, needs: Iterable[Need], **facts: Any) -> None:
    """Check the rights of a run.

    Args:
        facts: of the run, for the audit file, if it is refused.

    Raises:
        NotAllowed: a right is missing; names it.
        ConfigError: a statement of rights cannot be understood.
    """
    try:
        for right, node in needs:
            refuse_without(right, node, person)
    except NotAllowed as error:
        error.facts = {**facts, **error.facts}
        raise


def refused(run: Run, by: str, error: NotAllowed) -> None:
    """Write into the audit file that a run, or an answer, was refused.

    Args:
        by: name of the user who started the run.

    Raises:
        StorageError: the audit file cannot be written.
    """
    audit.record(audit.REFUSED, **{"by": by, "run": run.whole.name, **error.facts, "reason": str(error)})


def started(run: Run, by: str, table: Path | None = None, **facts: Any) -> None:
    """Write into the audit file that a run has started.

    Args:
        by: name of the user; empty: nobody, by schedule.
        table: query table of its cohort.

    Raises:
        StorageError: the audit file cannot be written.
    """
    with suppress(InputError):  # a table that cannot be read is refused by the run itself
        facts |= {"cohort": audit.keyed(read_given(table, LARGE))} if table else {}
    audit.record(audit.STARTED, by=by, run=run.whole.name, **facts)
