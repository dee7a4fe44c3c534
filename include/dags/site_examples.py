"""Four DAGs as a site would write them. Copy what you need into your own folder of DAGs, and change it there.

What a job can be asked for is what the form of its own DAG shows, by the same names; see docs/own-dags.md.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, Param, PartitionedAssetTimetable, task

from pacsifier_ops.airflow import deidentify, extract, upload
from pacsifier_ops.base import settings


@task
def convert(folder: str, verdict: str) -> str:
    """A conversion of your own: here, a list of the files. Returns the folder of its results."""
    results = Path(folder).parent / "converted"
    results.mkdir(exist_ok=True)
    names = sorted(path.name for path in Path(folder).rglob("*.dcm"))
    (results / "files.txt").write_text("\n".join([verdict, *names, ""]))
    return str(results)


# On request: fetch, de-identify, convert, send. The query table is asked for when the DAG is triggered.
with DAG("site_convert", schedule=None, params={"queryfile": Param(type="string", minLength=1)}):
    fetched = extract(out_directory="convert/identified", info=False)
    made = deidentify(
        in_folder=fetched.output["folder"], out_folder="convert/de-identified", project="convert", profile="research"
    )
    converted = convert(made.output["folder"], made.output["verdict"])
    sent = upload(upload_directory=made.output["folder"], pacs="research", out_directory="convert/logs")
    converted >> sent

# Every night, from two archives: each has its pool and its window, and they do not wait for each other.
with DAG("site_nightly", schedule="0 20 * * *", start_date=dt.datetime(2026, 1, 1), catchup=False):
    main = extract("main_archive", queryfile="queries/nightly.csv", pacs="pacs_default", out_directory="archives/main")
    old = extract("old_archive", queryfile="queries/nightly.csv", pacs="pacs_old", out_directory="archives/old")

    @task
    def compare(main_series: int, old_series: int) -> None:
        """Say how much each archive had."""
        print(f"{main_series} series in the main archive, {old_series} in the old one")

    compare(main.output["series"], old.output["series"])

# Whenever the study `demo` has released data.
with DAG("site_after_release", schedule=[Asset(name="pacsifier_demo", uri="pacsifier://data-sets/demo")]):

    @task
    def count() -> int:
        """Tell how many objects the study has released so far."""
        return len(list((settings.data_root() / "studies" / "demo" / "released").rglob("*.dcm")))

    count()

# What is new in each release of any study: a run for each, with the partition key `<project>/<night>`.
RELEASES = Asset("pacsifier_releases")
with DAG("site_new_files", schedule=PartitionedAssetTimetable(assets=RELEASES)):

    @task
    def new_files(triggering_asset_events: Any = None) -> dict[str, int]:
        """Tell how many files are new, by project. Their paths are below the `released` of the study."""
        return {
            event.extra["project"]: len(set(Path(event.extra["new_files"]).read_text(encoding="utf-8").splitlines()))
            for event in triggering_asset_events[RELEASES]
        }

    new_files()
