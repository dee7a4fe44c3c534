"""Standing projects: each enabled project runs once a night.

Its output folder is the same every night, so only new images are fetched.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import storage_errors
from pacsifier_ops.base.given import Unusable, json_of, read_given
from pacsifier_ops.nightly import REASONS, RESULT, RESULTS, STUDY, Folders, Runs, Start
from pacsifier_ops.nightly.inbox import PAUSE, complete_files, settled_in
from pacsifier_ops.nightly.options import PROJECT, Connect, read_nightly_options, read_table, run_conf
from pacsifier_ops.query.options import Refused
from pacsifier_ops.query.reading import Reading, given
from pacsifier_ops.study.project import read_project

#: A folder with one of these files is a project: an extraction, or a study.
PROJECT_FILE, STUDY_FILE = "project.yaml", "study.yaml"
#: Names of the folders of projects.
SLUG = re.compile(r"[a-z0-9-]{1,40}")


@dataclass
class ProjectRuns:
    """The projects of a night.

    Attributes:
        starts: the runs to be started.
        disabled: number of projects that are switched off.
        already_run: number of projects that have run this night, or whose last run has not ended.
        broken: number of projects that cannot be used; the reasons are in their folders.
        changing: number of projects that are left out because a file of theirs may still be written.
        wait: nothing was checked: seconds after which all files are complete, if they do not change any more.
    """

    starts: list[Start] = field(default_factory=list)
    disabled: int = 0
    already_run: int = 0
    broken: int = 0
    changing: int = 0
    wait: float = 0.0


class _Changing(Refused):
    """A file of a project may still be written."""


def check_projects(
    folders: Folders,
    night: str,
    connect: Connect,
    runs: Runs,
    page_root: str = "",
    pause: float = PAUSE,
    may_wait: bool = False,
) -> ProjectRuns:
    """Find the projects that are to run in a night, and keep their query tables as requests.

    A project that cannot be used does not affect the others.

    Args:
        folders: the folders of the nightly runs.
        night: date of the night.
        connect: checks names of connections.
        runs: the runs in Airflow.
        page_root: see `Start.result`.
        pause: see `complete_files`.
        may_wait: if a file may still be written, check nothing, and return how long to wait.

    Raises:
        StorageError: a folder cannot be read or written.
    """
    with storage_errors("the folder of the projects"):
        projects = [folder for folder in sorted(folders.projects.iterdir()) if _is_project(folder)]
        files = [path for folder in projects for path in _files(folder)]
        complete = complete_files(files, pause)
    if may_wait and (late := set(files) - complete):
        return ProjectRuns(wait=settled_in(late))
    checks = _Checks(folders, night, connect, runs, page_root, complete)
    for folder in projects:
        try:
            checks.check(folder)
        except OSError:  # the folder belongs to another user, and Airflow's user may not read or write it
            checks.found.broken += 1
    return checks.found


def _is_project(folder: Path) -> bool:
    try:
        files = folder / PROJECT_FILE, folder / STUDY_FILE
        return not folder.is_symlink() and folder.is_dir() and any(file.is_file() for file in files)
    except OSError:
        return True  # counts as a broken project


def _files(folder: Path) -> list[Path]:
    """Return the files of a project without links, which may lead to what its owner may not read, and our answers."""
    try:
        paths = [path for path in folder.iterdir() if path.name not in (RESULT, REASONS)]
        return [path for path in paths if not path.name.startswith(".") and not path.is_symlink()]
    except OSError:
        return []


@dataclass
class _Checks:
    """Checks the projects of a night.

    Attributes:
        folders, night, connect, runs, page_root: see `check_projects`.
        complete: the files that are no longer being written.
        found: the result so far.
    """

    folders: Folders
    night: str
    connect: Connect
    runs: Runs
    page_root: str
    complete: Collection[Path]
    found: ProjectRuns = field(default_factory=ProjectRuns)

    def check(self, folder: Path) -> None:
        """Check a project, and write its answer into its folder.

        Raises:
            OSError: the folder cannot be read or written.
        """
        try:
            start = self._start_of(folder)
        except Refused as error:
            self.folders.write_answer(folder / REASONS, "".join(f"{reason}\n" for reason in error.reasons))
            if isinstance(error, _Changing):
                self.found.changing += 1
            else:
                self.found.broken += 1
            return
        (folder / REASONS).unlink(missing_ok=True)
        if start:
            self.folders.write_result(folder, start, self.page_root)
            self.found.starts.append(start)

    def _start_of(self, folder: Path) -> Start | None:
        """Return the run of a project in the night; None if it is disabled, or has run.

        Raises:
            Refused: the project cannot be used; it has the reasons.
        """
        if not SLUG.fullmatch(folder.name):
            raise Refused(["the folder's name: only a to z, 0 to 9 and -, at most 40 characters; rename it"])
        run_id = f"nightly__{self.night}__{folder.name}"
        if (folder / STUDY_FILE).is_file():
            return self._study_start(folder, run_id)
        values = read_nightly_options(self._checked_file(folder / PROJECT_FILE), PROJECT, self.connect)
        if not self._is_due(folder, run_id, values.pop("enabled", True)):
            return None
        results = {"out_directory": f"{RESULTS}/{folder.name}"}
        if values.get("sql_conn"):
            if "queryfile" in values:
                raise Refused([f"{PROJECT_FILE}: queryfile: the table comes from sql_conn; leave one of them out"])
            return Start(run_id, {**results, **values})
        name = values.pop("queryfile", "queries.csv")
        if Path(name).name != name or not (folder / name).is_file():
            raise Refused([f"{PROJECT_FILE}: queryfile: there is no such file; name a query table in the folder"])
        table = self._checked_file(folder / name)
        data = read_table(table, values.get("strict", False), Reading(**given(values)))
        return Start(run_id, {**results, **run_conf(values, data)})

    def _study_start(self, folder: Path, run_id: str) -> Start | None:
        """Return the run of a study, see `_start_of`. The query table is given in its file."""
        if (folder / PROJECT_FILE).exists():
            raise Refused([f"{PROJECT_FILE}: there is {STUDY_FILE} as well; keep one of them"])
        path = self._checked_file(folder / STUDY_FILE)
        root = settings.data_root().resolve()
        if root not in path.resolve().parents:
            raise Refused(
                [f"{STUDY_FILE}: a study is started by a file below the data root, and this folder is not there"]
            )
        if not self._is_due(folder, run_id, read_project(path).get("enabled", True)):
            return None
        return Start(run_id, {"project_file": path.resolve().relative_to(root).as_posix()}, STUDY)

    def _is_due(self, folder: Path, run_id: str, enabled: bool) -> bool:
        """Return whether a project is to run, and count it otherwise."""
        if not enabled:
            self.found.disabled += 1
            return False
        if self.runs.exists(run_id) or self.runs.is_running(_last_run(folder)):
            self.found.already_run += 1
            return False
        return True

    def _checked_file(self, path: Path) -> Path:
        """Return the path of a file of a project.

        Raises:
            Refused: it is a link.
            _Changing: it may still be written.
        """
        if path.is_symlink():
            raise Refused([f"{path.name}: is a link; put the file itself there"])
        if path not in self.complete:
            raise _Changing(
                [f"{path.name}: was still being changed, so the project is left out tonight; start the DAG again later"]
            )
        return path


def _last_run(folder: Path) -> str:
    """Return the id of the last run of a project; empty if there was none."""
    try:
        return str(json_of(read_given(folder / RESULT, follow=False))["run_id"])
    except (Unusable, KeyError, TypeError):
        return ""  # there is no file, or a person has changed it
