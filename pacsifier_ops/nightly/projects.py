"""Standing projects: each that is enabled runs once a night.

Its output folder is the same every night, so that only what is new is fetched.
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
from pacsifier_ops.nightly.inbox import PAUSE, settled
from pacsifier_ops.nightly.options import PROJECT, Connect, conf_of, read_nightly, read_table
from pacsifier_ops.query.options import Refused
from pacsifier_ops.query.reading import Reading, given
from pacsifier_ops.study.project import read_project

#: The files of which one makes a folder a project: an extraction, or a study.
FILE, STUDY_FILE = "project.yaml", "study.yaml"
_SLUG = re.compile(r"[a-z0-9-]{1,40}")


@dataclass
class Standing:
    """What the projects came to.

    Attributes:
        starts: the runs to be started.
        disabled: how many are switched off.
        left_out: how many have their run of this night already, or one of a night before that goes on.
        broken: how many cannot be used; their reasons are beside them.
    """

    starts: list[Start] = field(default_factory=list)
    disabled: int = 0
    left_out: int = 0
    broken: int = 0


def survey(
    folders: Folders, night: str, connect: Connect, runs: Runs, page_root: str = "", pause: float = PAUSE
) -> Standing:
    """Find the projects that are to run in a night, and take their tables in. A broken one does not keep the others.

    Args:
        night: date of the night.
        page_root: see `Start.result`.
        pause: see `settled`.

    Raises:
        StorageError: a folder cannot be read or written.
    """
    standing = Standing()
    with storage_errors("the folder of the projects"):
        projects = [folder for folder in sorted(folders.projects.iterdir()) if _is_project(folder)]
        ready = settled([path for folder in projects for path in _files(folder)], pause)
    for folder in projects:
        try:
            _look_at(folder, folders, night, connect, runs, ready, standing, page_root)
        except OSError:  # it is somebody else's, who lets us not read or not write
            standing.broken += 1
    return standing


def _is_project(folder: Path) -> bool:
    try:
        files = folder / FILE, folder / STUDY_FILE
        return not folder.is_symlink() and folder.is_dir() and any(file.is_file() for file in files)
    except OSError:
        return True  # to be told as broken


def _files(folder: Path) -> list[Path]:
    """What a project's folder holds, without links, which may lead to what its owner may not read."""
    try:
        return [path for path in folder.iterdir() if not path.is_symlink()]
    except OSError:
        return []


def _look_at(
    folder: Path,
    folders: Folders,
    night: str,
    connect: Connect,
    runs: Runs,
    ready: Collection[Path],
    standing: Standing,
    page_root: str,
) -> None:
    try:
        start = _start_of(folder, night, connect, runs, ready, standing)
    except Refused as error:
        folders.tell(folder / REASONS, "".join(f"{reason}\n" for reason in error.reasons))
        standing.broken += 1
        return
    (folder / REASONS).unlink(missing_ok=True)
    if start:
        folders.tell_result(folder, start, page_root)
        standing.starts.append(start)


def _start_of(
    folder: Path, night: str, connect: Connect, runs: Runs, ready: Collection[Path], standing: Standing
) -> Start | None:
    """The run that a project is to have in a night; None where it is to have none.

    Raises:
        Refused: with the reasons.
    """
    if not _SLUG.fullmatch(folder.name):
        raise Refused(["the folder's name: only a to z, 0 to 9 and -, at most 40 of them; rename it"])
    run_id = f"nightly__{night}__{folder.name}"
    if (folder / STUDY_FILE).is_file():
        return _study_of(folder, run_id, runs, ready, standing)
    values = read_nightly(_whole(folder / FILE, ready), PROJECT, connect)
    if not values.pop("enabled", True):
        standing.disabled += 1
        return None
    if runs.exists(run_id) or runs.goes_on(_last_run(folder)):
        standing.left_out += 1
        return None
    name = values.pop("queryfile", "queries.csv")
    if Path(name).name != name or not (folder / name).is_file():
        raise Refused([f"{FILE}: queryfile: there is no such file; give the name of a query table in the folder"])
    data = read_table(_whole(folder / name, ready), values.get("strict", False), Reading(**given(values)))
    return Start(run_id, {"out_directory": f"{RESULTS}/{folder.name}", **conf_of(values, data)})


def _study_of(folder: Path, run_id: str, runs: Runs, ready: Collection[Path], standing: Standing) -> Start | None:
    """The same of a study; its file says where the query table is."""
    if (folder / FILE).exists():
        raise Refused([f"{FILE}: there is {STUDY_FILE} as well; keep one of them"])
    path = _whole(folder / STUDY_FILE, ready)
    root = settings.data_root().resolve()
    if root not in path.resolve().parents:
        raise Refused([f"{STUDY_FILE}: a study is started by a file below the data root, and this folder is not there"])
    if not read_project(path).get("enabled", True):
        standing.disabled += 1
        return None
    if runs.exists(run_id) or runs.goes_on(_last_run(folder)):
        standing.left_out += 1
        return None
    return Start(run_id, {"project_file": path.resolve().relative_to(root).as_posix()}, STUDY)


def _whole(path: Path, ready: Collection[Path]) -> Path:
    if path.is_symlink():
        raise Refused([f"{path.name}: is a link; put the file itself there"])
    if path not in ready:
        raise Refused([f"{path.name}: changed in the last two minutes and may not be whole; start the DAG again later"])
    return path


def _last_run(folder: Path) -> str:
    """Id of the run that was started last; empty where there is none."""
    try:
        return str(json_of(read_given(folder / RESULT, follow=False))["run_id"])
    except (Unusable, KeyError, TypeError):
        return ""  # there was none, or somebody has written into the file
