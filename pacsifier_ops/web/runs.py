"""The list of runs on the page Extract, and requests that nobody has started."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.models import DagRun, TaskInstance
from airflow.utils.state import State, TaskInstanceState
from airflow.utils.types import DagRunType
from sqlalchemy import String, cast, select
from sqlalchemy.orm import Session

from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.extract.requests import UNSTARTED, handed_in_before, request_in
from pacsifier_ops.hooks.constants import OUR_PREFIX
from pacsifier_ops.maintenance.cleanup import remove_folder
from pacsifier_ops.maintenance.deletion import may_delete_here
from pacsifier_ops.runs.folder import Run, dag_run_name, kept_request, kept_requests
from pacsifier_ops.runs.job import summary_of
from pacsifier_ops.runs.options import DEFAULT_NODE
from pacsifier_ops.web.access import may
from pacsifier_ops.web.forms import JOBS
from pacsifier_ops.web.views import ASKING, run_path

log = logging.getLogger(__name__)

#: Maximum number of runs in the list.
MOST = 50


def recent(session: Session, user: BaseUser, everybody: bool) -> list[dict[str, Any]]:
    """Return the last runs of our DAGs that a user may read, the newest first, as plain data.

    Args:
        session: of Airflow's database.
        everybody: those of other users as well.
    """
    ours = select(DagRun.dag_id).where(DagRun.dag_id.startswith(OUR_PREFIX, autoescape=True)).distinct()
    readable = [dag_id for dag_id in session.scalars(ours) if may(user, "GET", dag_id)]
    # Those of nights and messages, which start by themselves, would hide the others.
    started = DagRun.run_type != DagRunType.SCHEDULED
    wanted = select(DagRun).where(DagRun.dag_id.in_(readable), started).order_by(DagRun.id.desc()).limit(MOST)
    if not everybody:
        wanted = wanted.where(DagRun.triggering_user_name == user.get_name())
    runs = session.scalars(wanted).all()
    asking = _asking(session, runs)
    return [_line(run, user, run.id in asking) for run in runs]


def _asking(session: Session, runs: Iterable[DagRun]) -> set[int]:
    """Return the ids of those runs that wait for a person."""
    own = (TaskInstance.dag_id == DagRun.dag_id) & (TaskInstance.run_id == DagRun.run_id)
    waits = TaskInstance.state == TaskInstanceState.AWAITING_INPUT
    waiting = select(DagRun.id).join(TaskInstance, own).where(DagRun.id.in_([run.id for run in runs]), waits)
    return set(session.scalars(waiting))


def _line(run: DagRun, user: BaseUser, asking: bool) -> dict[str, Any]:
    conf, folder = run.conf or {}, Run.planned(dag_run_name(run.dag_id, run.run_id))
    kept = kept_request(folder)
    goes_on = run.state in State.unfinished_dr_states
    began = run.start_date or run.queued_at
    job = JOBS.get(run.dag_id)
    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "page": run_path(run.dag_id, run.run_id),
        "what": job.name if job else run.dag_id.removeprefix(OUR_PREFIX).replace("_", " ").capitalize(),
        "where": _where(conf, kept),
        "who": run.triggering_user_name or "",
        "pacs": _named(kept.get("pacs") or conf.get("pacs") or (DEFAULT_NODE if job else "")),
        "started": began.astimezone().isoformat(timespec="seconds") if began else "",
        "state": ASKING if asking else str(run.state),
        "verdict": "" if goes_on else str(summary_of(folder).get("verdict", "")),
        "goes_on": goes_on,
        "conf": conf if job and may(user, "POST", run.dag_id) else None,
        "may_cancel": goes_on and may(user, "PUT", run.dag_id),
        "may_delete": not goes_on and may(user, "DELETE", run.dag_id) and may_delete_here(),
    }


def _where(conf: dict[str, Any], kept: dict[str, Any]) -> str:
    """Return the project or the folder of a run, for people to tell it from others."""
    if conf.get("retrieve") == "none":
        return "only counted"
    return str(kept.get("project") or next(filter(None, map(conf.get, _NAMES)), ""))


#: Params that tell a run from others of its DAG.
_NAMES = ("project", "project_file", "out_directory", "out_folder", "data_folder", "in_folder")


def _named(pacs: object) -> str:
    return ", ".join(map(str, pacs)) if isinstance(pacs, list) else str(pacs)


def forget_unstarted(session: Session) -> None:
    """Remove requests that a person handed in a day ago, and that no run was started on.

    Runs that only exist in Airflow count as well: those of a paused DAG have no folder yet.

    Args:
        session: of Airflow's database.
    """
    old = handed_in_before(time.time() - UNSTARTED)
    used = {request_in(str(kept.get("queryfile", ""))) for kept in kept_requests()} if old else set()
    for name, path in old.items():
        if name in used or is_named(name, session):
            continue
        try:
            remove_folder(path, "requests of the state root")
            log.info("a request that nobody has started was removed")
        except FileNotFoundError:
            pass  # another process was faster
        except (OSError, StorageError) as error:  # the page is needed all the same
            log.warning("a request that nobody has started stays: %s", type(error).__name__)


def is_named(request: str, session: Session, besides: int = 0) -> bool:
    """Return whether the conf of a run in Airflow names a request.

    Args:
        session: of Airflow's database.
        besides: id of a run that does not count, of the table of runs.
    """
    named = select(DagRun.id).where(cast(DagRun.conf, String).contains(request), DagRun.id != besides).limit(1)
    return session.scalar(named) is not None
