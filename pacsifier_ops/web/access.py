"""Access control of the pages. Airflow's auth manager decides. Without these checks, a plugin's routes are open.

| content                              | needs the permission to                               |
|--------------------------------------|-------------------------------------------------------|
| counts, questions, decisions         | read runs of the DAG                                  |
| reports, findings, pictures: they    | read runs of the DAG, and also the permission         |
| identify patients                    | `PACSIFIER reports`                                   |
| the page Extract, with the list of   | read runs of `pacsifier_extract` or `pacsifier_study` |
| runs                                 |                                                       |
| intake of query tables               | start runs of one of these                            |
| to cancel a run; to delete it        | change runs of the DAG; delete them                   |
| to unpause a DAG                     | edit the DAG                                          |
| metrics: counts of all runs          | read runs of `pacsifier_extract`                      |
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import (
    ConnectionDetails,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from airflow.models import DagModel, DagRun
from fastapi import Depends, HTTPException, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from pacsifier_ops.hooks.constants import OUR_PREFIX, REPORTS
from pacsifier_ops.runs.folder import Run, dag_run_name

#: The DAGs that the intake page starts.
EXTRACT, STUDY = "pacsifier_extract", "pacsifier_study"


def may(
    user: BaseUser,
    method: Literal["GET", "POST", "PUT", "DELETE"],
    dag_id: str,
    entity: DagAccessEntity = DagAccessEntity.RUN,
) -> bool:
    """Whether a user may read (GET), start (POST), change (PUT) or delete (DELETE) runs of a DAG, or parts of them."""
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return get_auth_manager().is_authorized_dag(method=method, access_entity=entity, details=details, user=user)


def may_answer(user: BaseUser, dag_id: str) -> bool:
    """Whether a user may answer questions of the runs of a DAG; Airflow asks the same when they do."""
    return may(user, "PUT", dag_id, DagAccessEntity.HITL_DETAIL)


def may_unpause(user: BaseUser, dag_id: str) -> bool:
    """Whether a user may let the runs of a paused DAG begin."""
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return get_auth_manager().is_authorized_dag(method="PUT", details=details, user=user)


def may_read_reports(user: BaseUser, dag_id: str) -> bool:
    """Whether a user who may read runs of a DAG may also see content that identifies patients."""
    manager = get_auth_manager()
    if isinstance(manager, SimpleAuthManager):  # it has roles only, no single permissions
        return may(user, "POST", dag_id)
    return manager.is_authorized_custom_view(method="GET", resource_name=REPORTS, user=user)


def may_see_connection(user: BaseUser, name: str, team: str | None) -> bool:
    """Whether a user may see a connection."""
    details = ConnectionDetails(conn_id=name, team_name=team)
    return get_auth_manager().is_authorized_connection(method="GET", details=details, user=user)


def _may_start(user: GetUserDep) -> BaseUser:
    if not any(may(user, "POST", dag_id) for dag_id in (EXTRACT, STUDY)):
        raise HTTPException(403, "You may not start extractions; ask an administrator for this permission.")
    return user


def _may_look(user: GetUserDep) -> BaseUser:
    if not any(may(user, "GET", dag_id) for dag_id in (EXTRACT, STUDY)):
        raise HTTPException(403, "You may not see extractions; ask an administrator for this permission.")
    return user


def may_monitor(user: GetUserDep) -> None:
    """Refuse users who may not read runs of extractions.

    Raises:
        HTTPException: 403.
    """
    if not may(user, "GET", EXTRACT):
        raise HTTPException(403, "You may not see runs of extractions; ask an administrator for this permission.")


def _refuse_without(user: BaseUser, method: Literal["GET", "PUT", "DELETE"], dag_id: str) -> None:
    """Refuse a user who may not see, change or delete runs of a DAG, see `may`.

    Raises:
        HTTPException: 403.
    """
    if not may(user, method, dag_id):
        verb = {"GET": "see", "PUT": "change", "DELETE": "delete"}[method]
        raise HTTPException(403, f"You may not {verb} runs of this DAG; ask an administrator for this permission.")


def _our_run(dag_id: str, run_id: str, user: GetUserDep, session: SessionDep) -> DagRun:
    _refuse_without(user, "GET", dag_id)
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    # Our jobs in a DAG of the user have a run folder as well.
    if not dag_id.startswith(OUR_PREFIX) and (run is None or Run.existing(dag_run_name(dag_id, run_id)) is None):
        raise HTTPException(404, "This run has no job of PACSIFIER, so it has no results here.")
    if run is None:
        raise HTTPException(404, "There is no such run.")
    return run


def run_id_of(dag_id: str, name: str, user: BaseUser, session: Session) -> str:
    """Return the id of the run whose folder has this name, see `dag_run_name`.

    Raises:
        HTTPException: 403, the user may not read runs of the DAG; 404, there is none.
    """
    _refuse_without(user, "GET", dag_id)
    for run_id in session.scalars(select(DagRun.run_id).where(DagRun.dag_id == dag_id)):
        if dag_run_name(dag_id, run_id) == name:
            return run_id
    raise HTTPException(404, "There is no such run; it may have been removed.")


def _our_run_to_change(run: Annotated[DagRun, Depends(_our_run)], user: GetUserDep) -> DagRun:
    _refuse_without(user, "PUT", run.dag_id)
    return run


def _our_run_to_delete(run: Annotated[DagRun, Depends(_our_run)], user: GetUserDep) -> DagRun:
    _refuse_without(user, "DELETE", run.dag_id)
    return run


def _our_run_identified(run: Annotated[DagRun, Depends(_our_run)], user: GetUserDep) -> DagRun:
    if not may_read_reports(user, run.dag_id):
        raise HTTPException(403, f"This identifies patients; ask an administrator for the permission {REPORTS!r}.")
    return run


def same_origin(request: Request) -> None:
    """Refuse requests that a page of another site sends with the user's cookie. Programs send neither header.

    Raises:
        HTTPException: 403.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        good = site == "same-origin"
    else:  # browsers send Sec-Fetch-Site only over HTTPS; a proxy may have changed the host
        own = {request.headers.get("host"), urlsplit(conf.get("api", "base_url", fallback="")).netloc} - {""}
        good = origin is None or urlsplit(origin).netloc in own
    if not good:
        raise HTTPException(403, "This request came from a page of another site.")


#: A user who may start extractions or studies, and one who may see runs of these.
StarterDep = Annotated[BaseUser, Depends(_may_start)]
LookerDep = Annotated[BaseUser, Depends(_may_look)]
#: The run of the address, for users who may read it, change it, delete it, and who may read its reports.
RunDep = Annotated[DagRun, Depends(_our_run)]
ChangeRunDep = Annotated[DagRun, Depends(_our_run_to_change)]
DeleteRunDep = Annotated[DagRun, Depends(_our_run_to_delete)]
IdentifiedRunDep = Annotated[DagRun, Depends(_our_run_identified)]
