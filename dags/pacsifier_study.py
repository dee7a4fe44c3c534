"""### Study: from a query table to a data set that may be shared, in one accountable run

1. **set_up** reads the project file, or this form, and checks all of it.
2. **extract**, **pseudonyms**, **anonymize** and **dumps** do what the DAGs of these names do. A cohort above the
   limits of its connection waits for a person's word before anything is fetched.
3. **check** lists every file of the data set with its digest, and searches all of it for identifiers of the cohort.
4. **approve** asks a person, unless limits that were given beforehand release the data set. **release** puts exactly
   what was approved into `released/`; nothing else leads there, and all that follows reads from there.
5. **dicomdir**, **upload**, **karnak**, **karnak_upload** and **move** hand over, where a destination is given.
6. **remove** lists what of the identified copy is verified as delivered, and removes it if that was asked for.
7. **report** closes the books of the whole chain: one report for the data manager, one that goes with the data.

Run it again and only what is new is fetched, de-identified and handed over, with the same pseudonyms and shifts.

**Results.** Progress, questions and reports are at *Results* on the run's page. The data set is in `released/` of the
study's folder. Each release is an event of the asset `pacsifier_<project>`, so that other DAGs can start from it.
"""

from airflow.sdk import DAG, AssetAlias, Param, TaskGroup, chain

from pacsifier_ops.operators.groups import (
    deidentification,
    extraction,
    file_set,
    karnak_tagging,
    pseudonymization,
    relocation,
    sending,
)
from pacsifier_ops.operators.params import (
    ARCHIVES,
    HOW,
    RETRIES,
    WHAT,
    WHERE_FROM,
    WHERE_TO,
    accept_incomplete,
    identity,
    method,
    path,
    patience,
    project,
    pseudonym_source,
    reading,
    search,
    window,
)
from pacsifier_ops.operators.study import (
    DATA_SETS,
    ApproveReleaseOperator,
    StudyCheckOperator,
    StudyReleaseOperator,
    StudyRemoveOperator,
    StudyReportOperator,
    StudySetUpOperator,
    StudyStage,
)

BECOMES, RELEASE = "What it becomes", "Who releases it"


PARAMS = {
    "project_file": path(
        "Project file",
        "Path below the data root of a YAML file that says all that follows; leave the rest as it is then.",
        WHAT,
    ),
    "project": project("Names the study; a patient has another pseudonym in every project.", WHAT),
    "queryfile": path(
        "Query table",
        "The id of a request from the page Extract (req-…), or the path of a csv or xlsx file below the "
        "data root. What is typed here stays in Airflow: where a path could identify somebody, give an id.",
        WHAT,
    ),
    **reading(),
    "strict": Param(
        False,
        type="boolean",
        title="Strict",
        description="Any bad row ends the run before the PACS is asked. Otherwise the good rows run.",
        section=WHAT,
    ),
    "without": Param(
        [],
        type="array",
        items={"type": "string", "enum": ["extract", "pseudonyms", "anonymize", "dumps"]},
        examples=["extract", "pseudonyms", "anonymize", "dumps"],
        title="Without",
        description="Steps that the study does without.",
        section=WHAT,
    ),
    "folder": path("Folder", "Of all that the study has, a path below the data root. Empty: studies/<project>.", WHAT),
    "pacs": Param(
        "pacs_default",
        type=["string", "array"],
        minLength=1,
        title="PACS",
        description=ARCHIVES,
        section=WHERE_FROM,
    ),
    "search": search(),
    "method": method(),
    "window": window(),
    "max_series": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=10**9,
        title="Largest cohort",
        description="Series above which a person is asked. Empty: as the connection says, whose other limits hold as "
        "well.",
        section=WHERE_FROM,
    ),
    "approval": Param(
        True,
        type="boolean",
        title="Ask above the limits",
        description="A larger cohort waits for a person's word. Otherwise it ends the run.",
        section=WHERE_FROM,
    ),
    **pseudonym_source(BECOMES),
    "profile": Param(
        "basic",
        type="string",
        minLength=1,
        title="Profile",
        description="Of the de-identification: default, basic, research or pacsifier, options of PS3.15 upon it after "
        "plus signs, such as pacsifier+device, or the path of a YAML file below the data root.",
        section=BECOMES,
    ),
    "devices": path(
        "Device catalogue",
        "Path below the data root of a JSON file of what to black out. Empty: the one that comes with it.",
        BECOMES,
    ),
    "identity": identity(BECOMES),
    "delete_identifiable": Param(
        True,
        type="boolean",
        title="Delete identifiable",
        description="Objects that likely show who it is, such as screen saves, are excluded.",
        section=BECOMES,
    ),
    "release": Param(
        "ask",
        enum=["ask", "limit", "nobody"],
        values_display={
            "ask": "ask: a person",
            "limit": "limit: the limits below, and a person beyond them",
            "nobody": "nobody: this run ends before the release",
        },
        title="Release",
        description="Whose word releases the data set.",
        section=RELEASE,
    ),
    "release_by": Param(
        "anybody",
        enum=["anybody", "another"],
        values_display={
            "anybody": "anybody: whoever Airflow lets answer",
            "another": "another: not who has started the run",
        },
        title="Released by",
        description="Four eyes. A run that was scheduled has been started by nobody.",
        section=RELEASE,
    ),
    "approvers": Param(
        [],
        type="array",
        items={"type": "string"},
        title="Approvers",
        description="Airflow users who may release, by name. Empty: whoever Airflow lets answer.",
        section=RELEASE,
    ),
    "most_missing": Param(
        0,
        type="integer",
        minimum=0,
        maximum=10**9,
        title="Missing objects",
        description="Only with limit: so many at most.",
        section=RELEASE,
    ),
    "most_quarantined": Param(
        0,
        type="integer",
        minimum=0,
        maximum=10**9,
        title="Objects in quarantine",
        description="Only with limit: so many at most.",
        section=RELEASE,
    ),
    "patience": patience(RELEASE),
    "dicomdir": Param(
        False,
        type="boolean",
        title="DICOMDIR",
        description="Make a DICOM file-set of what is released.",
        section=WHERE_TO,
    ),
    "zip": Param(
        False, type="boolean", title="Zip", description="Only with DICOMDIR: pack the file-set.", section=WHERE_TO
    ),
    "volume_size": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=10**9,
        title="Volumes",
        description="Only with DICOMDIR: MB of each volume. Empty: one volume.",
        section=WHERE_TO,
    ),
    "upload": path("Upload", "Connection of the node that what is released is sent to.", WHERE_TO),
    "karnak": path(
        "Karnak gateway",
        "Connection of a gateway that de-identifies itself: identified copies with Karnak tags are sent there.",
        WHERE_TO,
    ),
    "album_name": path("Album", "Only with a Karnak gateway: name of the album.", WHERE_TO),
    "move": path(
        "Move", "Connection of a node that the PACS sends the originals to, identified as they are.", WHERE_TO
    ),
    "remove_identified": Param(
        "list",
        enum=["keep", "list", "remove"],
        values_display={
            "keep": "keep: it stays",
            "list": "list: it stays, and the report tells what could go",
            "remove": "remove: what is verified as delivered goes",
        },
        title="Identified copy",
        description="What becomes of it at the end.",
        section=HOW,
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_study",
    description="From a query table to a de-identified, checked and released data set",
    doc_md=__doc__,
    schedule=None,
    # As in pacsifier_extract: runs that wait must not keep others from starting.
    max_active_runs=100,
    params=PARAMS,
    tags=["pacsifier", "dicom", "de-identification"],
    default_args=RETRIES,
):
    set_up = StudySetUpOperator(task_id="set_up")
    with TaskGroup("extract") as extract:
        extraction(StudyStage.EXTRACT)
    with TaskGroup("pseudonyms") as pseudonyms:
        pseudonymization(StudyStage.PSEUDONYMS)
    with TaskGroup("anonymize") as anonymize:
        deidentification(StudyStage.ANONYMIZE)
    with TaskGroup("dumps") as dumps:
        relocation(StudyStage.DUMPS)
    check = StudyCheckOperator(task_id="check", trigger_rule="none_failed")
    approve = ApproveReleaseOperator(task_id="approve")
    release = StudyReleaseOperator(task_id="release", outlets=[AssetAlias(DATA_SETS)])
    with TaskGroup("dicomdir") as dicomdir:
        file_set(StudyStage.DICOMDIR)
    with TaskGroup("upload") as upload:
        sending(StudyStage.UPLOAD)
    with TaskGroup("karnak") as karnak:
        karnak_tagging(StudyStage.KARNAK)
    with TaskGroup("karnak_upload") as karnak_upload:
        sending(StudyStage.KARNAK_UPLOAD)
    with TaskGroup("move") as move:
        extraction(StudyStage.MOVE)
    remove = StudyRemoveOperator(task_id="remove", trigger_rule="all_done")
    report = StudyReportOperator(task_id="report", trigger_rule="all_done")

    chain(set_up, extract, pseudonyms, anonymize, dumps, check, approve, release)
    release >> [dicomdir, upload, karnak, move] >> remove
    karnak >> karnak_upload >> remove >> report
