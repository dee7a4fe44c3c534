"""### Nightly: run the query tables in the inbox, and the standing projects

1. **collect** takes the query tables out of `inbox/`, each with its options file if it has one. It waits up to ten
   minutes for files that are still being copied; later ones stay there for the next night. Files that cannot be used go
   to `rejected/`, with `reasons.txt`.
2. **start** starts one run of `pacsifier_extract` for each table. A submission is never run twice.
3. **projects** reads the standing projects, and **start_projects** starts one run of each that is switched on: of
   `pacsifier_extract`, or of `pacsifier_study` if the folder has a `study.yaml`.
4. **finish** moves the started submissions to `done/`, with `result.json`, which has the paths of images and report. It
   fails if a project cannot be used, or a run could not be started; all others have started.

**Results.** The folders are those in `nightly/` below the data root; images go to `results/`, unless the options say
otherwise. Each run of `pacsifier_extract` has a report of its own.

**To start a night now**, trigger this DAG. A project that has run since noon is not started again.
"""

from datetime import timedelta

from airflow.sdk import DAG

from pacsifier_ops.operators.nightly import (
    NightlyCollectOperator,
    NightlyFinishOperator,
    NightlyProjectsOperator,
    NightlyStartOperator,
    timetable,
)
from pacsifier_ops.operators.params import common

LABEL = "{{ task.trigger_run_id }}"

with DAG(
    "pacsifier_nightly",
    description="Start the extractions that wait in the inbox, and the standing projects",
    doc_md=__doc__,
    schedule=timetable(),
    catchup=False,
    max_active_runs=1,
    tags=["pacsifier", "dicom"],
    # A run starts others, and ends in minutes. One that hangs must not be in the way of the next night.
    **common("2.0.0", longest=timedelta(hours=12)),
):
    collect = NightlyCollectOperator(task_id="collect")
    start = NightlyStartOperator.partial(task_id="start", map_index_template=LABEL).expand_kwargs(collect.output)
    projects = NightlyProjectsOperator(task_id="projects")
    start_projects = NightlyStartOperator.partial(task_id="start_projects", map_index_template=LABEL).expand_kwargs(
        projects.output
    )
    finish = NightlyFinishOperator(task_id="finish", trigger_rule="all_done")

    [start, start_projects] >> finish
