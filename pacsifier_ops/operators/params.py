"""What the trigger forms of several DAGs ask for. Made anew for each DAG: a run may write into its params."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param

from pacsifier_ops.base.errors import InputError, not_known
from pacsifier_ops.deid.whose import FOLDER, IDENTITIES, PATIENT_ID, STUDY
from pacsifier_ops.extract.run import ALL, FIRST, SEARCH
from pacsifier_ops.pseudonyms.secret import PROJECT_PATTERN
from pacsifier_ops.query.reading import CHOICES
from pacsifier_ops.runs.approvals import LONGEST_PATIENCE, PATIENCE

#: How tasks are tried again by Airflow, where the error is one that may pass.
RETRIES: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True}


#: `map_index_template` of mapped tasks: rendered when a task begins, and again when it has ended.
LABEL = "{{ task.map_label(dag_run) }}"

#: Connection of a run that names none.
DEFAULT_NODE = "pacs_default"

#: Sections of the forms.
WHAT, WHERE_FROM, WHERE_TO, HOW = "What", "From which PACS", "Where to", "How strict"


def node_params(
    title: str = "PACS",
    description: str = "Id of a connection of type dicom.",
    section: str = WHERE_FROM,
    several: bool = False,
) -> dict[str, Param]:
    """The node of a run, or `several`: see `base.nodes_of`."""
    return {
        "pacs": Param(
            DEFAULT_NODE,
            type=["string", "array"] if several else "string",
            minLength=1,
            title=title,
            description=description,
            section=section,
        ),
        "config": Param(
            None,
            type=["null", "string"],
            title="PACSIFIER configuration",
            description="Instead of the connection: path of a PACSIFIER config.json below the data root.",
            section=section,
        ),
    }


def method() -> Param:
    """How images are fetched."""
    return Param(
        None,
        enum=[None, "auto", "get", "move"],
        values_display={
            "null": "as the connection says",
            "auto": "auto: what fits the PACS and the series",
            "get": "C-GET: over our own association",
            "move": "C-MOVE: to our receiver",
        },
        title="Method",
        description="How images are fetched, where they are.",
        section=WHERE_FROM,
    )


#: What a form says of the archives of an extraction.
ARCHIVES = "Id of a connection of type dicom; or several in the order in which they are asked, with commas: vna, pacs."


def search() -> Param:
    """Of several archives, how many are asked for a row."""
    return Param(
        FIRST,
        enum=[*SEARCH],
        values_display={
            FIRST: "first: one after the other, until a row is found",
            ALL: "all: every one, for each row; what several hold is fetched once",
        },
        title="Several archives",
        description="How many of the archives named above are asked for a row.",
        section=WHERE_FROM,
    )


def window() -> Param:
    """When images may be transferred."""
    return Param(
        None,
        type=["null", "string"],
        title="Window",
        description="Times of day at which images may be transferred, such as 20:00-06:00. Empty: as the connection "
        "says.",
        section=WHERE_FROM,
    )


def reading() -> dict[str, Param]:
    """How the query table is read: see `query.reading.Reading`. Empty: as was said when the request was taken in."""
    return {
        "sheet": path(
            "Sheet",
            "Only of a workbook: number of the sheet with the table, or its name. Empty: the one that is seen and "
            "names columns of a query table.",
            WHAT,
        ),
        "hidden_rows": Param(
            None,
            enum=[None, *CHOICES["hidden_rows"]],
            values_display={
                "null": "as handed in, else refuse",
                "refuse": "refuse: they are bad rows",
                "include": "include: they count like the others",
                "skip": "skip: they are left out",
            },
            title="Hidden rows",
            description="Only of a workbook: what becomes of rows that a filter, or somebody, has hidden.",
            section=WHAT,
        ),
        "date_format": Param(
            None,
            enum=[None, *CHOICES["date_format"]],
            values_display={"null": "as handed in, else YYYYMMDD only", **{one: one for one in CHOICES["date_format"]}},
            title="Dates",
            description="How the table has dates that are not YYYYMMDD; nothing is guessed.",
            section=WHAT,
        ),
        "match": Param(
            None,
            enum=[None, *CHOICES["match"]],
            values_display={
                "null": "as handed in, else wildcards",
                "wildcards": "wildcards: * is any characters, ? any one",
                "exact": "exact: * and ? are characters like all others",
            },
            title="Wildcards",
            description="For PatientIDs that hold * or ?: exact.",
            section=WHAT,
        ),
    }


def patience(section: str) -> Param:
    """How long a person's answer is waited for."""
    return Param(
        PATIENCE,
        type="number",
        exclusiveMinimum=0,
        maximum=LONGEST_PATIENCE,
        title="Wait for an answer",
        description="Hours that a person's answer is waited for; then the run ends, and nothing is done.",
        section=section,
    )


def project(description: str, section: str) -> Param:
    """Whose secret and linkage hold."""
    return Param(
        "default",
        type="string",
        pattern=f"^{PROJECT_PATTERN}$",
        title="Project",
        description=description,
        section=section,
    )


def path(title: str, description: str, section: str) -> Param:
    """A path below the data root, or anything else in words, that may be left out."""
    return Param(None, type=["null", "string"], title=title, description=description, section=section)


def pseudonym_source(section: str) -> dict[str, Param]:
    """Who says who becomes whom."""
    return {
        "source": Param(
            "de-id",
            enum=["de-id", "custom", "local"],
            values_display={
                "de-id": "de-id: the De-ID service",
                "custom": "custom: a mapping file",
                "local": "local: derived from the project's secret, nobody is asked",
            },
            title="Pseudonyms",
            description="Who says who becomes whom.",
            section=section,
        ),
        "deid": Param(
            "deid_default",
            type="string",
            minLength=1,
            title="De-ID service",
            description="Only with de-id: id of a connection of type deid_api.",
            section=section,
        ),
        "mappingfile": path(
            "Mapping file",
            "Only with custom: path below the data root of a csv file with a line old,new for each patient.",
            section,
        ),
    }


def identity(section: str) -> Param:
    """What tells whose an object is that has no PatientID."""
    return Param(
        PATIENT_ID,
        enum=[*IDENTITIES],
        values_display={
            PATIENT_ID: "patient_id: nothing else does, and it is quarantined",
            FOLDER: "folder: the topmost folder that it lies in",
            STUDY: "study: its Study Instance UID",
        },
        title="Without PatientID",
        description="What tells whose an object is that has no PatientID, where all objects of the folder or study "
        "agree.",
        section=section,
    )


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
