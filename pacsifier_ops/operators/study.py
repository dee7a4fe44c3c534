"""The operators of a study, and its stages. See `study.steps`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pacsifier_ops.base.config import Archive, Node, givers_of, node_names
from pacsifier_ops.base.errors import ConfigError, NotApproved
from pacsifier_ops.base.options import OWNER
from pacsifier_ops.extract.requests import table_path
from pacsifier_ops.messages import noticing
from pacsifier_ops.nightly import night_of
from pacsifier_ops.operators.approval import ApproveOperator, Question
from pacsifier_ops.operators.base import (
    APPROVED,
    PacsifierOperator,
    ReportOperator,
    admit,
    connected,
    data_path,
    starter,
    takes,
)
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.operators.pseudonyms import secret_of
from pacsifier_ops.operators.stages import Stage, state_of
from pacsifier_ops.runs import approvals, people
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.runs.job import started
from pacsifier_ops.study import run as stages
from pacsifier_ops.upload.nodes import refuse_no_store

if TYPE_CHECKING:
    from pacsifier_ops.study.accounts import StudyAccount
    from pacsifier_ops.study.project import Study

#: Asset alias of the released data sets of all projects. Other DAGs can be scheduled by it.
DATA_SETS = "pacsifier_data_sets"

#: Asset of the releases of all projects. Its events have the partition key `<project>/<night>`, so that a DAG can take
#: what is new in each. Airflow starts no DAG without partitions by such events, so the data sets are assets beside it.
#: It has no URI: Airflow would load all providers for it, in each task.
RELEASES = Asset("pacsifier_releases")


class StudyStage(Stage, StrEnum):
    """A stage of a study. Its job has a run of its own, and its params come from the study.

    It is also text: Airflow keeps its value, as those of other arguments of operators.
    """

    EXTRACT = stages.EXTRACT
    PSEUDONYMS = stages.PSEUDONYMS
    ANONYMIZE = stages.ANONYMIZE
    DUMPS = stages.DUMPS
    RELEASE_TO = stages.RELEASE_TO
    DICOMDIR = stages.DICOMDIR
    CONVERT = stages.CONVERT
    UPLOAD = stages.UPLOAD
    KARNAK = stages.KARNAK
    KARNAK_UPLOAD = stages.KARNAK_UPLOAD
    MOVE = stages.MOVE

    @property
    def is_of_study(self) -> bool:
        """See `Stage`."""
        return True

    def begin(self, run: Run, context: Any, asks: type[Any], arguments: Mapping[str, Any]) -> None:
        """See `Stage.begin`. Nothing is fetched after the last day; somebody may have cleared this stage alone.

        Raises:
            NotAllowed: the project has expired.
            NotApproved: nobody has approved what is to be sent to the store of the release.
        """
        from pacsifier_ops.study.project import Study

        if self is StudyStage.EXTRACT:
            Study.of(run).refuse_expired()
        if self is StudyStage.RELEASE_TO and self._is_wanted(run):
            from pacsifier_ops.study.release import begin_sending

            begin_sending(run)

    def _is_wanted(self, run: Run) -> bool:
        from pacsifier_ops.study.release import may_hand_over

        if stages.stages_of(run)[self] is None:
            return False
        return self not in stages.DESTINATIONS or may_hand_over(run, self)

    def of(self, run: Run, params: Mapping[str, Any]) -> tuple[Run, Mapping[str, Any]]:
        """Return the run and the params of the stage.

        Raises:
            AirflowSkipException: the stage is switched off.
        """
        from pacsifier_ops.study.project import Study
        from pacsifier_ops.study.release import listing_of, originals_of

        if not self._is_wanted(run):
            raise AirflowSkipException("the study does without this")
        wanted = stages.stages_of(run)[self] or {}
        more = {OWNER: str(Study.of(run).root)}
        if self is StudyStage.MOVE:
            more[APPROVED] = str(originals_of(run))
        if self is StudyStage.RELEASE_TO:
            more[APPROVED] = str(listing_of(run))
        return stage_run(run, self), {**wanted, **more}

    def owners(self, run: Run) -> Sequence[str]:
        """Return the owners of the study."""
        from pacsifier_ops.study.project import Study

        return Study.of(run.whole).owners

    def check_begun(self, context: Any) -> None:
        """See `Stage.check_begun`. The error of the step that failed says why; this one adds none."""
        if state_of(context, f"{self}.prepare") != "success":
            raise AirflowSkipException("the stage did not begin")


class StudySetUpOperator(PacsifierOperator):
    """Read and check the project file or the form, and write the requests of the stages."""

    def work(self, run: Run, context: Any) -> None:
        """Set up the study.

        Raises:
            AirflowFailException: another run of the same study has not ended.
        """
        from pacsifier_ops.study import steps
        from pacsifier_ops.study.project import FORM

        check_conf(context)
        params = context["params"]
        file = data_path(params, "project_file") if params["project_file"] else None
        if file is not None:
            _refuse_both(params, context["dag"].params)
        given = {key: _plain(params[key]) for key in FORM if params[key] is not None}
        study = steps.set_up(run, given, file, starter(context))
        try:
            nodes = dict(_nodes(study))
            if study.release_to:
                refuse_no_store(nodes[study.release_to])
            nodes |= {n.giver.name: n.giver for n in nodes.values() if isinstance(n, Archive) and n.giver}
            needs = [(right, nodes[name]) for right, name in study.needs(givers_of(nodes.values()))]
            facts = admit(run, context, needs, **study.told, urgency=study.urgency)
            if study.release_to and (told := steps.check_store(study, nodes[study.release_to], self.cancelled)):
                self.log.warning("release_to: %s; it is tried again when somebody has approved", told)
        except BaseException:
            run.forget(["stages"])  # or the step could be marked as a success, and the stages begin
            raise
        people.started(run, table=table_path(study.queryfile) if study.queryfile else None, **facts)
        ti = context["ti"]
        if other := steps.other_running(study, run.name, lambda run_id: _goes_on(ti, run_id), context["run_id"]):
            raise AirflowFailException(f"another run of this study goes on, {other}; wait for its end")
        self.log.info("run folder %s", run.folder)


def _takers(study: Study) -> list[str]:
    """Return the connections that get the released data set."""
    return [name for name in (study.release_to, study.upload) if name]


def _nodes(study: Study) -> Iterator[tuple[str, Node]]:
    """Yield all connections that a study names, as nodes by name; of one that is asked as well, as an archive at last.

    Raises:
        ConfigError: names the key of the study, and what is wrong.
    """
    asked = (("pacs", node_names(study.pacs)), ("karnak", (study.karnak,)), ("move", (study.move,)))
    sent = (("release_to", (study.release_to,)), ("upload", (study.upload,)))
    for make, keys in ((takes, sent), (connected, asked)):
        for key, names in keys:
            for name in filter(None, names):
                try:
                    yield name, make(name)
                except ConfigError as error:
                    raise ConfigError(f"{key}: {error}") from None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _refuse_both(params: Mapping[str, Any], form: Any) -> None:
    """Refuse a form with changed values beside a project file, see `project.beside`.

    Raises:
        ConfigError: names the changed keys.
    """
    from pacsifier_ops.study.project import beside

    if changed := beside(params, form.dump() if hasattr(form, "dump") else dict(form)):
        raise ConfigError(
            f"project_file defines the study, so {', '.join(changed)} must not be given as well; change it in that "
            "file, or leave project_file empty"
        )


def _goes_on(ti: Any, run_id: str) -> bool:
    return bool(ti.get_dr_count(ti.dag_id, run_ids=[run_id], states=["queued", "running"]))


class StudyCheckOperator(PacsifierOperator):
    """List the files of the data set with their digests, and search all of them for identifiers of the cohort."""

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Return counts of files and of findings."""
        from pacsifier_ops.study import steps
        from pacsifier_ops.study.project import Study

        counts = steps.check(run, self.cancelled, secret_of(Study.of(run).project))
        self.log.info("%s", counts)
        return counts


class ApproveReleaseOperator(ApproveOperator):
    """Ask a person for the release, unless limits allow it, or the same data set was released before."""

    def question(self, run: Run, params: Any) -> Question | None:
        """Return the question, with the content of the data set and the findings of the search.

        Raises:
            AirflowSkipException: the study does not release.
            NotAllowed: the project has expired.
            NotApproved: there are findings that nobody may waive.
        """
        from pacsifier_ops.study import steps
        from pacsifier_ops.study.project import NOBODY, Study

        study = Study.of(run)
        if study.release == NOBODY:
            raise AirflowSkipException("nobody releases in this run")
        study.refuse_expired()
        found = steps.findings(run)
        if found.blocking:
            raise NotApproved(f"the data set cannot be released: {'; '.join(found.blocking)}")
        if steps.released_before(run, found) or steps.within_limits(run, found):
            return None
        return Question(
            approvals.RELEASE,
            found.stock.digest,
            "May this data set be released?",
            found.summary,
            found.waivable > 0,
            study.approvers,
            study.may_release,
            {"files": found.stock.files},
        )


class StudyReleaseOperator(PacsifierOperator):
    """Release exactly the approved files. Where they go to a store, it has to have confirmed all of them."""

    ui_color = "#d5efe0"

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Return counts of files, and trigger the DAGs that wait for the data set.

        Raises:
            AirflowSkipException: the study does not release.
        """
        from pacsifier_ops.study import release, steps
        from pacsifier_ops.study.project import NOBODY, Study

        if Study.of(run).release == NOBODY:
            raise AirflowSkipException("nobody releases in this run")
        released = steps.release(run, self.cancelled)
        counts = {name: getattr(released, name) for name in ("files", "bytes", "new", "stale")}
        self.log.info("%s", counts)
        study = Study.of(run)
        asset = Asset(name=f"pacsifier_{study.project}", uri=f"pacsifier://data-sets/{study.project}")
        dag_run = context["dag_run"]
        noticing.released(run, dag_run.dag_id, dag_run.run_id, dag_run.clear_number or 0, counts)
        extra = {"project": study.project, **counts}
        context["outlet_events"][self.outlets[0]].add(asset, extra=extra)
        event = context["outlet_events"][RELEASES]
        event.extra = {**extra, "new_files": str(release.newly_released(run))}
        event.add_partitions(f"{study.project}/{night_of(dag_run.run_after)}")
        return counts


class StudyRemoveOperator(PacsifierOperator):
    """List the identified files that are verified as delivered, and remove them if the study says so."""

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Return counts of files that may be removed, that were removed, and that stay."""
        from pacsifier_ops.study import steps
        from pacsifier_ops.study.project import Study

        if started(run) is None:
            raise AirflowSkipException("the study was not set up")
        keys = [takes(name).key for name in _takers(Study.of(run))]
        counts = steps.remove(run, keys, self.cancelled)
        self.log.info("%s", counts)
        return counts


class StudyReportOperator(ReportOperator):
    """Close the account of the whole chain, and write both reports."""

    what = "study"

    def close(self, run: Run, params: Any) -> StudyAccount:
        """See `study.steps.report`."""
        from pacsifier_ops.study import steps

        return steps.report(run)

    def accepts_incomplete(self, run: Run, params: Any) -> bool:
        """Whether the project file or the form accepts an incomplete study."""
        from pacsifier_ops.study.project import Study

        return Study.of(run).accept_incomplete
