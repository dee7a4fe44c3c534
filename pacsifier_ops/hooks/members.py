"""Who has the roles that connections name: looked up when a run starts, where Airflow's database can be asked.

Tasks know the name of the user who started their run, and no roles. So the scheduler writes the members of each role
that a connection names into the run's folder, before the first task begins. It can ask the simple auth manager and that
of FAB. With others, or where it cannot write, no role has a member, and rights that are given to roles are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from pacsifier_ops.base.files import storage_errors, write_json
from pacsifier_ops.base.rights import RIGHTS, statement_of
from pacsifier_ops.runs.folder import Run, dag_run_name
from pacsifier_ops.runs.people import MEMBERS

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session


class OnRun:
    """Listens to the starts of runs, in the scheduler."""

    @hookimpl
    def on_dag_run_running(self, dag_run: DagRun, msg: str) -> None:
        """Write who has the roles that connections name, for a run with tasks of ours."""
        tasks = getattr(dag_run.dag, "tasks", ())
        if any(str(getattr(task, "_task_module", "")).startswith("pacsifier_ops.") for task in tasks):
            keep_members(dag_run.dag_id, dag_run.run_id)


def keep_members(dag_id: str, run_id: str) -> None:
    """Write the members of all roles that connections name into the folder of a run; nothing if none is named.

    Raises:
        StorageError: the state root cannot be written.
    """
    from airflow.utils.session import create_session

    name = dag_run_name(dag_id, run_id)
    with storage_errors("the state root"):
        (Run.planned(name).folder / MEMBERS).unlink(missing_ok=True)  # of an earlier attempt
    # A session of its own: an error must not end the transaction of the scheduler.
    with create_session(scoped=False) as session:
        roles = _named(session)
        members = members_of(roles, session) if roles else {}
    if roles:
        run = Run.named(name)
        with storage_errors("the state root"):
            write_json(run.folder / MEMBERS, {role: sorted(names) for role, names in members.items()})


def _named(session: Session) -> set[str]:
    """Return the roles that connections name."""
    from pacsifier_ops.hooks.pools import receiving_nodes

    return {role for node in receiving_nodes(session) for right in RIGHTS for role in statement_of(node, right).roles}


def members_of(roles: Collection[str], session: Session) -> Mapping[str, set[str]]:
    """Return the names of the users with each role; a role that Airflow does not know is left out."""
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.configuration import conf

    manager: Any = conf.getimport("core", "auth_manager")
    if manager and issubclass(manager, SimpleAuthManager):
        users = SimpleAuthManager.get_users()
        known = {str(user.role).lower() for user in users}
        asked = {role: role.lower() for role in roles if role.lower() in known}
        return {
            role: {user.username for user in users if str(user.role).lower() == name} for role, name in asked.items()
        }
    if manager and "FabAuthManager" in (base.__name__ for base in manager.__mro__):
        return _of_fab(roles, session)
    return {}


def _of_fab(roles: Collection[str], session: Session) -> Mapping[str, set[str]]:
    from airflow.providers.fab.auth_manager.models import Role, User
    from sqlalchemy import select

    members: dict[str, set[str]] = {}
    for role in session.scalars(select(Role).where(Role.name.in_(roles))).unique():
        users: list[User] = [*role.user, *(user for group in role.groups for user in group.users)]
        members[role.name] = {user.get_name() for user in users if user.active}
    return members
