"""The operators of the nightly DAG: they start a run for each submission in the inbox and each standing project."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import CronTriggerTimetable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException
from pendulum.tz.local_timezone import get_local_timezone

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.nightly import EXTRACT, STUDY, Folders, Start, night_of
from pacsifier_ops.operators.base import PacsifierOperator
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.runs.folder import Run

#: How long a night waits at most for files that are still being written. Others come in the next night.
PATIENCE = timedelta(minutes=10)


def timetable() -> CronTriggerTimetable | None:
    """Return the schedule of the nightly DAG, in the hospital's time zone; None: it is started only by hand.

    Raises:
        ConfigError: the setting `timezone` is not a time zone.
    """
    zone = settings.timezone()
    cron = settings.nightly_schedule()
    return CronTriggerTimetable(cron, timezone=zone.key if zone else get_local_timezone()) if cron else None


class _Runs:
    """Answers questions on runs of the extract and study DAGs, with the task's access to Airflow."""

    def __init__(self, ti: Any) -> None:
        self._count = ti.get_dr_count

    def exists(self, run_id: str) -> bool:
        return any(self._count(dag, run_ids=[run_id]) for dag in (EXTRACT, STUDY))

    def is_running(self, run_id: str) -> bool:
        going_on = ["queued", "running"]
        return any(self._count(dag, run_ids=[run_id], states=going_on) for dag in (EXTRACT, STUDY))


class _NightlyOperator(PacsifierOperator):
    """Base of the operators of a night. A nightly run has no account; the runs that it starts have."""

    operator_extra_links = ()

    _until: datetime

    def execute(self, context: Any, event: Any = None, until: str | None = None) -> Any:
        """Do `work`, again after a wait for files; `event` is that of the trigger, `until` the end of the patience."""
        self._until = datetime.fromisoformat(until) if until else datetime.now(UTC) + PATIENCE
        return super().execute(context)

    def wait_for_files(self, seconds: float) -> None:
        """Defer until files are complete, unless that takes too long. 0 seconds: there is nothing to wait for."""
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
        if seconds and moment <= self._until:
            self.log.info("files are being written; looking again in %.0f s", seconds)
            kwargs = {"until": self._until.isoformat()}
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute", kwargs=kwargs)

    def prepared(self, run: Run, context: Any, kept: str) -> tuple[Folders, str]:
        """Remove the file `kept` of an earlier attempt. Return the folders, and the date of the night."""
        run.forget([kept])
        check_conf(context)
        return Folders(settings.nightly()), night_of(context["dag_run"].run_after)


class NightlyCollectOperator(_NightlyOperator):
    """Take the submissions out of the inbox, and reject those that cannot be used."""

    def work(self, run: Run, context: Any) -> list[dict[str, Any]]:
        """Return the arguments of NightlyStartOperator for each run to start."""
        from pacsifier_ops.nightly.inbox import collect

        folders, night = self.prepared(run, context, "inbox")
        collected = collect(folders, night, _connect)
        self.log.info(
            "%d to start, %d rejected, %d still being copied, %d options files without a table, "
            "%d left for the next run, %d that cannot be moved out of the inbox",
            *(len(collected.starts), len(collected.rejected), collected.copying, collected.without_table),
            *(collected.next_night, collected.stuck),
        )
        for name in collected.rejected:
            self.log.warning("rejected: see reasons.txt in rejected/%s", name)
        self.wait_for_files(collected.wait)
        write_json(run.folder / "inbox.json", {"stuck": collected.stuck})
        return list(map(_arguments, collected.starts))


class NightlyProjectsOperator(_NightlyOperator):
    """Find the standing projects that are to run this night."""

    def work(self, run: Run, context: Any) -> list[dict[str, Any]]:
        """Return the arguments of NightlyStartOperator for each run to start."""
        from pacsifier_ops.nightly.projects import check_projects

        folders, night = self.prepared(run, context, "projects")
        site = folders, night, _connect, _Runs(context["ti"]), _page_root()
        found = check_projects(*site, may_wait=True)
        if found.wait:
            self.wait_for_files(found.wait)
            found = check_projects(*site)
        self.log.info(
            "%d to start, %d switched off, %d that have run tonight or whose last run goes on, %d that cannot be used, "
            "%d left out because they are being changed",
            *(len(found.starts), found.disabled, found.already_run, found.broken, found.changing),
        )
        kept = {"broken": found.broken, "runs": [start.run_id for start in found.starts]}
        write_json(run.folder / "projects.json", kept)
        return list(map(_arguments, found.starts))


class NightlyStartOperator(TriggerDagRunOperator):
    """Start a run of the extract or the study DAG. The task is skipped if a run with this id exists."""

    #: No templates: mapped arguments would be rendered, and they contain text of users.
    template_fields = ()

    def __init__(self, **kwargs: Any) -> None:
        # Two runs of a DAG must not have the same logical date, so these have none.
        super().__init__(logical_date=None, skip_when_already_exists=True, **kwargs)


class NightlyFinishOperator(_NightlyOperator):
    """Move the started submissions to the folder `done`, each with the paths of its results."""

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Return the numbers of submissions and projects that were started.

        Raises:
            AirflowFailException: a person has to correct something, which the error names. All other runs have started.
        """
        from pacsifier_ops.nightly.inbox import put_away_started

        runs = _Runs(context["ti"])
        done, waiting = put_away_started(Folders(settings.nightly()), runs, _page_root())
        inbox, projects = (_kept(run, name) for name in ("inbox", "projects"))
        if inbox is None or projects is None:
            raise AirflowFailException("the inbox or the projects could not be read; see the steps before")
        started = sum(map(runs.exists, projects["runs"]))
        problems = {
            "project(s) cannot be used; see reasons.txt in their folders": projects["broken"],
            "submission(s) cannot be moved out of the inbox; all folders of the nightly runs must be writable for "
            "Airflow, and on one file system": inbox["stuck"],
            "run(s) could not be started and are tried again the next night; see the steps before": (
                waiting + len(projects["runs"]) - started
            ),
        }
        self.log.info("%d submission(s) and %d project(s) started", done, started)
        if any(problems.values()):
            raise AirflowFailException("; ".join(f"{count} {what}" for what, count in problems.items() if count))
        return {"submissions": done, "projects": started}


def _arguments(start: Start) -> dict[str, Any]:
    return {"trigger_dag_id": start.dag_id, "trigger_run_id": start.run_id, "conf": dict(start.conf)}


def _kept(run: Run, name: str) -> Any:
    path = run.folder / f"{name}.json"
    return read_json(path) if path.exists() else None


def _connect(name: str) -> object:
    from pacsifier_ops.hooks.archives import archive

    return archive(name)


def _page_root() -> str:
    return str(conf.get("api", "base_url", fallback=""))
