"""Folders below the data root that are somebody's already: which a job may write to, and which it may hand over from.

| folder              | whose                                              |
|---------------------|----------------------------------------------------|
| the data root       | everybody's: results go into a folder of their own |
| the spool           | the receiver's                                     |
| requests, queries   | query tables                                       |
| nightly             | the nightly runs'                                  |
| studies/<project>   | the study's; others may read what it has released  |

So it is with the folder of a study that lies elsewhere: the state root knows it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import PathRefused

#: Parent of the folders of studies, and what others may read there.
STUDIES, RELEASED = "studies", "released"

_TABLES = ("requests", "queries")


def reserved(path: Path, study: str = "", alone: bool = False) -> str:
    """Why a folder cannot be one for results: it is somebody's already. Empty where it is nobody's.

    Args:
        path: the folder.
        study: folder of the study that writes there, below the data root; empty: none does.
        alone: the data root may be anybody's as long as nothing of the above is there: of a command.
    """
    root, path = settings.data_root().resolve(), path.resolve()
    own = {settings.spool(): "the spool of the receiver", settings.nightly(): "the folder of the nightly runs"}
    own |= {root / table: "a folder of query tables" for table in _TABLES}
    if path == root and not (alone and not any(folder.exists() for folder in (*own, root / STUDIES))):
        return "is the data root, which is everybody's; give a folder of its own below it"
    own |= {settings.state_root(): "the state root"}
    for folder, whose in own.items():
        if _within(path, folder.resolve()):
            return f"lies in {whose}; give another folder"
    if _study_of(path, root) is not None and not _is_own(path, root, study):
        return f"lies in {STUDIES}/, where only the studies themselves write; give another folder"
    return ""


def refuse_reserved(path: Path, name: str, study: str = "", alone: bool = False) -> Path:
    """Make sure that a folder for results is nobody else's, see `reserved`. Returns it.

    Args:
        name: of the parameter.

    Raises:
        PathRefused: it is; says whose.
    """
    if reason := reserved(path, study, alone):
        raise PathRefused(f"{name} {reason}")
    return path


def refuse_unreleased(path: Path, name: str, study: str = "") -> Path:
    """Make sure that a folder that data is taken from is no study's, but for what that has released. Returns it.

    Nor is it the spool or the state root, where what is on its way to a study lies, and what was set apart.

    Args:
        path, name, study: see `refuse_reserved`.

    Raises:
        PathRefused: it is.
    """
    root = settings.data_root().resolve()
    path = path.resolve()
    if path == root or (_unreleased(path, root) and not _is_own(path, root, study)):
        raise PathRefused(f"{name} holds what a study has not released; give the folder {RELEASED} of the study")
    for folder in (settings.spool().resolve(), settings.state_root().resolve()):
        if _within(path, folder) or _within(folder, path):
            raise PathRefused(f"{name} is, holds or lies in the spool or the state root; give another folder")
    return path


def kept_as(folder: Path) -> str:
    """Name of the file in which a project keeps what is known of its study in a folder, below `studies` of its own."""
    return f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"


def is_released(path: Path) -> bool:
    """Whether a folder is that of what a study has released, or lies in it."""
    return (_in_study(path, settings.data_root().resolve()) or ())[:1] == (RELEASED,)


def _unreleased(path: Path, root: Path) -> bool:
    """Whether a folder is a study's, or lies in one, and what it holds was not released."""
    below = _in_study(path, root)
    return below is not None and below[:1] != (RELEASED,)


def _in_study(path: Path, root: Path) -> tuple[str, ...] | None:
    """The parts of a path below the folder of a study; None where it lies in none."""
    below = _study_of(path, root)
    if below is not None:
        return below[1:]
    projects = settings.state_root() / "projects"
    for folder in (path, *path.parents):
        if folder == root:
            break
        if any(projects.glob(f"*/{STUDIES}/{kept_as(folder)}")):
            return path.relative_to(folder).parts
    return None


def _within(path: Path, folder: Path) -> bool:
    path, folder = _folded(path), _folded(folder)
    return path == folder or folder in path.parents


def _folded(path: Path) -> Path:
    """A path without regard to case: to some file systems, `Studies` is `studies`."""
    return Path(str(path).casefold())


def _study_of(path: Path, root: Path) -> tuple[str, ...] | None:
    """The parts of a path below `studies`; None where it lies elsewhere."""
    studies = root / STUDIES
    return path.parts[len(studies.parts) :] if _within(path, studies) else None


def _is_own(path: Path, root: Path, study: str) -> bool:
    return bool(study) and _within(path, (root / study).resolve())
