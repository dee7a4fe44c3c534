"""The boundary around every operator of this package, and what they share."""

from __future__ import annotations

import traceback
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, BaseOperatorLink, Variable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pacsifier_ops import labels, settings
from pacsifier_ops.config import PacsNode, read_config
from pacsifier_ops.errors import ConfigError, PacsifierError, WindowClosed
from pacsifier_ops.files import confined
from pacsifier_ops.operators.params import DEFAULT_NODE
from pacsifier_ops.run import Run, dag_run_name, noted_warnings


@contextmanager
def boundary(run: Run) -> Iterator[None]:
    """Nothing that may identify a patient leaves through an exception or a warning.

    Typed errors hold no values and pass with their text; whatever else happens is written to the run's
    problems.txt, and only its kind is told. Errors that may pass by themselves are left to Airflow's retries.
    """
    with noted_warnings(run):
        try:
            yield
        except PacsifierError as error:
            run.note("".join(traceback.format_exception(error)))
            kind = AirflowException if error.retryable else AirflowFailException
            raise kind(str(error)) from None
        except AirflowException:
            raise
        except Exception as error:
            run.note("".join(traceback.format_exception(error)))
            raise AirflowException(
                f"unexpected {type(error).__name__}; the details are in {run.folder}/problems.txt"
            ) from None


class ReportLink(BaseOperatorLink):
    """From a task to the page of its run: progress, then report."""

    name = "Run and report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Worked out by the worker when a task ends; relative to where the user sees Airflow."""
        path = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        return f"{path}/pacsifier/runs/{quote(ti_key.dag_id, safe='')}/{quote(ti_key.run_id, safe='')}"


class PacsifierOperator(BaseOperator):
    """An operator that works on a run's folder within the boundary."""

    operator_extra_links: Collection[BaseOperatorLink] = (ReportLink(),)

    _killed = False

    def on_kill(self) -> None:
        """Airflow wants the task to end; associations are aborted, what has arrived is kept."""
        self._killed = True

    def cancelled(self) -> bool:
        """Whether the task is to end."""
        return self._killed

    def execute(self, context: Any) -> Any:
        """Do `work` within the boundary."""
        run = run_of(context)
        with boundary(run):
            return self.work(run, context)

    @abstractmethod
    def work(self, run: Run, context: Any) -> Any:
        """What the operator does; returns small numbers and paths only."""


class MappedOperator(PacsifierOperator):
    """An operator of which a run has many tasks, each with a label that tells them apart (see `params.LABEL`)."""

    def map_label(self, dag_run: Any) -> str:
        """Rows and series by number, and modalities; empty where they cannot be read."""
        try:
            run = Run.existing(dag_run_name(dag_run.dag_id, dag_run.run_id))
            return self.labelled(run) if run else ""
        except (OSError, ValueError, KeyError):
            return ""

    @abstractmethod
    def labelled(self, run: Run) -> str:
        """What this task works on (see `labels`)."""


class UnitOperator(MappedOperator):
    """An operator that works on the series of one unit of its run, within the retrieval window of the node.

    Where that closes between two series, the task defers until it opens, and then goes on where it was. Meanwhile it
    holds neither worker nor pool slot, and it is still the same try.

    Args:
        unit: number of the unit, as an earlier step gave it.
    """

    template_fields = ("unit",)

    def __init__(self, *, unit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def execute(self, context: Any, event: Any = None) -> Any:
        """Do `work`, or what is left of it; `event` is that of the trigger."""
        run = run_of(context)
        with boundary(run):
            try:
                return self.work(run, context)
            except WindowClosed as closed:
                # Here, session and leases are given back.
                self.log.info("unit %d: %s", self.unit + 1, closed)
                self.defer(trigger=DateTimeTrigger(moment=closed.opens), method_name="execute")

    def labelled(self, run: Run) -> str:
        """The series of the unit."""
        return labels.of_series(run, self.unit)


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
    """A parameter that is a path, confined to the data root.

    Raises:
        PathRefused: it leads outside.
        ConfigError: it is empty.
    """
    if not params.get(name):
        raise ConfigError(f"{name} is empty; give a path below the data root")
    return confined(params[name], settings.data_root(), name)


def node_of(params: Mapping[str, Any]) -> PacsNode:
    """The PACS of a run: of the connection `pacs`, or of the PACSIFIER configuration `config`.

    Raises:
        ConfigError: names what is wrong with it, or both are given.
    """
    if params.get("config"):
        if params["pacs"] != DEFAULT_NODE:
            raise ConfigError("both pacs and config are given; leave one of them out")
        return read_config(data_path(params, "config"))
    return _connection(params["pacs"])


def destination_of(params: Mapping[str, Any]) -> PacsNode | None:
    """The node of the connection `destination`, that images are moved to; None where none is given.

    Raises:
        ConfigError: names what is wrong with it.
    """
    return _connection(params["destination"]) if params.get("destination") else None


def _connection(name: str) -> PacsNode:
    from pacsifier_ops.hooks.dicom import DicomHook

    return DicomHook(name).get_conn()
