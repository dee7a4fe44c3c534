"""Nightly runs: every evening, files in certain folders become runs of the extract DAG or the study DAG.

| folder                   | content                                                                             |
|--------------------------|-------------------------------------------------------------------------------------|
| `inbox/`                 | submissions: a query table, and optionally an options file of the same name         |
| `claimed/<id>/`          | submissions whose run is not started yet; request and run have the same id          |
| `done/<night>-<id>/`     | submissions whose run was started, with `result.json`, which says where results are |
| `rejected/<night>-<id>/` | submissions that cannot be used, with `reasons.txt`                                 |
| `projects/<slug>/`       | standing projects, which run once a night: `project.yaml` and a query table, or     |
|                          | `study.yaml`                                                                        |

Submissions are moved from folder to folder by renames. So each is in exactly one folder, even if a run is killed.
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
#: Folder below the data root for the output folders of runs whose options give none.
RESULTS = "results"
#: Files that are written for the people who hand something in, beside their own files.
RESULT, REASONS = "result.json", "reasons.txt"


def night_of(moment: dt.datetime) -> str:
    """Return the night of a moment, as the date of its evening (ISO 8601). Nights change at noon, local time.

    Raises:
        ConfigError: the setting `timezone` is not a time zone.
    """
    local = moment.astimezone(settings.timezone())
    return (local - dt.timedelta(hours=12)).date().isoformat()


class Runs(Protocol):
    """The runs of these DAGs in Airflow."""

    def exists(self, run_id: str) -> bool:
        """Return whether a run has this id."""

    def is_running(self, run_id: str) -> bool:
        """Return whether a run has this id and has not ended."""


@dataclass(frozen=True)
class Start:
    """A run to be started, with its params."""

    run_id: str
    conf: Mapping[str, Any]
    dag_id: str = EXTRACT

    def result(self, page_root: str) -> dict[str, str]:
        """Return the content of `result.json`: run, output folder, report and page.

        Args:
            page_root: URL of Airflow for its users.
        """
        run = settings.state_root() / "runs" / dag_run_name(self.dag_id, self.run_id)
        out = self.conf.get("out_directory")  # missing for a study, whose file gives it
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            **({"out_directory": str(settings.data_root() / out)} if out else {}),
            "report": str(run / "report.html"),
            "page": f"{page_root.rstrip('/')}/pacsifier/runs/{self.dag_id}/{quote(self.run_id, safe='')}",
        }


class Folders:
    """The folders of the nightly runs. Missing ones are created, for the owner only.

    New files and folders get the permissions of the inbox: whoever may hand in a submission may read the answer.

    Args:
        root: the folder that contains them.

    Raises:
        StorageError: a folder cannot be created.
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
        """Create the folder of a submission."""
        folder = self.claimed / identity
        folder.mkdir()
        folder.chmod(self.mode)
        return folder

    def write_answer(self, path: Path, text: str) -> None:
        """Write a text file for people. Bytes in names of files that are not text are escaped."""
        write_atomic(path, text.encode("utf-8", "backslashreplace"), self.mode & 0o666)

    def write_result(self, folder: Path, start: Start, page_root: str) -> None:
        """Write the `result.json` of a submission or a project.

        Args:
            folder: folder of the submission or the project.
            start: its run.
            page_root: see `Start.result`.
        """
        self.write_answer(folder / RESULT, json.dumps(start.result(page_root), indent=2) + "\n")
