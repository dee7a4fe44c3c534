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
from pacsifier_ops.nightly.inbox import PAUSE, complete_files
from pacsifier_ops.nightly.options import PROJECT, Connect, read_nightly_options, read_table, run_conf
from pacsifier_ops.query.options import Refused
from pacsifier_ops.query.reading import Reading, given
from pacsifier_ops.study.project import read_project

#: A folder with one of these files is a project: an extraction, or a study.
PROJECT_FILE, STUDY_FILE = "project.yaml", "study.yaml"
_SLUG = re.compile(r"[a-z0-9-]{1,40}")


@dataclass
class ProjectRuns:
    """The projects of a night.

    Attributes:
        starts: the runs to be started.
        disabled: number of projects that are switched off.
        already_run: number of projects that have run this night, or whose last run has not ended.
        broken: number of projects that cannot be used; the reasons are in their folders.
    """

    starts: list[Start] = field(default_factory=list)
    disabled: int = 0
    already_run: int = 0
    broken: int = 0


def check_projects(
    folders: Folders, night: str, connect: Connect, runs: Runs, page_root: str = "", pause: float = PAUSE
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

    Raises:
        StorageError: a folder cannot be read or written.
    """
    found = ProjectRuns()
    with storage_errors("the folder of the projects"):
        projects = [folder for folder in sorted(folders.projects.iterdir()) if _is_project(folder)]
        ready = complete_files([path for folder in projects for path in _files(folder)], pause)
    for folder in projects:
        try:
            _check_project(folder, folders, night, connect, runs, ready, found, page_root)
        except OSError:  # the folder belongs to another user, and Airflow's user may not read or write it
            found.broken += 1
    return found


def _is_project(folder: Path) -> bool:
    try:
        files = folder / PROJECT_FILE, folder / STUDY_FILE
        return not folder.is_symlink() and folder.is_dir() and any(file.is_file() for file in files)
    except OSError:
        return True  # counts as a broken project


def _files(folder: Path) -> list[Path]:
    """Return the files of a project without links: a link may point to a file that its owner may not read."""
    try:
        return [path for path in folder.iterdir() if not path.is_symlink()]
    except OSError:
        return []


def _check_project(
    folder: Path,
    folders: Folders,
    night: str,
    connect: Connect,
    runs: Runs,
    ready: Collection[Path],
    found: ProjectRuns,
    page_root: str,
) -> None:
    try:
        start = _start_of(folder, night, connect, runs, ready, found)
    except Refused as error:
        folders.write_answer(folder / REASONS, "".join(f"{reason}\n" for reason in error.reasons))
        found.broken += 1
        return
    (folder / REASONS).unlink(missing_ok=True)
    if start:
        folders.write_result(folder, start, page_root)
        found.starts.append(start)


def _start_of(
    folder: Path, night: str, connect: Connect, runs: Runs, ready: Collection[Path], found: ProjectRuns
) -> Start | None:
    """Return the run of a project in a night; None if it is disabled, or has run.

    Raises:
        Refused: the project cannot be used; it has the reasons.
    """
    if not _SLUG.fullmatch(folder.name):
        raise Refused(["the folder's name: only a to z, 0 to 9 and -, at most 40 characters; rename it"])
    run_id = f"nightly__{night}__{folder.name}"
    if (folder / STUDY_FILE).is_file():
        return _study_start(folder, run_id, runs, ready, found)
    values = read_nightly_options(_checked_file(folder / PROJECT_FILE, ready), PROJECT, connect)
    if not values.pop("enabled", True):
        found.disabled += 1
        return None
    if runs.exists(run_id) or runs.is_running(_last_run(folder)):
        found.already_run += 1
        return None
    name = values.pop("queryfile", "queries.csv")
    if Path(name).name != name or not (folder / name).is_file():
        raise Refused([f"{PROJECT_FILE}: queryfile: there is no such file; name a query table in the folder"])
    data = read_table(_checked_file(folder / name, ready), values.get("strict", False), Reading(**given(values)))
    return Start(run_id, {"out_directory": f"{RESULTS}/{folder.name}", **run_conf(values, data)})


def _study_start(folder: Path, run_id: str, runs: Runs, ready: Collection[Path], found: ProjectRuns) -> Start | None:
    """Return the run of a study, see `_start_of`. The query table is given in its file."""
    if (folder / PROJECT_FILE).exists():
        raise Refused([f"{PROJECT_FILE}: there is {STUDY_FILE} as well; keep one of them"])
    path = _checked_file(folder / STUDY_FILE, ready)
    root = settings.data_root().resolve()
    if root not in path.resolve().parents:
        raise Refused([f"{STUDY_FILE}: a study is started by a file below the data root, and this folder is not there"])
    if not read_project(path).get("enabled", True):
        found.disabled += 1
        return None
    if runs.exists(run_id) or runs.is_running(_last_run(folder)):
        found.already_run += 1
        return None
    return Start(run_id, {"project_file": path.resolve().relative_to(root).as_posix()}, STUDY)


def _checked_file(path: Path, ready: Collection[Path]) -> Path:
    """Return the path of a file of a project.

    Raises:
        Refused: it is a link, or may still be written.
    """
    if path.is_symlink():
        raise Refused([f"{path.name}: is a link; put the file itself there"])
    if path not in ready:
        raise Refused([f"{path.name}: changed in the last two minutes, may be incomplete; start the DAG again later"])
    return path


def _last_run(folder: Path) -> str:
    """Return the id of the last run of a project; empty if there was none."""
    try:
        return str(json_of(read_given(folder / RESULT, follow=False))["run_id"])
    except (Unusable, KeyError, TypeError):
        return ""  # there is no file, or a person has changed it
