"""The boundary around every operator of this package, and what they share."""

from __future__ import annotations

import sqlite3
import traceback
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, BaseOperatorLink, Variable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from pacsifier_ops.base import options, settings
from pacsifier_ops.base.config import ArchiveNode, Node, PacsNode, givers_of, node_names, read_archive
from pacsifier_ops.base.errors import ConfigError, InputError, Later, NotAllowed, PacsifierError, StorageError
from pacsifier_ops.base.files import read_json
from pacsifier_ops.hooks.constants import GIVERS, ITEMS, NODES, URGENCY
from pacsifier_ops.operators import line
from pacsifier_ops.operators.stages import Stage, stage_of
from pacsifier_ops.runs import approvals, failures, labels, people
from pacsifier_ops.runs.accounts import COMPLETE, ENDED_BY_PERSON
from pacsifier_ops.runs.folder import Run, dag_run_name, noted_warnings
from pacsifier_ops.runs.job import KEPT, Account, expected, write_unbegun
from pacsifier_ops.runs.options import DEFAULT_NODE
from pacsifier_ops.state import audit

#: Key of what a stage may add to the params beside OWNER: the list of what may be moved.
APPROVED = "approved"


#: Stands for the user who has run an existing run again by a backfill: Airflow does not tell tasks who that is.
_WHO_BACKFILLS = "whoever started this backfill"

#: Foreign errors that may pass by themselves, and those among them that do not: a file that is wrong stays wrong.
_PASSING = (OSError, MemoryError, sqlite3.OperationalError)
_STAYING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


@contextmanager
def boundary(run: Run, context: Any = None) -> Iterator[None]:
    """Nothing that may identify a patient leaves through an exception or a warning.

    Typed errors hold no values and pass with their text; whatever else happens is written to the run's
    problems.txt, and only its kind is told. Errors that may pass by themselves are left to Airflow's retries, unless
    the run was cancelled.

    Args:
        context: of the task, for the page of the run to say why it failed.
    """
    try:
        with noted_warnings(run), _typed(run), _refusals(run, context):
            yield
    except AirflowSkipException:
        raise
    except AirflowException as error:
        if context is not None:
            ti = context["ti"]
            failures.keep(run, (ti.task_id, ti.map_index, ti.try_number), str(error))
        raise


@contextmanager
def _refusals(run: Run, context: Any) -> Iterator[None]:
    """Write into the audit file what somebody was not allowed."""
    try:
        yield
    except NotAllowed as error:
        with suppress(StorageError):  # it is refused all the same
            people.refused(run, starter(context) if context is not None else "", error)
        raise


@contextmanager
def _typed(run: Run) -> Iterator[None]:
    try:
        yield
    except AirflowException:
        raise
    except Exception as error:
        run.note("".join(traceback.format_exception(error)))
        if isinstance(error, PacsifierError):
            told, passes = str(error), error.retryable
            if (shown := error.shown()) != told:
                run.note(shown)
        else:
            told = f"unexpected {type(error).__name__}; the details are in {run.folder}/problems.txt"
            passes = isinstance(error, _PASSING) and not isinstance(error, _STAYING)
        kind = AirflowException if passes and not approvals.cancellation(run) else AirflowFailException
        raise kind(told) from None


class ReportLink(BaseOperatorLink):
    """From a task to the page of its run: progress, then report."""

    name = "Run and report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Worked out by the worker when a task ends."""
        return page_of_run(ti_key.dag_id, ti_key.run_id)


def page_of_run(dag_id: str, run_id: str) -> str:
    """Address of the page of a run, relative to where the user sees Airflow."""
    path = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
    return f"{path}/pacsifier/runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"


class PacsifierOperator(BaseOperator):
    """An operator that works on a run's folder within the boundary.

    Args:
        stage: where the job stands in the DAG run, see `stages.stage_of`.
    """

    operator_extra_links: Collection[BaseOperatorLink] = (ReportLink(),)

    #: Whether the task has nothing to do in a run that was cancelled.
    ends_with_run = True

    _killed = False
    _run: Run | None = None

    def __init__(self, *, stage: Stage | str | None = None, **kwargs: Any) -> None:
        # Runs take turns, see `plugins.policy`: a task has no more weight for having many behind it.
        super().__init__(**{"weight_rule": "absolute", **kwargs})
        self.stage = stage_of(stage)

    def on_kill(self) -> None:
        """Airflow wants the task to end; associations are aborted, what has arrived is kept."""
        self._killed = True

    def cancelled(self) -> bool:
        """Whether the task is to end."""
        ended = self.ends_with_run and self._run is not None and approvals.cancellation(self._run) is not None
        return self._killed or ended

    def execute(self, context: Any) -> Any:
        """Do `work` within the boundary.

        Raises:
            AirflowSkipException: the run was cancelled.
        """
        self._run = run = run_of(context)
        with boundary(run, context):
            if self.ends_with_run:
                approvals.begin_again(run, context["dag_run"].clear_number or 0)
                if decision := approvals.cancellation(run):
                    raise AirflowSkipException(f"the run was cancelled by {decision.who}")
            return self.work(*self.staged(run, context))

    def staged(self, run: Run, context: Any) -> tuple[Run, Any]:
        """The run and the context that the operator works with.

        Raises:
            AirflowSkipException: see `Stage.of`.
        """
        part, params = self.stage.of(run, context.get("params", {}))
        return part, {**context, "params": params}

    @abstractmethod
    def work(self, run: Run, context: Any) -> Any:
        """What the operator does; returns small numbers and paths only."""


class TalksToNode:
    """An operator of a task that talks to a node, and so runs in the pool of its connection (see `plugins.policy`)."""


class PrepareOperator(PacsifierOperator):
    """The first step of a job: checks the params, and cuts the work into units.

    Args:
        arguments: options of the job by name, where the stage is a `GroupStage`. What is not among them is as in the
            params of the DAG run, and else as in the form of the job's own DAG.

    Attributes:
        asks: the request of the job.
        steps: module of the job, with its `prepare`.
        kept: what its steps keep in the run's folder.
        units_of: what the units are of, for people.
    """

    template_fields = ("arguments",)
    asks: type[Any]
    steps: Any
    kept: Sequence[str] = KEPT
    units_of = "series"

    def __init__(self, *, arguments: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = arguments

    def staged(self, run: Run, context: Any) -> tuple[Run, Any]:
        """See `PacsifierOperator.staged`; the stage begins here."""
        self.stage.begin(run, context, self.asks, self.arguments or {})
        return super().staged(run, context)

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        run.forget(self.kept)  # if a line below fails, the report must not close the account of an earlier attempt
        self.stage.check_conf(context)
        params = context["params"]
        request = self.request(params)
        self._admit(run, context, request, params)
        units = self.prepare(run, request, params)
        if names := self.nodes(params):
            # For pools and weights of the steps that follow, see `plugins.policy`.
            counts = expected(run)
            items = -(-counts.get("rows", counts.get("items", 0)) // max(1, len(units)))
            reached = self.reached(params)
            told = {NODES: names, GIVERS: givers_of(reached), URGENCY: params.get(URGENCY), ITEMS: items}
            context["ti"].xcom_push(NODES, told)
            line.enter(run, context, reached, str(params.get(URGENCY)), self.task_id)
        self.log.info("%d unit(s) of %s; run folder %s", len(units), self.units_of, run.folder)
        return units

    def _admit(self, run: Run, context: Any, request: Any, params: Any) -> None:
        """Check the rights of the run, and tell the audit file that it has started."""
        needs = self.needs(request, params)
        facts = admit(run, context, needs, self.stage.owners(run), **_told_of(request))
        if not self.stage.is_of_study:
            table = getattr(request, "queryfile", None)
            people.started(run, table=Path(table) if table else None, **facts)

    def request(self, params: Any) -> Any:
        """Return the request of the job."""
        return options.request_of(self.asks, params)

    def needs(self, request: Any, params: Any) -> list[people.Need]:
        """Return the rights that the job needs, each with the node on which it needs it."""
        return []

    def nodes(self, params: Any) -> list[str]:
        """Return what the job talks to: names of connections, whose pools its tasks run in."""
        return []

    def reached(self, params: Any) -> Sequence[Node]:
        """Return the nodes themselves, see `nodes`."""
        return nodes_of(params)

    def prepare(self, run: Run, request: Any, params: Any) -> list[int]:
        """The step of the job."""
        units: list[int] = self.steps.prepare(run, request, cancelled=self.cancelled)
        return units


class UnitOperator(PacsifierOperator):
    """The step of a job that works on one unit; a run has many tasks of it, each with a label that tells them apart.

    Where the node's window closes between two series, the task defers until it opens, and then goes on where it was;
    likewise where all is done but for series that the archive recalls from slow storage, and where a run waits for the
    node that goes first (see `line`). Meanwhile it holds neither worker nor pool slot, and it is still the same try.

    Args:
        unit: number of the unit, as an earlier step gave it.

    Where the run is cancelled, the worker ends between two items (see `job.Worker`); only a task that is killed ends
    within one.

    Attributes:
        resumed: the task goes on after it was deferred.
    """

    template_fields = ("unit",)
    resumed = False

    def __init__(self, *, unit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def cancelled(self) -> bool:
        """Whether the task is killed."""
        return self._killed

    def execute(self, context: Any, event: Any = None) -> Any:
        """Do `work`, or what is left of it; `event` is that of the trigger."""
        self.resumed = event is not None
        self._ti = context["ti"]
        return super().execute(context)

    def overtaken(self, run: Run, node: Node) -> line.Overtaken:
        """Return the question whether a run waits for the node that goes before this one."""
        return line.Overtaken(run, node, self._ti)

    def work(self, run: Run, context: Any) -> dict[str, int | float]:
        """Returns sums over the unit. What cannot be done is recorded, not raised."""
        try:
            totals = self.do(run, context["params"])
        except Later as later:
            # Here, session and leases are given back.
            self.log.info("unit %d: %s", self.unit + 1, later)
            self.defer(trigger=DateTimeTrigger(moment=later.at), method_name="execute")
        self.log.info("unit %d: %s", self.unit + 1, totals)
        return totals

    @abstractmethod
    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """The step of the job."""

    def map_label(self, dag_run: Any) -> str:
        """See `params.LABEL`: rows and series by number, and modalities; empty where they cannot be read."""
        try:
            run = Run.existing(dag_run_name(dag_run.dag_id, dag_run.run_id))
            return self.labelled(self.staged(run, {})[0]) if run else ""
        except (AirflowSkipException, PacsifierError, OSError, ValueError, KeyError):
            return ""

    def labelled(self, run: Run) -> str:
        """What this task works on (see `labels`): the series of the unit."""
        return labels.of_series(run, self.unit)


class ReportOperator(PacsifierOperator):
    """The last step of a job: closes the account, writes the report, and fails if the run is not complete.

    Of a whole run it is the teardown. So it also runs where somebody marks the run as failed, or as a success, and its
    verdict is the state of the run.

    Attributes:
        steps: module of the job, with its `report`.
        result: field of the job's request that is the folder of its results.
    """

    steps: Any
    what = "run"
    result = ""

    ends_with_run = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trigger_rule": "all_done", **kwargs})
        self.multiple_outputs = self.stage.single_values
        if self.stage.is_whole:
            self.as_teardown(on_failure_fail_dagrun=True)

    def work(self, run: Run, context: Any) -> dict[str, Any]:
        """Returns the verdict, the sums, and where results and report are.

        Raises:
            AirflowFailException: the run is not complete, and that was not accepted beforehand.
        """
        params = context["params"]
        ended = approvals.ended_by(run)
        line.leave(run)
        if ended is not None and ended.word == approvals.CANCELLED and not self.stage.is_of_study:
            audit.record(audit.CANCELLED, by=ended.who, run=run.whole.name, job=context["dag"].dag_id)
        try:
            account = self.close(run, params)
        except InputError:
            if ended is None:
                raise
            self.log.info("%s", write_unbegun(run, ended))
            raise AirflowFailException(f"the {self.what} was {ended.word} by {ended.who} before it began") from None
        result = {"verdict": account.verdict, **account.totals(), "report": str(run.report)}
        if self.result:
            result["folder"] = read_json(run.folder / "request.json")[self.result]
        self.log.info("%s", result)
        if ended is not None and account.verdict in ENDED_BY_PERSON:
            raise AirflowFailException(f"the {self.what} was {ended.word} by {ended.who}; see {run.report}")
        self.judge(run)
        if account.verdict != COMPLETE and not self.accepts_incomplete(run, params):
            raise AirflowFailException(f"the {self.what} is {account.verdict}; see {run.report}")
        return result

    def close(self, run: Run, params: Any) -> Account:
        """The step of the job."""
        account: Account = self.steps.report(run)
        return account

    def staged(self, run: Run, context: Any) -> tuple[Run, Any]:
        """See `PacsifierOperator.staged`.

        Raises:
            AirflowSkipException, AirflowFailException: see `Stage.check_begun`.
        """
        self.stage.check_begun(context)
        return super().staged(run, context)

    def judge(self, run: Run) -> None:
        """Fail if the run ended for a reason that is not in its account."""

    def accepts_incomplete(self, run: Run, params: Any) -> bool:
        """Whether an incomplete run is a success."""
        return bool(params["accept_incomplete"])


def admit(
    run: Run, context: Any, needs: Sequence[people.Need], owners: Sequence[str] = (), **facts: Any
) -> dict[str, Any]:
    """Check the rights of a run before anything else is done.

    Args:
        owners: of the project, for whom a run acts that nobody has started.
        facts: of the run, for the audit file.

    Returns:
        All facts of the run for the audit file.

    Raises:
        NotAllowed: see `people.admit`.
    """
    group = context["ti"].task_id.rpartition(".")[0]
    facts["job"] = ".".join(filter(None, (context["dag"].dag_id, group)))
    facts["connections"] = list(dict.fromkeys(node.name for _, node in needs))
    user = starter(context)
    people.admit(people.person_of(run, user, owners), needs, owners=owners, **facts)
    return {"by": user, "owners": owners, **facts}


def starter(context: Any) -> str:
    """The name of the Airflow user who started the DAG run; empty: nobody did, such as the schedule.

    A backfill may run existing runs again, with another conf and still with the name of before. Such a run has the id
    of before as well, so it is recognized; it acts for nobody who has a right.
    """
    dag_run = context["dag_run"]
    if getattr(dag_run, "run_type", None) == "backfill" and not dag_run.run_id.startswith("backfill__"):
        return _WHO_BACKFILLS
    return getattr(dag_run, "triggering_user_name", None) or ""


def _told_of(request: Any) -> dict[str, Any]:
    """What the audit file tells of a request."""
    return {name: getattr(request, name, "") for name in ("project", "urgency")}


def adopt_settings() -> None:
    """Let the settings of the Airflow variable hold in this process.

    Raises:
        AirflowFailException: it cannot be used; says why.
    """
    try:
        settings.use(Variable.get(settings.VARIABLE, default={}, deserialize_json=True))
    except ConfigError as error:
        raise AirflowFailException(str(error)) from None
    except ValueError:
        raise AirflowFailException(f"the Airflow variable {settings.VARIABLE} is not valid JSON") from None


def run_of(context: Any) -> Run:
    """The folder of a DAG run, under the settings that hold for it."""
    adopt_settings()
    dag_run = context["dag_run"]
    return Run.named(dag_run_name(dag_run.dag_id, dag_run.run_id))


def data_path(params: Mapping[str, Any], name: str) -> Path:
    """A parameter that is a path, see `options.data_path`."""
    return options.data_path(params.get(name) or "", name)


def nodes_of(params: Mapping[str, Any]) -> list[ArchiveNode]:
    """The archives of a run, in order: of the connections `pacs`, or of the PACSIFIER configuration `config`.

    Raises:
        ConfigError: names what is wrong with one of them, or both are given.
    """
    if params.get("config"):
        if params["pacs"] != DEFAULT_NODE:
            raise ConfigError("both pacs and config are given; leave one of them out")
        return [read_archive(data_path(params, "config"), lambda path: options.data_path(str(path), "fetch_from"))]
    return [connected(name) for name in connections_of(params)]


def connections_of(params: Mapping[str, Any]) -> list[str]:
    """The names of the connections of `nodes_of`; none where `config` is given.

    Raises:
        ConfigError: `pacs` names none.
    """
    return [] if params.get("config") else list(node_names(params["pacs"]))


def node_of(params: Mapping[str, Any]) -> ArchiveNode:
    """The node of a run that works with one, see `nodes_of`.

    Raises:
        ConfigError: names what is wrong with it, or there are several.
    """
    node, *more = nodes_of(params)
    if more:
        raise ConfigError("pacs names several connections; give one, as only an extraction asks several")
    return node


def destination_of(params: Mapping[str, Any]) -> PacsNode | None:
    """The node of the connection `destination`, that images are moved to; None where none is given.

    Raises:
        ConfigError: names what is wrong with it.
    """
    if not params.get("destination"):
        return None
    node = connected(params["destination"])
    if not isinstance(node, PacsNode):
        raise ConfigError(
            f"{node.name}: speaks DICOMweb, and images are moved to DICOM nodes only; save and upload them"
        )
    return node


def connected(name: str) -> ArchiveNode:
    """The archive of a connection.

    Raises:
        ConfigError: names what is wrong with it.
    """
    from pacsifier_ops.hooks.archives import archive

    return archive(name)


def receiver_of(params: Mapping[str, Any]) -> Node:
    """The node that a run sends to: as `node_of`, and its connection may be of any type that can be sent to.

    Raises:
        ConfigError: names what is wrong with it, or there are several.
    """
    names = connections_of(params)
    return takes(names[0]) if len(names) == 1 else node_of(params)


def takes(name: str) -> Node:
    """The node of a connection to which objects are sent, a PACS or another destination.

    Raises:
        ConfigError: names what is wrong with it.
    """
    from pacsifier_ops.hooks.destinations import destination

    return destination(name)
