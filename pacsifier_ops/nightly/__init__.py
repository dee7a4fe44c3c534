"""Nightly runs: what lies in a folder in the evening becomes runs of the extract DAG, or of the study DAG.

| folder                   | what                                                                           |
|--------------------------|--------------------------------------------------------------------------------|
| `inbox/`                 | people put a query table there, and beside it an options file of the same name |
| `claimed/<id>/`          | submissions that are taken and not yet started; the id is their identity       |
| `done/<night>-<id>/`     | those that were started, with `result.json`, which leads to the results        |
| `rejected/<night>-<id>/` | those that cannot be used, with `reasons.txt`                                  |
| `projects/<slug>/`       | standing projects: `project.yaml` and a query table, or `study.yaml`, a study; |
|                          | each runs once a night                                                         |

A submission goes from folder to folder by renames: it is in exactly one of them, whenever a run is killed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import private_folder, storage_errors, write_atomic
from pacsifier_ops.runs.folder import dag_run_name

#: The DAGs whose runs are started.
EXTRACT, STUDY = "pacsifier_extract", "pacsifier_study"
#: Output folder of those that name none: a folder in this one, below the data root.
RESULTS = "results"
#: What people read, beside their files.
RESULT, REASONS = "result.json", "reasons.txt"


def night_of(moment: dt.datetime) -> str:
    """The night that a moment belongs to, as the date of its evening: nights change at noon, where the hospital is.

    Raises:
        ConfigError: the setting `timezone` names none.
    """
    local = moment.astimezone(settings.timezone())
    return (local - dt.timedelta(hours=12)).date().isoformat()


class Runs(Protocol):
    """What is known of the runs of these DAGs, by their ids."""

    def exists(self, run_id: str) -> bool:
        """Whether there is one."""

    def goes_on(self, run_id: str) -> bool:
        """Whether there is one that has not ended."""


@dataclass(frozen=True)
class Start:
    """A run to be started."""

    run_id: str
    conf: Mapping[str, Any]
    dag_id: str = EXTRACT

    def result(self, page_root: str) -> dict[str, str]:
        """What leads a person from the submission to its results.

        Args:
            page_root: address of Airflow, as its users see it.
        """
        run = settings.state_root() / "runs" / dag_run_name(self.dag_id, self.run_id)
        out = self.conf.get("out_directory")  # the file of a study says it
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            **({"out_directory": str(settings.data_root() / out)} if out else {}),
            "report": str(run / "report.html"),
            "page": f"{page_root.rstrip('/')}/pacsifier/runs/{self.dag_id}/{quote(self.run_id, safe='')}",
        }


class Folders:
    """The folders of the nightly runs; made, for the owner only, where they are missing.

    Whatever a run adds to them gets the permissions of the inbox, so that who may put something in may read the answer.

    Raises:
        StorageError: one cannot be made.
    """

    def __init__(self, root: Path) -> None:
        with storage_errors("the folder of the nightly runs"):
            self.inbox = private_folder(root / "inbox")
            self.claimed = private_folder(root / "claimed")
            self.rejected = private_folder(root / "rejected")
            self.done = private_folder(root / "done")
            self.projects = private_folder(root / "projects")
            self.mode = self.inbox.stat().st_mode & 0o7777

    def claim(self, identity: str) -> Path:
        """Make the folder of a submission."""
        folder = self.claimed / identity
        folder.mkdir()
        folder.chmod(self.mode)
        return folder

    def tell(self, path: Path, text: str) -> None:
        """Write a file that people read; names of files may hold what is no character."""
        write_atomic(path, text.encode("utf-8", "backslashreplace"), self.mode & 0o666)

    def tell_result(self, folder: Path, start: Start, page_root: str) -> None:
        """Write where the results of a submission or a project are."""
        self.tell(folder / RESULT, json.dumps(start.result(page_root), indent=2) + "\n")
