"""The boundary around every operator of this package, and what they share."""

from __future__ import annotations

import traceback
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pacsifier_ops import settings
from pacsifier_ops.config import PacsNode, read_config
from pacsifier_ops.errors import ConfigError, PacsifierError
from pacsifier_ops.files import confined
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


class PacsifierOperator(BaseOperator):
    """An operator that works on a run's folder within the boundary."""

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


class UnitOperator(PacsifierOperator):
    """An operator that works on the series of one unit of its run.

    Args:
        unit: number of the unit, as an earlier step gave it.
    """

    template_fields = ("unit",)

    def __init__(self, *, unit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit


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
        ConfigError: names what is wrong with it.
    """
    if params.get("config"):
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
