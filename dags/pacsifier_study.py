"""### Study: from a query table to a data set that may be shared, in one accountable run

1. **set_up** reads and checks the project file, or this form.
2. **extract**, **pseudonyms**, **anonymize** and **dumps** run the jobs of the DAGs of these names. A cohort above the
   limits of its connection waits for a person's approval before any image is fetched.
3. **check** lists every file of the data set with its digest, and searches all files for identifiers of the cohort.
4. **approve** asks a person, unless the limits of the study allow the release. **release** puts exactly the approved
   files into `released/`. With `release_to`, the step of that name sends them to a store instead, and **release** waits
   until it has confirmed all. Later steps hand over what is released, and nothing else.
5. **dicomdir**, **convert**, **upload**, **karnak**, **karnak_upload** and **move** hand over, if that is asked for.
6. **remove** lists the identified files that are verified as delivered, and removes them if that was asked for.
7. **report** closes the account of the whole chain: one report for the data manager, one that goes with the data.

A second run fetches, de-identifies and hands over only what is new, with the same pseudonyms and shifts.

**Results.** Progress, questions and reports are at *Results* on the run's page. The data set is in `released/` of the
study's folder. Each release is an event of the asset `pacsifier_<project>`, so that other DAGs can start from it, and
one of the asset `pacsifier_releases`, with the partition key `<project>/<night>` and the list of new files.
"""

from airflow.sdk import DAG, AssetAlias, TaskGroup

from pacsifier_ops.operators.groups import (
    conversion,
    deidentification,
    extraction,
    file_set,
    in_turn,
    karnak_tagging,
    moving_dumps,
    pseudonymization,
    sending,
)
from pacsifier_ops.operators.params import common, form
from pacsifier_ops.operators.study import (
    DATA_SETS,
    RELEASES,
    ApproveReleaseOperator,
    StudyCheckOperator,
    StudyReleaseOperator,
    StudyRemoveOperator,
    StudyReportOperator,
    StudySetUpOperator,
    StudyStage,
)
from pacsifier_ops.study.project import Study

with DAG(
    "pacsifier_study",
    description="From a query table to a de-identified, checked and released data set",
    doc_md=__doc__,
    schedule=None,
    # As in pacsifier_extract: waiting runs must not prevent others from starting.
    max_active_runs=100,
    params=form(Study),
    tags=["pacsifier", "dicom", "de-identification"],
    **common("2.0.0"),
):
    set_up = StudySetUpOperator(task_id="set_up")
    with TaskGroup("extract") as extract:
        extraction(StudyStage.EXTRACT)
    with TaskGroup("pseudonyms") as pseudonyms:
        pseudonymization(StudyStage.PSEUDONYMS)
    with TaskGroup("anonymize") as anonymize:
        deidentification(StudyStage.ANONYMIZE)
    with TaskGroup("dumps") as dumps:
        moving_dumps(StudyStage.DUMPS)
    check = StudyCheckOperator(task_id="check", trigger_rule="none_failed")
    approve = ApproveReleaseOperator(task_id="approve")
    with TaskGroup("release_to") as release_to:
        sending(StudyStage.RELEASE_TO)
    release = StudyReleaseOperator(
        task_id="release", trigger_rule="none_failed", outlets=[AssetAlias(DATA_SETS), RELEASES]
    )
    with TaskGroup("dicomdir") as dicomdir:
        file_set(StudyStage.DICOMDIR)
    with TaskGroup("convert") as convert:
        conversion(StudyStage.CONVERT)
    with TaskGroup("upload") as upload:
        sending(StudyStage.UPLOAD)
    with TaskGroup("karnak") as karnak:
        karnak_tagging(StudyStage.KARNAK)
    with TaskGroup("karnak_upload") as karnak_upload:
        sending(StudyStage.KARNAK_UPLOAD)
    with TaskGroup("move") as move:
        extraction(StudyStage.MOVE)
    remove = StudyRemoveOperator(task_id="remove", trigger_rule="all_done")
    report = StudyReportOperator(task_id="report")

    in_turn(set_up, extract, pseudonyms, anonymize, dumps, check, approve, release_to, release)
    release >> [dicomdir, convert, upload, karnak, move] >> remove
    in_turn(karnak, karnak_upload, remove, report)
